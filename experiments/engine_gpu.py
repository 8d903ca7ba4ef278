"""The engine on a GPU: training speed of B0, and how many trials an hour one GPU holds."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from experiments.engine_loops import Loop, b0, our_loop, timm_b0, tuned_loop
from experiments.engine_trials import endings, seconds_a_trial
from experiments.measuring import Row, in_turn, number_row, ratio_row, seconds_of
from nas.data.dataset import ImageData, Split
from nas.training.parts import definite_precision
from nas.training.proxy import ProxyTraining
from nas.trials.trial import Proposal
from nas.workers import Workers

_GPU = torch.device("cuda")
_BATCH, _SIDE = 256, 224
_CLASSES = 1000
_SHARING = (1, 2, 4, 8)
"""Trials at a time on one GPU."""


def throughput(steps: int, rounds: int) -> Iterator[Row]:
    """B0 at 224 px, batch 256: ours against timm with channels-last, bf16, all data on the GPU,
    plain and compiled; then both with `torch.backends.cudnn.benchmark`, as timm's train.py has it.

    A process each, for cuDNN goes on with the algorithms that a process first took.
    """
    for benchmark in (False, True):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield from pool.submit(compare, steps, rounds, benchmark).result()


def compare(
    steps: int,
    rounds: int,
    benchmark: bool,
    *,
    device: torch.device = _GPU,
    batch: int = _BATCH,
    side: int = _SIDE,
) -> list[Row]:
    """Ours and timm's loop in turn, in this process.

    Args:
        steps: Of a timing.
        rounds: Timings of each.
        benchmark: Whether cuDNN measures which algorithms are fastest.
        device: Where.
        batch: Images a step.
        side: Of the images, in px.
    """
    torch.backends.cudnn.benchmark = benchmark
    loops: dict[str, Loop] = {}
    first: dict[str, float] = {}
    for name, make in _loops(device, batch, side).items():
        is_compiled = name.endswith("compiled")
        if is_compiled and benchmark:
            continue
        try:
            loop = make()
            first[name] = seconds_of(partial(loop, steps), "wall")
        except Exception as error:
            if not is_compiled:
                raise
            print(f"{name}: failed, for want of a compiler perhaps: {error}", flush=True)
            continue
        loops[name] = loop
    seconds = in_turn({name: partial(loop, steps) for name, loop in loops.items()}, rounds)
    how = (
        f"B0 at {side} px, batch {batch}, {_precision(device)}, "
        f"{'cudnn.benchmark' if benchmark else 'no cudnn.benchmark'}, {rounds} x {steps} steps in "
        "turn"
    )
    return [*_speeds(seconds, steps * batch, how), *_beginnings(seconds, first, how)]


def _loops(device: torch.device, batch: int, side: int) -> dict[str, Callable[[], Loop]]:
    split = noise(4 * batch, side, _CLASSES)

    def timm(compiled: bool) -> Loop:
        network = timm_b0(1, _CLASSES)
        return tuned_loop(network, split, batch, device, amp=True, compiled=compiled)

    return {
        "ours": lambda: our_loop(b0(1, side, _CLASSES), split, batch, device),
        "timm": lambda: timm(False),
        "timm, compiled": lambda: timm(True),
    }


def _precision(device: torch.device) -> str:
    """Of ours, and the bf16 of timm's."""
    own = definite_precision("auto", device)
    return own if own == "bf16" else f"ours {own}, timm bf16"


def _speeds(seconds: dict[str, np.ndarray], images: int, how: str) -> Iterator[Row]:
    for name, values in seconds.items():
        yield number_row(name, images / values, unit=" images/s", detail=how)
    for name, values in seconds.items():
        if name != "ours":
            target = ">= 1.0" if name == "timm" else ""
            yield ratio_row(f"ours over {name}", values, seconds["ours"], target=target, detail=how)


def _beginnings(seconds: dict[str, np.ndarray], first: dict[str, float], how: str) -> Iterator[Row]:
    """What the first steps of a network cost more than later ones: libraries, choice, compiling."""
    for name, values in seconds.items():
        extra = first[name] - np.median(values, keepdims=True)
        yield number_row(f"{name}, first steps", extra, unit=" s more", detail=how)


def trials_per_hour(resolution: int, epochs: int, trials: int) -> list[Row]:
    """A proxy trial on 5,000 images of noise, so many at a time on one GPU."""
    data = ImageData(
        name="noise",
        classes=tuple(map(str, range(10))),
        fingerprint="0" * 12,
        native_size=resolution,
        train=noise(4500, resolution, 10),
        search_validation=noise(500, resolution, 10),
    )
    training = ProxyTraining(data=data, flip=True, device="cuda")
    network = b0(0.5, resolution, 10)
    rows = []
    for together in _SHARING:
        workers = Workers(count=together, gpus_per_trial=1 / together)
        proposals = [
            Proposal(architecture=network, epochs=epochs, seed=seed)
            for seed in range(trials * together)
        ]
        rate = 3600 / seconds_a_trial(endings(training, proposals, workers), together)
        rows.append(
            Row(
                what=f"trials an hour, {together} on the GPU",
                value=rate,
                low=rate,
                high=rate,
                detail=f"B0 x 0.5 at {resolution} px, {epochs} epochs of 4,500 images, "
                f"n = {len(proposals) - together}",
            )
        )
    return rows


def noise(count: int, side: int, num_classes: int) -> Split:
    """Images that nothing can be learnt from; training costs what it costs on others."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Split(images, rng.integers(0, num_classes, count))
