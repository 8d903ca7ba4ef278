"""The trials of a study as rows of Optuna's tables, written and read at once.

Optuna's own storage writes a trial piece by piece, two statements for every attribute and
parameter: half of what an empty trial cost.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, nan
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb.models import TrialModel, TrialValueModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

_STORES_UTC = hasattr(TrialModel, "_datetime_start_utc")
"""Optuna 5 does; before, times were local."""
_NOT_FINITE = {"INF_POS": inf, "INF_NEG": -inf, "NAN": nan}
"""Numbers that Optuna keeps by name."""


def write_trial(
    session: Session,
    study_id: int,
    *,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    user_attrs: Mapping[str, Any],
    system_attrs: Mapping[str, Any],
) -> tuple[int, int]:
    """Add a RUNNING trial, as Optuna's `create_new_trial` does, in the transaction of the session;
    its id and its number."""
    latest = session.scalar(
        select(TrialModel.number)
        .where(TrialModel.study_id == study_id)
        .order_by(TrialModel.trial_id.desc())
        .limit(1)
    )
    number = 0 if latest is None else latest + 1
    # Optuna's own model, for its versions do not agree on the time zone.
    trial = TrialModel(
        study_id=study_id, number=number, state=TrialState.RUNNING, datetime_start=datetime.now()
    )
    session.add(trial)
    session.flush()
    trial_id: Any = trial.trial_id

    connection = session.connection()
    write_user_attributes(connection, trial_id, user_attrs)
    _write_attributes(connection, "trial_system_attributes", trial_id, system_attrs)
    kinds = ((name, distributions[name], value) for name, value in params.items())
    _insert(
        connection,
        "trial_params (trial_id, param_name, param_value, distribution_json)",
        (
            (trial_id, name, of.to_internal_repr(value), distribution_to_json(of))
            for name, of, value in kinds
        ),
    )
    return trial_id, number


def write_user_attributes(
    connection: Connection, trial_id: int, attributes: Mapping[str, Any]
) -> None:
    """Set attributes of a trial, as Optuna's `set_trial_user_attr` does, one or more."""
    _write_attributes(connection, "trial_user_attributes", trial_id, attributes)


def end_trial(
    session: Session,
    trial_id: int,
    *,
    state: TrialState,
    values: Sequence[float],
    system_attrs: Mapping[str, Any],
) -> None:
    """End a RUNNING trial, as Optuna's `set_trial_system_attr` and `set_trial_state_values` do, in
    the transaction of the session."""
    trial: Any = session.get_one(TrialModel, trial_id)
    trial.state, trial.datetime_complete = state, datetime.now()
    stored = map(TrialValueModel.value_to_stored_repr, values)
    connection = session.connection()
    _write_attributes(connection, "trial_system_attributes", trial_id, system_attrs)
    _insert(
        connection,
        "trial_values (trial_id, objective, value, value_type)",
        ((trial_id, i, value, kind.name) for i, (value, kind) in enumerate(stored)),
        "ON CONFLICT (trial_id, objective) DO UPDATE "
        "SET value = excluded.value, value_type = excluded.value_type",
    )


def _write_attributes(
    connection: Connection, table: str, trial_id: int, attributes: Mapping[str, Any]
) -> None:
    _insert(
        connection,
        f'{table} (trial_id, "key", value_json)',
        ((trial_id, key, json.dumps(value)) for key, value in attributes.items()),
        'ON CONFLICT (trial_id, "key") DO UPDATE SET value_json = excluded.value_json',
    )


def _insert(
    connection: Connection, columns: str, rows: Iterable[tuple[Any, ...]], otherwise: str = ""
) -> None:
    if values := list(rows):
        places = ", ".join("?" * len(values[0]))
        connection.exec_driver_sql(f"INSERT INTO {columns} VALUES ({places}) {otherwise}", values)


def read_trials(connection: Connection, study_id: int) -> Iterator[FrozenTrial]:
    """The trials of a study by number, with their attributes and values.

    As Optuna's `get_all_trials`, but for the parameters: ours are in the attribute `choices` as
    well, and objects of them, 42 a trial, take ten times as long as all the rest. A start reads
    each trial several times.
    """

    def rows(query: str) -> Any:
        return connection.exec_driver_sql(query, (study_id,))

    def by_trial(table: str, columns: str, read: Callable[..., Any]) -> Any:
        """What a table has on each trial, by the first of the columns."""
        found: defaultdict[int, dict[Any, Any]] = defaultdict(dict)
        query = f"SELECT trial_id, {columns} FROM {table} JOIN trials USING (trial_id)"
        for trial_id, key, *value in rows(f"{query} WHERE study_id = ? ORDER BY {table}.rowid"):
            found[trial_id][key] = read(*value)
        return found

    user = by_trial("trial_user_attributes", '"key", value_json', json.loads)
    system = by_trial("trial_system_attributes", '"key", value_json', json.loads)
    values = by_trial("trial_values", "objective, value, value_type", _number)
    intermediate = by_trial(
        "trial_intermediate_values", "step, intermediate_value, intermediate_value_type", _number
    )
    columns = "trial_id, number, state, datetime_start, datetime_complete"
    for trial_id, number, state, start, end in rows(
        f"SELECT {columns} FROM trials WHERE study_id = ? ORDER BY trial_id"
    ):
        ends = values[trial_id]
        yield FrozenTrial(
            number=number,
            trial_id=trial_id,
            state=TrialState[state],
            value=None,
            values=[ends[objective] for objective in range(len(ends))] or None,
            datetime_start=_time(start),
            datetime_complete=_time(end),
            params={},
            distributions={},
            user_attrs=user[trial_id],
            system_attrs=system[trial_id],
            intermediate_values=intermediate[trial_id],
        )


def _number(value: Any, kind: str) -> Any:
    return value if kind == "FINITE" else _NOT_FINITE[kind]


def _time(text: str | None) -> datetime | None:
    """Local time, as Optuna reads it."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None) if _STORES_UTC else time
