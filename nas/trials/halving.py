"""Successive halving on epochs, asynchronous (ASHA, Li et al. 2020, arXiv:1810.05934).

Trials report at rungs, 1, 3, 9, ... epochs, and go on only if they are in the best third of what
has reached the rung so far. The rule is that of Optuna's `SuccessiveHalvingPruner`, which looks
through all trials at every report, and cannot take one back.
"""

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from nas.cli import UserError, plural
from nas.costs.objective import Direction


@dataclass(frozen=True, kw_only=True)
class Halving:
    """When trials are compared, and how many of them go on."""

    min_epochs: int = 1
    """Epochs of the first rung."""
    reduction: int = 3
    """One of so many goes on (the paper's eta); the next rung has so many times the epochs."""

    def __post_init__(self) -> None:
        if self.min_epochs < 1:
            raise UserError(
                f"Halving compares trials after 1 epoch or more, but got {self.min_epochs}."
            )
        if self.reduction < 2:
            raise UserError(
                f"Halving keeps one trial of 2 or more at every rung, but got {self.reduction}."
            )

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Epochs at which a trial of `epochs` reports; the last is its end.

        Raises:
            UserError: There is no rung before the end.
        """
        if self.min_epochs >= epochs:
            raise UserError(
                f"Halving first compares after {plural(self.min_epochs, 'epoch')}, which is the "
                f"end of trials of {epochs}. Train longer (--epochs), or do without halving."
            )
        rungs, rung = [], self.min_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction
        return (*rungs, epochs)

    def describe(self, epochs: int) -> str:
        """For people: what becomes of trials of `epochs`."""
        stops = ", ".join(map(str, self.rungs(epochs)[:-1]))
        return f"stopped after {stops} of {epochs} epochs unless in the best 1 of {self.reduction}"


class Race:
    """Who goes on. A slot takes part with what it reported; how it ended makes no difference."""

    def __init__(self, halving: Halving, direction: Direction) -> None:
        """`direction` is that of the reported values."""
        self._reduction = halving.reduction
        self._sign = 1 if direction == "maximize" else -1
        self._curves: dict[int, dict[int, float]] = {}
        self._rungs: defaultdict[int, list[float]] = defaultdict(list)
        """By epoch, the values that slots reported there, more being better, rising."""

    def report(self, slot: int, epoch: int, value: float) -> bool:
        """Note the value of a slot at a rung before its last; whether it is to stop there."""
        self._curves.setdefault(slot, {})[epoch] = value
        if math.isnan(value):
            return True
        rung, score = self._rungs[epoch], self._sign * value
        insort(rung, score)
        # Of fewer than `reduction` the best goes on: nobody waits for the others.
        return score < rung[-max(1, len(rung) // self._reduction)]

    def restore(self, slot: int, curve: Mapping[int, float]) -> None:
        """Note what a slot reported to an earlier process."""
        for epoch in sorted(curve):
            self.report(slot, epoch, curve[epoch])

    def forget(self, slot: int) -> None:
        """Take back what a slot reported: it failed, or is measured anew."""
        for epoch, value in self._curves.pop(slot, {}).items():
            if not math.isnan(value):
                rung = self._rungs[epoch]
                del rung[bisect_left(rung, self._sign * value)]

    def curve(self, slot: int) -> Mapping[int, float]:
        """What a slot reported: values by epoch."""
        return dict(self._curves.get(slot, {}))
