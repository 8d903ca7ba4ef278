"""The training loops of `experiments.engine_loops`, each in a process of its own.

In one process they would share the allocator: ours tells it to keep what is freed, which a user of
timm's train.py has not done. One trains at a time; the others wait.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from experiments.engine_loops import Loop, b0, our_loop, timm_b0, timm_loop, tuned_loop
from experiments.measuring import Clock, seconds_of, timings_in_turn
from nas.cores import limit_threads
from nas.data.dataset import load_for_search

LoopName = Literal["hand-tuned", "ours", "timm's defaults"]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What the loops train, and with what."""

    data: Path
    """A folder with train/ of class folders."""
    num_classes: int
    """That it has."""
    max_images: int
    """Of the folder, for the loops in memory."""
    width: float
    """Of EfficientNet-B0."""
    resolution: int
    """Side of the images in px."""
    batch: int
    """Images a step."""
    steps: int
    """Of a timing."""
    threads: int
    """CPU threads of each loop."""
    jobs: int
    """Loader processes of timm's defaults."""
    clock: Clock
    """`cpu` is the loop's process's own time."""


def seconds_apart(contest: Contest, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of the loops' steps, `(rounds,)` each, taken in turn; each process takes its own."""
    names: tuple[LoopName, ...] = get_args(LoopName)
    with ExitStack() as stack:
        timings: dict[str, Callable[[], float]] = {}
        for name in names:
            pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
            timings[name] = partial(_ask, pool, contest, name)
        return timings_in_turn(timings, rounds)


def _ask(pool: ProcessPoolExecutor, contest: Contest, name: LoopName) -> float:
    return pool.submit(_time, contest, name).result()


def _time(contest: Contest, name: LoopName) -> float:
    loop = _loop(contest, name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        return seconds_of(partial(loop, contest.steps), contest.clock)


@cache
def _loop(contest: Contest, name: LoopName) -> Loop:
    """The loop of this process, made at its first timing, the one that does not count."""
    limit_threads(contest.threads)
    device, batch, side = torch.device("cpu"), contest.batch, contest.resolution
    if name == "timm's defaults":
        network = timm_b0(contest.width, contest.num_classes)
        folder = contest.data / "train"
        return timm_loop(network, folder, side, batch, device, contest.jobs)
    train = load_for_search(str(contest.data), size=side, limit=contest.max_images).train
    if name == "ours":
        return our_loop(b0(contest.width, side, contest.num_classes), train, batch, device)
    return tuned_loop(timm_b0(contest.width, contest.num_classes), train, batch, device)
