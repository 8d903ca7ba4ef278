"""What became of trials whose process died, by Ray's words."""

from dataclasses import replace

from nas.trials import limits
from nas.trials.evaluate import Outcome, timed_out

_OUT_OF_MEMORY = "running low on memory"
"""Words of Ray's that tell a worker which it killed for the memory of its node."""
_MACHINE_LOST = (
    "its node has died",
    "node was terminated",
    "Actor died by preemption",
    "inferred to be dead due to draining",
)
"""Words of Ray's that tell a worker which went with its node."""


class Losses:
    """Tells what took a worker, and which attempts were taken by one and the same kill."""

    def __init__(self) -> None:
        self._kills: dict[int, str] = {}
        """What Ray said of the last kill for memory that took an attempt, by slot."""

    def outcome(self, slot: int, error: str, seconds: float, limit: float | None) -> Outcome:
        """Of an attempt at the slot.

        Ray kills several workers at once for the memory of their node. A retry may be given one
        of these before they are gone; it has not run then, and is no attempt at half the batch.

        Args:
            slot: Of the trial.
            error: What Tune wrote of it: a line with the time, then Ray's words.
            seconds: Since the process began.
            limit: Seconds that it was allowed.
        """
        outcome = _outcome(error, seconds, limit)
        if outcome.reason == "oom":
            kill = error.partition("\n")[2]
            if self._kills.get(slot) == kill:
                return replace(outcome, reason="worker-lost")
            self._kills[slot] = kill
        return outcome


def _outcome(error: str, seconds: float, limit: float | None) -> Outcome:
    if any(words in error for words in _MACHINE_LOST):
        detail = f"The machine that it ran on was lost: {error}"
        return Outcome(reason="worker-lost", detail=detail, machine_lost=True)
    detail = f"The worker process died: {error}"
    if limit is not None and seconds > limit + limits.GRACE_SECONDS:
        return timed_out(limit, detail)  # a worker that does not listen ends itself
    if _OUT_OF_MEMORY in error:
        remedy = "The machine ran low on memory. Use fewer --workers, or a smaller --batch-size."
        return Outcome(reason="oom", detail=f"{detail.rstrip()}\n{remedy}")
    return Outcome(reason="worker-lost", detail=detail)
