"""A short probe: which engine trains fastest on this device.

A few real steps of a typical network on the run's images, by every engine in turn, so that a burst
of other work on the machine meets all; `nas.training.engine.choose` has the rule. An engine that
falls far behind gets no further turn. Batch and threads are not probed: the batch is part of what
a network learns, and one thread a trial is a rule (`nas.workers.Workers.threads`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from nas.data.dataset import Split
from nas.training.engine import Engine, Timings
from nas.training.parts import definite_precision, give_memory_back, has_bf16
from nas.training.recipe import MemoryFormat, Precision, Recipe
from nas.training.trainer import Trainer, short_training
from search_spaces.builder import AnyNetwork

SECONDS = 5.0
"""After so long no further turn begins; half of it is for the first, for which the batch is cut."""

_TURNS = 15
_LEAST = 16
"""Images that the batch is not cut below: with fewer, other things count than with a whole one."""
_BEHIND = 1.3
"""How many times as long as the fastest an engine may take to get another turn."""
_FIRST_CALL = 2.0
"""Seconds more that an engine is waited for, since libraries prepare themselves at the first."""


def engines(
    device: torch.device,
    precision: Precision = "auto",
    memory_format: MemoryFormat | None = None,
) -> list[Engine]:
    """The engines that may suit `device`, its default first.

    Args:
        device: Where to train.
        precision: None but this one; `auto`: fp32 and what the device computes natively.
        memory_format: None but this one.

    Raises:
        TrainingError: The precision is not to be had on `device`.
    """
    default = definite_precision(precision, device)
    native = native_precisions(device) if precision == "auto" else []
    precisions: list[Precision] = [default, *(p for p in native if p != default)]
    formats: Sequence[MemoryFormat] = ("channels-last", "contiguous")
    if memory_format is not None:
        formats = (memory_format,)
    return [Engine(precision=p, memory_format=f) for p in precisions for f in formats]


def native_precisions(device: torch.device) -> list[Precision]:
    """Those that `device` has instructions for, fp32 first: emulated ones are slow."""
    if device.type == "cuda":
        return ["fp32", "bf16"] if has_bf16() else ["fp32", "fp16"]
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch has none
    return ["fp32", "bf16"] if any(capabilities.get(name) for name in _BF16) else ["fp32"]


_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""What x86 and Arm call their instructions."""


def measure(
    architecture: AnyNetwork,
    train: Split,
    recipe: Recipe,
    engines: Sequence[Engine],
    *,
    device: torch.device,
) -> list[Timings]:
    """How fast the `engines` are, the first being the default.

    Args:
        architecture: A typical network of the run.
        train: The run's images.
        recipe: A trial's; gives the batch, as far as `SECONDS` allow.
        engines: To compare.
        device: Here.
    """
    runs = [_Run(engine, architecture, train, recipe, device) for engine in engines]
    batch = recipe.batch(len(train))
    runs[0].start(min(_LEAST, batch))  # a whole batch may take minutes
    seconds = runs[0].turn(math.inf)
    if seconds < math.inf:
        turn = 2 * (1 + 1.5 * (len(runs) - 1)) * seconds  # as if the others were slower
        batch = max(min(_LEAST, batch), min(batch, int(0.5 * SECONDS / turn)))
    for run in runs:
        run.start(batch)
    patience = 2 * 3 * seconds * batch + _FIRST_CALL
    begun, default, others = time.perf_counter(), runs[0], runs[1:]
    for _ in range(_TURNS):
        times = [run.turn(patience) for run in (default, *others)]
        longest = _BEHIND * min(times)
        others = [run for run, own in zip(others, times[1:], strict=True) if own < longest]
        for run in set(runs) - {default, *others}:
            run.stop()
        if not others or time.perf_counter() - begun > SECONDS:
            break
    for run in runs:
        run.stop()
    give_memory_back(device)
    return [run.timings for run in runs]


class _Run:
    """The training of one engine, turn by turn."""

    def __init__(
        self,
        engine: Engine,
        architecture: AnyNetwork,
        train: Split,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self._engine, self._architecture, self._train = engine, architecture, train
        # At a trial's rate, with no warm-up, a network without norms diverges: no engine's fault.
        recipe = replace(engine.applied(recipe), learning_rate=1e-9)
        self._recipe, self._device = recipe, device
        self._trainer: Trainer | None = None
        self._times: list[float] = []
        self._has_failed = False

    @property
    def timings(self) -> Timings:
        """What was seen of it."""
        return Timings(engine=self._engine, seconds=() if self._has_failed else tuple(self._times))

    def start(self, batch: int) -> None:
        """Begin anew, with so many images a step."""
        self._trainer, self._times = None, []
        self._recipe = replace(self._recipe, batch_size=batch)

    def stop(self) -> None:
        """Free its memory."""
        self._trainer = None

    def turn(self, patience: float) -> float:
        """Seconds an image, from a step after one to warm up; infinity if it fails, or is not
        waited for."""
        if self._has_failed:
            return math.inf
        try:
            if self._trainer is None:
                self._trainer = short_training(
                    self._architecture, self._train, self._recipe, device=self._device
                )
            seconds = self._trainer.seconds_per_image(1, patience=patience)
        except Exception:  # memory; or a user's network, in a precision that it was not written for
            self._has_failed, self._trainer = True, None
            return math.inf
        if seconds < math.inf:
            self._times.append(seconds)
        return seconds
