"""How fast a training goes here, and with how many CPU threads."""

import math
import time
from dataclasses import dataclass

import torch

from nas.cli import plural
from nas.cores import num_cores
from nas.data.dataset import Split
from nas.training.recipe import Recipe
from nas.training.trainer import seconds_per_image
from search_spaces.builder import AnyNetwork

WORTH = 1.25
"""How many times the speed of one thread all cores must give to be used.

A small network gains a quarter from a second core. With both it is half as fast as with one thread
when another process wants a core, and it was 15 times slower and more beside another training (5 M
multiply-adds at 32 px, two cores, PyTorch 2.15; experiments/LOG.md).
"""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a training step takes."""

    threads: int
    """CPU threads to train with."""
    measured: dict[int, float]
    """Seconds per image, augmentation included, by number of threads; infinity: not waited for."""

    @property
    def seconds_per_image(self) -> float:
        return self.measured[self.threads]

    def describe(self) -> str:
        """For people: `1 thread (2: 1.1 times as fast)`."""
        words = plural(self.threads, "thread")
        for threads, seconds in self.measured.items():
            if threads != self.threads:
                speed = self.seconds_per_image / seconds
                slow = speed < 0.5  # or it was not waited for
                words += f" ({threads}: {'slower' if slow else f'{speed:.2g} times as fast'})"
        return words


def measure_pace(
    architecture: AnyNetwork,
    train: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    workers: int = 0,
    threads: int | None = None,
) -> Pace:
    """Time a few training steps; torch is left with the number of threads that was chosen.

    Args:
        architecture: To train.
        train: On these images.
        recipe: In this way.
        device: Here.
        workers: Loader processes.
        threads: The number of CPU threads; None: one or all cores, whichever suits, on a CPU, and
            PyTorch's choice with a GPU.
    """
    if threads is not None:
        candidates = [threads]
    elif device.type == "cpu":
        candidates = sorted({1, num_cores()})
    else:
        candidates = [torch.get_num_threads()]
    measured: dict[int, float] = {}
    patience = math.inf
    for candidate in candidates:
        torch.set_num_threads(candidate)
        start = time.perf_counter()
        measured[candidate] = seconds_per_image(
            architecture, train, recipe, device=device, workers=workers, patience=patience
        )
        patience = time.perf_counter() - start  # on busy cores more threads can take for ever
    chosen = choose_threads(measured)
    torch.set_num_threads(chosen)
    return Pace(threads=chosen, measured=measured)


def choose_threads(measured: dict[int, float]) -> int:
    """The fewest threads, unless more are `WORTH` it.

    Args:
        measured: Seconds by number of threads.
    """
    fewest, fastest = min(measured), min(measured, key=lambda threads: measured[threads])
    return fastest if measured[fewest] >= WORTH * measured[fastest] else fewest
