"""How training steps are computed: precision and memory format, and why these.

They change speed, and results by rounding alone, yet enough for a rank: all trials of a run folder
have the same, which its manifest records. The batch is no part of it and is never chosen by speed,
for it changes what a network learns in an epoch; only a lack of memory halves it. Loads no torch.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nas.training.recipe import MemoryFormat, Precision, Recipe

WORTH = 1.05
"""How many times the speed of the default another engine must have to take its place: the choice
shall not turn with noise."""
WON = 0.75
"""Share of the turns that it must have been faster in, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a training step is computed; by default as it always was."""

    precision: Precision = "auto"
    memory_format: MemoryFormat = "channels-last"

    def __str__(self) -> str:
        return f"{self.memory_format}, {self.precision}"

    def applied(self, recipe: Recipe) -> Recipe:
        """`recipe`, computed so."""
        return replace(recipe, precision=self.precision, memory_format=self.memory_format)


DEFAULT = Engine()
"""What `auto` precision is, the device says."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What an engine was measured to do."""

    engine: Engine
    images_per_second: float | None
    """In training; None: it ran out of memory, failed, or was not waited for."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine of a run, as its folder records it."""

    engine: Engine = DEFAULT
    source: Literal["default", "flags", "probe"] = "default"
    """Who chose it."""
    speeds: tuple[Speed, ...] = ()
    """Of every engine that was tried, the default first."""

    def describe(self) -> str:
        """For people: `channels-last, fp32 (probe: 2,035 images/s; contiguous, fp32 655)`."""
        if self.source != "probe":
            words = {"default": "not probed", "flags": "as asked for"}
            return f"{self.engine} ({words[self.source]})"
        speeds = {speed.engine: _number(speed) for speed in self.speeds}
        own = speeds.pop(self.engine, "-")
        others = "".join(f"; {engine} {speed}" for engine, speed in speeds.items())
        return f"{self.engine} (probe: {own} images/s{others})"


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What a probe saw of an engine."""

    engine: Engine
    seconds: tuple[float, ...] = ()
    """An image, turn by turn; none if the engine failed."""

    @property
    def speed(self) -> Speed:
        """The median turn's."""
        if not self.seconds:
            return Speed(engine=self.engine, images_per_second=None)
        return Speed(
            engine=self.engine,
            images_per_second=float(f"{1 / statistics.median(self.seconds):.4g}"),
        )

    def beats(self, default: "Timings") -> bool:
        """Whether it is `WORTH` leaving the default that took its turns beside it.

        Where other work makes turns uneven, a median alone may be ahead by luck.
        """
        if not (self.seconds and default.seconds):
            return bool(self.seconds)
        ahead = statistics.median(default.seconds) >= WORTH * statistics.median(self.seconds)
        if not ahead or len(self.seconds) != len(default.seconds):  # it fell behind
            return False
        won = sum(own < other for own, other in zip(self.seconds, default.seconds, strict=True))
        return won >= WON * len(self.seconds)


def choose(timings: Sequence[Timings]) -> Choice:
    """The fastest engine of those that beat the default, which comes first; else that."""
    default, *others = timings
    better = [other for other in others if other.beats(default)]
    best = min(better, key=lambda t: statistics.median(t.seconds), default=default)
    return Choice(engine=best.engine, source="probe", speeds=tuple(t.speed for t in timings))


def _number(speed: Speed) -> str:
    per_second = speed.images_per_second
    if per_second is None:
        return "-"
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
