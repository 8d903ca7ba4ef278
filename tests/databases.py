"""Changes of a `study.db` that Optuna would not make, for tests."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def execute(database: Path, *statements: str) -> None:
    """Run SQL, each statement at once for good."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def delete_attribute(database: Path, key: str, trial: int = 1) -> None:
    """Take an attribute from a trial."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        delete = "DELETE FROM trial_user_attributes WHERE trial_id = ? AND key = ?"
        connection.execute(delete, (trial, key))


def set_attribute(database: Path, key: str, value: Any, trial: int = 1) -> None:
    """Give a trial another attribute."""
    delete_attribute(database, key, trial)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        row = (trial, key, value if isinstance(value, bytes) else json.dumps(value))
        insert = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)"
        connection.execute(insert, row)
