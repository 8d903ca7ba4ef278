"""The record: an ordinary Optuna study in a folder that one process at a time works in."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from nas.cli import UserError
from nas.search.evaluate import Outcome
from nas.search.record import Record, RunFolder, all_records, outcome_of
from search_spaces.files import FolderError
from tests.searching import drive, sampled_study

ROOT = Path(__file__).parents[1]
CONDITIONS: dict[str, Any] = {
    "space": "mnasnet",
    "target_macs": 4e8,
    "data": "digits",
    "seed": 0,
    "images": [100, 10],
}


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
    assert (trial.state, trial.params, trial.value) == (TrialState.FAIL, {"k": 5}, None)
    assert outcome_of(trial) == outcome
    record.close()


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


def test_conditions_are_written_once_and_compared(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        assert folder.bind(CONDITIONS, {"trials": 20, "run_dir": Path("x")}) is False
        assert folder.bind(dict(reversed(CONDITIONS.items())), {"trials": 30}) is True
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["conditions"] == {"format": 1, **CONDITIONS}
    assert content["settings"] == {"trials": 30}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": "efficientnet"}, "space was 'mnasnet', now 'efficientnet'"),
        ({"target_macs": 6e8}, r"target_macs was 400000000\.0, now 600000000\.0"),
        ({"data": "cifar"}, "data was 'digits', now 'cifar'"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"images": [90, 10]}, r"images was \[100, 10\], now \[90, 10\]"),
        ({"hard": True}, "hard was None, now True"),
        ({"format": 2}, "format was 1, now 2"),
        ({"seed": 1, "space": "x"}, "space was 'mnasnet', now 'x'; seed was 0, now 1"),
    ],
)
def test_changed_conditions_are_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with RunFolder(tmp_path) as folder:
        folder.bind(CONDITIONS, {})
        before = (tmp_path / "config.json").read_text()
        with pytest.raises(UserError, match=rf"{words}\. .* choose a new --run-dir\."):
            folder.bind({**CONDITIONS, **changes}, {})
        assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_an_unreadable_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(UserError, match=r"config\.json is not readable .* another --run-dir"),
    ):
        folder.bind(CONDITIONS, {})


def test_a_second_driver_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path),
        pytest.raises(FolderError, match=rf"in use by process {os.getpid()}\..* another --run-dir"),
        RunFolder(tmp_path),
    ):
        pass
    with RunFolder(tmp_path):
        pass


def test_the_folder_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from nas.search.record import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(FolderError, match=rf"in use by process {holder.pid}\."),
            RunFolder(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with RunFolder(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FolderError, match=r"`--run-dir .*file/run` cannot be written"),
        RunFolder(tmp_path / "file" / "run"),
    ):
        pass
