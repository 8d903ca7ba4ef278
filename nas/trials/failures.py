"""What is said of trials that failed: how many for which reason, and where the errors are."""

from collections import Counter
from collections.abc import Iterator

from optuna.trial import FrozenTrial, TrialState

from nas.folder import RunFolder
from nas.trials.record import Record, all_records, outcome_of
from nas.untrusted import printable

FILE = "failures.txt"
"""The file of a run folder with every failure and its traceback."""

_LONGEST_LINE = 2000
"""Characters of a line of a traceback, which may show a tensor."""


def save_failures(folder: RunFolder) -> list[str]:
    """Write the errors of all failed trials of a run; a line with their count, if there are any.

    A trial that a crash cut short and that was then measured after all is in the file only.
    """
    if not folder.database.exists():
        return []
    reasons: Counter[str] = Counter()
    entries: list[str] = []
    slots = 0
    for record in all_records(folder.database):
        trials = record.trials()
        last = {trial.user_attrs["slot"]: trial.number for trial in trials}
        slots += len(last)
        for trial in filter(_has_failed, trials):
            entries.append("\n".join(_entry(record, trial)))
            if last[trial.user_attrs["slot"]] == trial.number:
                reasons[outcome_of(trial).reason] += 1
        record.close()
    if not entries:
        return []
    file = folder.write(FILE, "\n\n".join(entries) + "\n")
    if not reasons:
        return []
    counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    return [f"failed  {reasons.total()} of {slots} trials: {counted} · errors in {file}"]


def _has_failed(trial: FrozenTrial) -> bool:
    """Whether a trial failed, and not by Ctrl-C."""
    if trial.state != TrialState.FAIL or "outcome" not in trial.user_attrs:
        return False
    return outcome_of(trial).reason != "interrupted"


def _entry(record: Record, trial: FrozenTrial) -> Iterator[str]:
    outcome = outcome_of(trial)
    yield f"{record.name} #{trial.number} · {outcome.reason} after {outcome.seconds:.1f} s"
    for line in outcome.detail.strip().splitlines():
        yield printable(line, _LONGEST_LINE)
