"""How far the studies of a run folder have come, before any of them goes on."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from nas.trials.attributes import known_measurements
from nas.trials.record import Record, outcome_of
from nas.trials.retries import retries_after
from nas.trials.trial import MeasurementKey


def ended_slots(database: Path, study: str) -> set[int]:
    """The slots of a study that ended for good; none where there is no such study."""
    record = Record.open(database, study)
    if record is None:
        return set()
    attempts: defaultdict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in record.trials():
        attempts[trial.user_attrs["slot"]].append(trial)
    record.close()
    return {slot for slot, trials in attempts.items() if _has_ended(trials)}


def measured_keys(database: Path) -> set[MeasurementKey]:
    """What need not be measured again, in whichever study it was."""
    return set(known_measurements(database)) if database.exists() else set()


def _has_ended(attempts: Sequence[FrozenTrial]) -> bool:
    *before, last = attempts
    if "outcome" not in last.user_attrs:  # its process died, and it is tried again
        return False
    return retries_after(map(outcome_of, before)).after(outcome_of(last)) is None
