"""The engine on a GPU: training speed of B0, and how many trials an hour one GPU holds."""

from collections.abc import Callable

import numpy as np
import torch

from experiments.engine_loops import Loop, b0, our_loop, timm_b0, tuned_loop
from experiments.engine_trials import endings
from experiments.measuring import Row, in_turn, number_row, ratio_row
from nas.data.dataset import ImageData, Split
from nas.training.proxy import ProxyTraining
from nas.trials.trial import Proposal
from nas.workers import Workers

_BATCH, _SIDE, _IMAGES = 256, 224, 1024
_CLASSES = 1000
_SHARING = (1, 2, 4, 8)
"""Trials at a time on one GPU."""


def throughput(steps: int, rounds: int) -> list[Row]:
    """B0 at 224 px, batch 256: ours against timm with channels-last, bf16, all data on the GPU,
    plain and compiled."""
    device = torch.device("cuda")
    split = noise(_IMAGES, _SIDE, _CLASSES)
    made: dict[str, Callable[[], Loop]] = {
        "ours": lambda: our_loop(b0(1, _SIDE, _CLASSES), split, _BATCH, device),
        "timm": lambda: tuned_loop(timm_b0(1, _CLASSES), split, _BATCH, device, amp=True),
        "timm, compiled": lambda: tuned_loop(
            timm_b0(1, _CLASSES), split, _BATCH, device, amp=True, compiled=True
        ),
    }
    loops = {name: make() for name, make in made.items()}
    runs = {name: (lambda loop=loop: loop(steps)) for name, loop in loops.items()}
    seconds = in_turn(runs, rounds, warm=2)
    images = steps * _BATCH
    how = f"B0 at {_SIDE} px, batch {_BATCH}, bf16, {rounds} x {steps} steps in turn"
    rows = [
        number_row(name, images / values, unit=" images/s", detail=how)
        for name, values in seconds.items()
    ]
    for name in ("timm", "timm, compiled"):
        target = ">= 1.0" if name == "timm" else ""
        rows.append(
            ratio_row(
                f"ours over {name}", seconds[name], seconds["ours"], target=target, detail=how
            )
        )
    return rows


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
        pauses = np.diff(endings(training, proposals, workers))[together:]
        rate = 3600 / pauses.mean()
        rows.append(
            Row(
                what=f"trials an hour, {together} on the GPU",
                value=rate,
                low=rate,
                high=rate,
                detail=f"B0 x 0.5 at {resolution} px, {epochs} epochs of 4,500 images, "
                f"n = {len(pauses)}",
            )
        )
    return rows


def noise(count: int, side: int, num_classes: int) -> Split:
    """Images that nothing can be learnt from; training costs what it costs on others."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Split(images, rng.integers(0, num_classes, count))
