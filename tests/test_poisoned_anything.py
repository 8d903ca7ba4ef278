"""Whatever is in a `study.db`, only our own errors come out; and what we wrote is never refused."""

import contextlib
import json
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from nas.cli import UserError
from nas.search.report import trials_frame
from nas.trials.attributes import known_measurements
from nas.trials.audit import check_record
from nas.trials.halving import Halving
from nas.trials.record import all_records
from search_spaces.architecture import Architecture
from tests.databases import delete_attribute, execute, set_attribute
from tests.fuzzing import bytes_of, changed, fuzz
from tests.searching import HALVING, MediumSpace, SmallSpace, accuracy, drive, sampled_study


def _attributes(database: Path, trial: int = 1) -> dict[str, Any]:
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT key, value_json FROM trial_user_attributes WHERE trial_id = ?"
        return {key: json.loads(value) for key, value in connection.execute(query, (trial,))}


@pytest.mark.parametrize("halving", [None, HALVING])
def test_nothing_that_we_wrote_is_refused(tmp_path: Path, halving: Halving | None) -> None:
    """Killed in a trial, after its reports, gone on with, failed, reused: six networks for sixteen
    trials."""

    def failing(architecture: Architecture, *, epochs: int, seed: int) -> float:
        if architecture.stages[0].width == 24:
            raise ValueError("the user's own mistake")
        return accuracy(architecture, epochs=epochs, seed=seed)

    for stop, reports in ((0, 0), (2, 1), (1, 1), (None, 0)):
        study = sampled_study(
            tmp_path / "study.db", 16, space=SmallSpace(), epochs=4, halving=halving
        )
        drive(study, failing, stop=stop, reports=0 if halving is None else reports)
        states = {trial.state.name for trial in study._record.trials()}
        study._record.close()
        check_record(tmp_path / "study.db")
    assert states == {"COMPLETE", "FAIL", *([] if halving is None else ["PRUNED"])}


def _go_on(database: Path, **options: Any) -> None:
    """What commands do with a record; whatever it holds, only our own errors come out."""
    with contextlib.suppress(UserError):
        check_record(database)
        known_measurements(database)
        study = sampled_study(database, 5, strategy="nsga2", space=MediumSpace(), **options)
        try:
            drive(study, accuracy)
        finally:
            study._record.close()
        for record in all_records(database):
            trials_frame(record.trials(), "value")
            record.close()


@pytest.fixture(scope="module", params=[{}, {"epochs": 4, "halving": HALVING}])
def record(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A record of four trials, and what its study is made with."""
    database = tmp_path_factory.mktemp("record") / "study.db"
    study = sampled_study(database, 4, strategy="nsga2", space=MediumSpace(), **request.param)
    drive(study)
    study._record.close()
    return database, request.param


runs = pytest.mark.parametrize("examples", [15, pytest.param(100, marks=pytest.mark.slow)])


def _new_file(folder: Path) -> Path:
    """Where no connection to a database of an earlier example, refused half-way, can write."""
    return Path(tempfile.mkdtemp(dir=folder)) / "study.db"


@runs
def test_any_attributes(examples: int, record: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    database, options = record
    attributes = _attributes(database)

    def read(changes: tuple[dict[str, Any], str]) -> None:
        fields, state = changes
        spoilt = _new_file(tmp_path)
        shutil.copy(database, spoilt)
        for key in attributes.keys() - fields.keys():
            delete_attribute(spoilt, key)
        for key, value in fields.items():
            if attributes.get(key) != value and "\ud800" not in key:  # which SQLite cannot hold
                set_attribute(spoilt, key, value)
        execute(spoilt, f"UPDATE trials SET state = '{state}' WHERE trial_id = 1")
        _go_on(spoilt, **options)

    states = st.sampled_from(["COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING"])
    dictionaries = changed(attributes).filter(lambda fields: isinstance(fields, dict))
    fuzz(examples, st.tuples(dictionaries, states), read, random_from=100)


@runs
def test_any_bytes(examples: int, record: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    database, options = record

    def read(content: bytes) -> None:
        spoilt = _new_file(tmp_path)
        spoilt.write_bytes(content)
        _go_on(spoilt, **options)

    fuzz(examples, bytes_of(database.read_bytes()), read, random_from=100)
