"""The durable record of a run: one SQLite file of Optuna studies."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from nas.cli import GOES_ON, UserError
from nas.trials.evaluate import Outcome
from nas.trials.rows import end_trial, read_trials, write_trial, write_user_attributes
from nas.untrusted import printable

_LOCK_SECONDS = 30
"""How long to wait for another process, such as a dashboard, that holds the database."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class RecordError(UserError):
    """The database cannot be used now, or is none of ours; nothing more may be written to it."""


class Record:
    """The trials of one Optuna study in SQLite (WAL).

    A trial is written when it starts and again when it ends. What is on disk is an ordinary study
    that `optuna.load_study` and optuna-dashboard read.
    """

    def __init__(
        self,
        database: Path,
        name: str,
        *,
        directions: Sequence[str] | None = None,
        storage: optuna.storages.RDBStorage | None = None,
    ) -> None:
        """Open the study, or make it.

        Args:
            database: The SQLite file.
            name: Of the study.
            directions: Of the values, `maximize` or `minimize`; None: those that the study has, or
                one to maximize.
            storage: The database, where it is open already.

        Raises:
            RecordError: The database cannot be used; so with all that reads or writes it.
        """
        self.name, self._database = name, database
        self._storage = _open_storage(database) if storage is None else storage
        wanted = [StudyDirection[direction.upper()] for direction in directions or ("maximize",)]
        with _errors_named(database):
            try:
                self._study_id = self._storage.get_study_id_from_name(name)
            except KeyError:
                self._study_id = self._storage.create_new_study(wanted, name)
            found = self._storage.get_study_directions(self._study_id)
            if directions is not None and found != wanted:
                raise damaged_error(database, f"its study {name!r} has other objectives")

    @classmethod
    def open(cls, database: Path, name: str) -> "Record | None":
        """The study if the database holds it."""
        if not database.exists():
            return None
        storage = _open_storage(database)
        if name in _names(storage):
            return cls(database, name, storage=storage)
        _close(storage)
        return None

    @property
    def num_objectives(self) -> int:
        with _errors_named(self._database):
            return len(self._storage.get_study_directions(self._study_id))

    def trials(self) -> list[FrozenTrial]:
        """All trials by number; their parameters are in the attribute `choices` only."""
        with _errors_named(self._database), self._storage.engine.connect() as connection:
            return list(read_trials(connection, self._study_id))

    def begin(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
        sampler_state: Mapping[str, Any],
    ) -> tuple[int, int]:
        """Write a RUNNING trial; its id in the storage and its number.

        What the sampler noted goes where Optuna's samplers look for it, into the trial's system
        attributes. The choices are written twice, as the attribute `choices` and as the parameters
        that other readers of the study look for.
        """
        with _errors_named(self._database), Session(self._storage.engine) as session:
            begun = write_trial(
                session,
                self._study_id,
                params=params,
                distributions=distributions,
                user_attrs={**attributes, "choices": dict(params)},
                system_attrs=sampler_state,
            )
            session.commit()
        return begun

    def report(self, trial_id: int, epoch: int, value: float) -> None:
        """Write the value of a running trial at a rung."""
        with _errors_named(self._database):
            self._storage.set_trial_intermediate_value(trial_id, epoch, value)

    def conclude(self, trial_id: int, outcome: Outcome, curve: Mapping[int, float]) -> None:
        """Write what came out of a running trial, and the values at rungs that it shares with the
        trial that was trained in its place; `end` is to follow."""
        if outcome.reused_from:  # before the outcome, which is read with it
            for epoch, value in curve.items():
                self.report(trial_id, epoch, value)
        with _errors_named(self._database), self._storage.engine.begin() as connection:
            write_user_attributes(connection, trial_id, {"outcome": asdict(outcome)})

    def end(
        self,
        trial_id: int,
        values: Sequence[float] | None,
        outcome: Outcome,
        sampler_state: Mapping[str, Any],
    ) -> None:
        """End a trial: COMPLETE with its values; PRUNED, where the outcome says so, or FAIL."""
        state = TrialState.PRUNED if outcome.reason == "pruned" else TrialState.FAIL
        with _errors_named(self._database), Session(self._storage.engine) as session:
            end_trial(
                session,
                trial_id,
                state=state if values is None else TrialState.COMPLETE,
                values=values or (),
                system_attrs=sampler_state,
            )
            session.commit()

    def close(self) -> None:
        """Release the database."""
        _close(self._storage)


def all_records(database: Path) -> list[Record]:
    """The studies of a database, by name; each is to be closed."""
    storage = _open_storage(database)
    records = [Record(database, name, storage=storage) for name in _names(storage)]
    if not records:
        _close(storage)
    return records


def check_file(database: Path) -> None:
    """Raise unless the file is a whole SQLite database with nothing in it but Optuna's tables.

    Nothing is written to it.

    Raises:
        RecordError: It is not, or cannot be read.
    """
    place = f"file:{quote(str(database.resolve()))}?mode=ro"
    try:
        with closing(sqlite3.connect(place, timeout=_LOCK_SECONDS, uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            objects = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
            columns = {row[1] for row in connection.execute("PRAGMA table_info(studies)")}
    except sqlite3.Error as error:
        raise named_error(database, error) from error
    if verdict != "ok":
        raise damaged_error(database, verdict)
    if objects and not {"study_id", "study_name"} <= columns:
        raise damaged_error(database, f"it has a {' '.join(objects[0])!r}, but no studies")
    for kind, name in objects:
        if kind not in ("table", "index"):  # such as a trigger, which would write at our writes
            raise damaged_error(database, f"it has a {kind}, {name!r}, which none of ours has")


def outcome_of(trial: FrozenTrial) -> Outcome:
    """How a finished trial ended; what other versions wrote of it beside is left out."""
    known = {field.name for field in fields(Outcome)}
    return Outcome(**{k: v for k, v in trial.user_attrs["outcome"].items() if k in known})


def _names(storage: optuna.storages.RDBStorage) -> list[str]:
    return sorted(study.study_name for study in storage.get_all_studies())


def _close(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _open_storage(database: Path) -> optuna.storages.RDBStorage:
    database = database.resolve()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(database, timeout=_LOCK_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    with _errors_named(database):
        # The path does not go into the URL, where `?`, `%` and `{` would mean something.
        return optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


@contextmanager
def _errors_named(database: Path) -> Iterator[None]:
    """Say what keeps SQLite from its work, instead of a traceback through three libraries."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, DatabaseError) as error:
        source = error.__cause__ if isinstance(error, optuna.exceptions.OptunaError) else error
        cause = getattr(source, "orig", None)
        if type(cause) is sqlite3.OperationalError or type(cause) is sqlite3.DatabaseError:
            raise named_error(database, cause) from error
        raise


def named_error(database: Path, cause: sqlite3.Error) -> RecordError:
    """What is to be said of an error of SQLite's."""
    if not isinstance(cause, sqlite3.OperationalError) or "no such" in str(cause):
        return damaged_error(database, str(cause))
    if "locked" in str(cause):
        return RecordError(
            f"Another process has kept {database} locked for {_LOCK_SECONDS:g} s. End it "
            f"(`fuser {database}` names it), or wait for it. {GOES_ON}"
        )
    return RecordError(
        f"{database} cannot be written or read: {cause}. Put that right, such as by making room. "
        f"{GOES_ON}"
    )


def damaged_error(database: Path, problem: str) -> RecordError:
    """What is to be said of a database that holds what was never written to it here."""
    return RecordError(
        f"{database} is damaged, or another program's: {printable(problem, 400)}. Restore it from "
        "a copy, or choose another --run-dir."
    )
