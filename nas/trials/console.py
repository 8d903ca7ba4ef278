"""What a run prints: one line a trial with the best so far and the time left."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from nas.cli import format_duration
from nas.costs.objective import Objective
from nas.trials.front import dominates
from nas.trials.study import Study
from nas.trials.trial import Result
from nas.untrusted import printable


class TrialLines:
    """Prints a line for every trial of a study that ends.

    Args:
        objective: Names the value, and formats the cost.
        describe: What a trial is called, from its labels; empty: nothing but its number.
    """

    def __init__(
        self,
        objective: Objective,
        describe: Callable[[Mapping[str, Any]], str] = lambda labels: "",
    ) -> None:
        self._objective, self._describe = objective, describe
        self._start: float | None = None
        self._front: list[tuple[float, ...]] = []
        self._finished = self._failed = self._total = 0
        self.measured = 0
        """Results that were measured, and not reused."""

    def follow(self, study: Study) -> None:
        """Take over where `study` stands."""
        self._total = study.num_trials - study.num_finished
        self._front = [result.values for result in study.front if result.values is not None]
        self._failed = sum(r.values is None and not r.pruned for r in study.results)

    def __call__(self, result: Result) -> None:
        self._finished += 1
        if not result.outcome.reused_from:  # what is reused tells nothing of pace
            self.measured += 1
            if self._start is None:  # what came before, such as the start of workers, does neither
                self._start = time.monotonic() - result.outcome.seconds
        number = f"#{result.job.number}".rjust(5)
        if name := self._describe(result.job.proposal.labels):
            number += f"  {name}"
        if result.values is None and not result.pruned:
            self._failed += 1
            words = printable(result.outcome.last_words, 100)
            print(
                f"{number}  FAILED {result.outcome.reason}: {words} ({self._failed} so far)",
                flush=True,
            )
            return
        print("  ".join([number, *self._parts(result)]), flush=True)

    def _parts(self, result: Result) -> list[str]:
        outcome, epochs = result.outcome, result.job.proposal.epochs
        parts = [f"acc {outcome.accuracy:.3f}", f"{self._objective.metric.format(result.cost):>7}"]
        if result.values is None:
            parts.append(f"stopped at epoch {outcome.epochs} of {epochs}")
        elif len(result.values) == 1 and self._objective.names != ("accuracy",):
            parts.append(f"{self._objective.names[0]} {result.values[0]:.4f}")
        note = " at half the batch" if outcome.half_batch else ""
        note += f" (= {outcome.reused_from})" if outcome.reused_from else ""
        parts.append(f"{outcome.seconds:.1f} s{note}")
        elapsed = 0.0 if self._start is None else time.monotonic() - self._start
        pace = elapsed / max(1, self.measured)
        parts.append(f"eta {format_duration(pace * (self._total - self._finished))}")
        if result.values is not None and self._advances(result.values):
            parts.append("* best" if len(result.values) == 1 else "* front")
        return parts

    def _advances(self, values: tuple[float, ...]) -> bool:
        """Whether no trial before was as good in everything; if so, it is remembered."""
        directions = self._objective.directions
        if any(old == values or dominates(old, values, directions) for old in self._front):
            return False
        kept = (old for old in self._front if not dominates(values, old, directions))
        self._front = [*kept, values]
        return True
