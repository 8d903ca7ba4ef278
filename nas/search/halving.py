"""Successive halving on epochs, asynchronous (ASHA, Li et al. 2020, arXiv:1810.05934).

Trials report at rungs, 1, 3, 9, ... epochs, and go on only if they are in the best third of what
has reached the rung so far. The rule is Optuna's `SuccessiveHalvingPruner`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler

from nas.cli import UserError
from nas.search.objective import Direction


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
                f"Halving first compares after {self.min_epochs} epochs, which is the end of "
                f"trials of {epochs}. Train longer (--epochs), or do without halving."
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
        self._halving = halving
        self._direction: Direction = direction
        self._curves: dict[int, dict[int, float]] = {}
        self._start()

    def report(self, slot: int, epoch: int, value: float) -> bool:
        """Note the value of a slot at a rung before its last; whether it is to stop there."""
        self._curves.setdefault(slot, {})[epoch] = value
        if slot not in self._trials:
            self._trials[slot] = self._study.ask()
        self._trials[slot].report(value, epoch)
        return self._trials[slot].should_prune()

    def restore(self, slot: int, curve: Mapping[int, float]) -> None:
        """Note what a slot reported to an earlier process."""
        for epoch in sorted(curve):
            self.report(slot, epoch, curve[epoch])

    def forget(self, slot: int) -> None:
        """Take back what a slot reported: it failed, or is measured anew."""
        if self._curves.pop(slot, None) is None:
            return
        curves, self._curves = self._curves, {}
        self._start()
        for other, curve in curves.items():
            self.restore(other, curve)

    def curve(self, slot: int) -> Mapping[int, float]:
        """What a slot reported: values by epoch."""
        return dict(self._curves.get(slot, {}))

    def _start(self) -> None:
        pruner = SuccessiveHalvingPruner(
            min_resource=self._halving.min_epochs, reduction_factor=self._halving.reduction
        )
        self._study = optuna.create_study(
            direction=self._direction, sampler=RandomSampler(seed=0), pruner=pruner
        )
        self._trials: dict[int, optuna.Trial] = {}
