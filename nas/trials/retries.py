"""When a slot is measured again: what its attempts have come to so far."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from nas.trials.evaluate import Outcome

MAX_LOST = 2
"""How often a slot is queued again after its process died, which it may have brought about."""
MAX_MACHINES_LOST = 10
"""How often after the machine was lost that it ran on. Machines that are taken away are no fault
of the trial's, but so many are no accident."""
MAX_OUT_OF_MEMORY = 1
"""How often after memory ran out; the batch is halved then."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """The attempts of a slot that came to no end of their own; those of Ctrl-C do not count."""

    lost: int = 0
    """Their process died."""
    machines_lost: int = 0
    """The machine was lost that they ran on."""
    out_of_memory: int = 0

    @property
    def number(self) -> int:
        return self.lost + self.machines_lost + self.out_of_memory

    @property
    def half_batch(self) -> bool:
        """Whether the next attempt trains with half the batch, if its evaluator can."""
        return self.out_of_memory > 0

    def after(self, outcome: Outcome) -> "Retries | None":
        """These and an attempt that ended so; None if the slot ends with it."""
        if outcome.reason == "interrupted":
            return self
        if outcome.reason == "oom":
            more = replace(self, out_of_memory=self.out_of_memory + 1)
        elif outcome.machine_lost:
            more = replace(self, machines_lost=self.machines_lost + 1)
        elif outcome.reason in ("orphaned", "worker-lost"):
            more = replace(self, lost=self.lost + 1)
        else:
            return None
        return more if more._is_allowed else None

    @property
    def _is_allowed(self) -> bool:
        return (
            self.lost <= MAX_LOST
            and self.machines_lost <= MAX_MACHINES_LOST
            and self.out_of_memory <= MAX_OUT_OF_MEMORY
        )


def retries_after(outcomes: Iterable[Outcome]) -> Retries:
    """What a slot has behind it after attempts that ended so, and after which another was begun."""
    return reduce(lambda before, outcome: before.after(outcome) or before, outcomes, Retries())
