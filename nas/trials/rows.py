"""The trials of a study from the rows of Optuna's tables.

As Optuna's `get_all_trials`, but for the parameters: ours are in the attribute `choices` as well,
and objects of them, 42 a trial, take ten times as long as all the rest. A start reads each trial
several times.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from math import inf, nan
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

_NOT_FINITE = {"INF_POS": inf, "INF_NEG": -inf, "NAN": nan}
"""Numbers that Optuna keeps by name."""


def read_trials(connection: Connection, study_id: int) -> Iterator[FrozenTrial]:
    """The trials of a study by number, with their attributes and values."""

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
    return None if text is None else datetime.fromisoformat(text)
