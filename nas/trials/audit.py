"""A record looked at whole before anything is taken from it or written to it.

`study.db` may be damaged, or come from elsewhere. What passes here can be restored: every trial
says what it measures and how that ended, in the form that `nas.trials.attributes` writes, and names
no code that the command itself does not name. What no form shows, such as an accuracy that somebody
raised, passes too.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from nas.trials.evaluate import Outcome
from nas.trials.record import Record, RecordError, all_records, check_file, damaged_error
from nas.untrusted import printable
from search_spaces.architecture import ArchitectureError
from search_spaces.builder import AnyNetwork, BuiltNetwork, network_from_json

_MAX_NAME = 200
_MAX_TEXT = 10**6
_GENERATION = ":generation"
"""How a note of NSGA-II ends, the one sampler of ours that makes notes."""


@dataclass(frozen=True, kw_only=True)
class _Attributes:
    """The attributes that every trial of ours has; its labels are further ones."""

    slot: NonNegativeInt
    attempt: NonNegativeInt
    epochs: PositiveInt
    seed: NonNegativeInt
    digest: str
    architecture: Annotated[str, Field(max_length=_MAX_TEXT)]
    macs: NonNegativeInt
    params: NonNegativeInt
    choices: dict[str, bool | int | FiniteFloat | str | None]
    cost: FiniteFloat = 0.0
    half_batch: bool = False
    outcome: Outcome | None = None


_READER = TypeAdapter(_Attributes)


def check_record(database: Path, base: AnyNetwork | None = None) -> None:
    """Raise unless all of a database can be gone on from; a missing one can.

    Args:
        database: The SQLite file.
        base: The network that the command scales, if any. Where it is of the user's own builder,
            the record may hold networks of that builder; of others it may not.

    Raises:
        RecordError: It cannot; the message names what is wrong first.
    """
    if not database.exists():
        return
    check_file(database)
    builder = base.reference if isinstance(base, BuiltNetwork) else None
    for record in _read(database):
        try:
            _check_study(database, record, builder)
        finally:
            record.close()


def _read(database: Path) -> list[Record]:
    try:
        return all_records(database)
    except RecordError:
        raise
    except Exception as error:  # of any kind: Optuna and SQLAlchemy take the tables as they expect
        raise damaged_error(database, f"{type(error).__name__}: {error}") from error


def _check_study(database: Path, record: Record, builder: str | None) -> None:
    where = f"study {printable(record.name, 40)!r}"
    if len(record.name) > _MAX_NAME:
        raise damaged_error(database, f"{where} has a name of {len(record.name):,} characters")
    try:
        trials, objectives = record.trials(), record.num_objectives
    except RecordError:
        raise
    except Exception as error:  # as above
        raise damaged_error(database, f"{where}: {type(error).__name__}: {error}") from error
    slots: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        for problem in _problems(trial, objectives, builder):
            raise damaged_error(database, f"trial {trial.number} of {where}: {problem}")
        slots[trial.user_attrs["slot"]].append(trial)
    for problem in _slot_problems(slots):
        raise damaged_error(database, f"{where}: {problem}")


def _problems(trial: FrozenTrial, objectives: int, builder: str | None) -> Iterator[str]:
    """What is wrong with a trial, the grossest first."""
    written = trial.user_attrs
    try:
        attributes = _READER.validate_json(json.dumps(written), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        yield f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        return
    if len(max(written, key=len)) > _MAX_NAME:
        yield "an attribute's name is too long"
    if any(len(value) > _MAX_TEXT for value in written.values() if isinstance(value, str)):
        yield "an attribute is too long"
    yield from _network_problems(attributes, builder)
    if attributes.outcome is not None:
        yield from _outcome_problems(attributes.outcome)
    elif "outcome" in written:
        yield "its outcome is null"
    yield from _state_problems(trial, attributes.outcome, objectives)
    for key, note in trial.system_attrs.items():
        if key.endswith(_GENERATION) and not (type(note) is int and note >= 0):
            yield f"its {key} is {note!r}"


def _network_problems(attributes: _Attributes, builder: str | None) -> Iterator[str]:
    try:
        network = network_from_json(attributes.architecture)
    except ArchitectureError as error:
        yield f"architecture: {error}"
        return
    if isinstance(network, BuiltNetwork):
        if network.reference != builder:  # asking for its digest would import and call it
            yield f"its network is made by {network.reference}, which the command does not name"
    elif network.digest != attributes.digest:
        yield f"its digest is {attributes.digest!r}, its network's {network.digest}"


def _outcome_problems(outcome: Outcome) -> Iterator[str]:
    accuracy, reason = outcome.accuracy, outcome.reason
    if accuracy is not None and not 0 <= accuracy <= 1:
        yield f"its accuracy is {accuracy}"
    if not 0 <= outcome.seconds < float("inf") or outcome.epochs < 0:
        yield f"it took {outcome.seconds} s, {outcome.epochs} epochs"
    if (accuracy is None) != (reason not in ("", "pruned")):
        yield f"its accuracy is {accuracy} with reason {reason!r}"


def _state_problems(trial: FrozenTrial, outcome: Outcome | None, objectives: int) -> Iterator[str]:
    reason, values = None if outcome is None else outcome.reason, trial.values or ()
    whole = {
        TrialState.RUNNING: True,
        TrialState.COMPLETE: reason == "" and len(values) == objectives and _are_numbers(values),
        TrialState.PRUNED: reason == "pruned" and bool(trial.intermediate_values),
        TrialState.FAIL: reason not in ("", "pruned"),
        TrialState.WAITING: False,
    }
    if not (whole[trial.state] and _are_numbers(trial.intermediate_values.values())):
        yield f"its state is {trial.state.name}, its values {trial.values}, its reason {reason!r}"


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and isfinite(value) for value in values)


def _slot_problems(slots: dict[int, list[FrozenTrial]]) -> Iterator[str]:
    if slots and max(slots) != len(slots) - 1:
        missing = next(slot for slot in range(len(slots)) if slot not in slots)
        yield f"no trial is of slot {missing}, but one of slot {max(slots)}"
    for slot, trials in slots.items():
        for trial in trials[:-1]:
            if trial.state != TrialState.FAIL or "outcome" not in trial.user_attrs:
                yield f"slot {slot} has a trial after {trial.number}, which is {trial.state.name}"
