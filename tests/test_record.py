"""The record: an ordinary Optuna study in SQLite."""

import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.trials.evaluate import Outcome
from nas.trials.record import Record, all_records, outcome_of
from tests.searching import drive, sampled_study


def test_optuna_reads_what_we_wrote(tmp_path: Path) -> None:
    ours = sampled_study(tmp_path / "study.db", 5)
    drive(ours)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.load_study(study_name="study", storage=storage)
    trials = study.trials
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [t.number for t in trials] == [0, 1, 2, 3, 4]
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    for trial, result in zip(trials, ours.results, strict=True):
        assert trial.params == dict(result.job.proposal.params)
        assert trial.distributions == dict(result.job.proposal.distributions)
        assert trial.value == result.value
        assert trial.user_attrs["macs"] == result.macs
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
    assert study.best_trial.number == max(trials, key=lambda t: (t.value or 0, -t.number)).number
    study.enqueue_trial(trials[0].params)  # others may write, too
    study._storage.remove_session()  # type: ignore[attr-defined]


def test_failed_trials_keep_state_and_reason(tmp_path: Path) -> None:
    record = Record(tmp_path / "study.db", "s")
    distributions = {"k": CategoricalDistribution((3, 5))}
    trial_id, number = record.begin({"k": 5}, distributions, {"slot": 0}, {})
    assert number == 0
    assert record.trials()[0].state == TrialState.RUNNING
    outcome = Outcome(reason="nan", detail="at step 3", seconds=1.5)
    record.conclude(trial_id, outcome, {})
    record.end(trial_id, None, outcome, {})
    (trial,) = record.trials()
    assert (trial.state, trial.user_attrs["choices"], trial.value) == (
        TrialState.FAIL,
        {"k": 5},
        None,
    )
    assert outcome_of(trial) == outcome
    record.close()


@pytest.fixture
def _far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.usefixtures("_far_from_greenwich")
def test_trials_are_those_that_optuna_reads(objectives: int, tmp_path: Path) -> None:
    """But for the parameters; those of another study are not among them."""
    database = tmp_path / "study.db"
    Record(database, "other").begin({}, {}, {"slot": 7}, {})
    record = Record(database, "s", directions=["maximize"] * objectives)
    distributions = {"k": CategoricalDistribution((3, 5))}
    ends = [Outcome(accuracy=0.5), Outcome(accuracy=0.25, reason="pruned"), Outcome(reason="nan")]
    for slot, outcome in enumerate(ends):
        trial_id, _ = record.begin({"k": 5}, distributions, {"slot": slot}, {"s:generation": 1})
        for epoch, value in enumerate([0.5, math.inf, -math.inf, math.nan]):
            record.report(trial_id, epoch, value)
        record.conclude(trial_id, outcome, {})
        values = [0.5, math.inf][:objectives] if not outcome.reason else None
        record.end(trial_id, values, outcome, {"s:generation": slot})
    record.begin({}, {}, {"slot": 3}, {})
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{database}")
    theirs = [_without_params(trial) for trial in study.trials]
    assert [_without_params(trial) for trial in record.trials()] == theirs
    assert len(theirs) == 4
    record.close()


def _without_params(trial: FrozenTrial) -> list[object]:
    return [
        *(trial.number, trial._trial_id, trial.state, trial.values),
        *(trial.datetime_start, trial.datetime_complete, trial.user_attrs, trial.system_attrs),
        repr(trial.intermediate_values),  # where NaN equals NaN
    ]


def test_studies_share_a_database(tmp_path: Path) -> None:
    for name in ("search", "random"):
        Record(tmp_path / "study.db", name).close()
    records = all_records(tmp_path / "study.db")
    assert [record.name for record in records] == ["random", "search"]
    for record in records:
        record.close()


def test_opening_finds_what_is_there_and_makes_nothing(tmp_path: Path) -> None:
    assert Record.open(tmp_path / "study.db", "search") is None
    assert list(tmp_path.iterdir()) == []
    Record(tmp_path / "study.db", "search").close()
    assert Record.open(tmp_path / "study.db", "random") is None
    found = Record.open(tmp_path / "study.db", "search")
    assert found is not None
    found.close()


def test_the_database_writes_ahead(tmp_path: Path) -> None:
    record = Record(tmp_path / "study.db", "s")
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    record.close()


def test_the_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "my é #1 100%25?mode=ro {x} run"
    folder.mkdir()
    record = Record(folder / "study.db", "s")
    record.begin({}, {}, {"slot": 0}, {})
    record.close()
    assert (folder / "study.db").stat().st_size > 0
