"""A `study.db` that is damaged, or was made to do harm, ends a command in one line that names it:
no code of its is run, and nothing is overwritten."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nas import run
from nas.trials.audit import check_record
from nas.trials.record import RecordError
from scaling_search import grid
from search_spaces.builder import BuiltNetwork
from tests.databases import execute, set_attribute
from tests.searching import network

FLAGS = [
    *("--evaluator", "tests.searching:accuracy", "--space", "tests.searching:small_space"),
    *("--strategy", "nsga2", "--trials", "4", "--finalists", "0", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is done."""
    folder = tmp_path_factory.mktemp("finished")
    assert run.main([*FLAGS, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


def _contents(folder: Path) -> dict[str, bytes]:
    """Of all files but those that SQLite keeps beside a database that is open."""
    passing = (".lock", "study.db-wal", "study.db-shm")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in passing
    }


def _assert_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    message: str,
    command: Callable[[list[str]], int] = run.main,
    flags: list[str] = FLAGS,
) -> None:
    before = _contents(folder)
    capsys.readouterr()
    assert command([*flags, "--run-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'study.db'} is damaged, or another program's: ")
    assert message in error
    assert error.endswith("Restore it from a copy, or choose another --run-dir.\n")
    assert error.count("\n") == 1
    assert len(error) < 1000
    assert _contents(folder) == before


def _assert_no_record(folder: Path, message: str) -> None:
    """The same, of what commands do first of all."""
    before = _contents(folder)
    with pytest.raises(RecordError, match=r"^.*study\.db is damaged") as raised:
        check_record(folder / "study.db")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert _contents(folder) == before


# The file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage " * 1000, "file is not a database"),
        (b"\x80\x04\x95cposix\nsystem\n(S'touch pwned'\ntR.", "file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 4096, "file is not a database"),
    ],
)
def test_a_file_that_is_no_database(
    content: bytes, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "study.db").write_bytes(content)
    _assert_refused(folder, capsys, message)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_database_that_was_cut(
    share: float, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (folder / "study.db").read_bytes()
    (folder / "study.db").write_bytes(content[: int(share * len(content))])
    _assert_refused(folder, capsys, "malformed")


def test_a_database_of_which_a_page_is_gone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((folder / "study.db").read_bytes())
    content[3 * 4096 : 4 * 4096] = bytes(4096)
    (folder / "study.db").write_bytes(content)
    _assert_refused(folder, capsys, "")


def test_a_database_without_a_table_goes_on(folder: Path) -> None:
    """As a process leaves it that was killed at its first step."""
    (folder / "study.db").write_bytes(b"")
    assert run.main([*FLAGS, "--run-dir", str(folder)]) == 0


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("CREATE TABLE bookmarks (url TEXT)", "it has a 'table bookmarks', but no studies"),
        ("CREATE TABLE studies (teacher TEXT)", "it has a 'table studies', but no studies"),
    ],
)
def test_a_database_of_another_program(
    statement: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "study.db").unlink()
    execute(folder / "study.db", statement)
    _assert_refused(folder, capsys, message)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END",
            "it has a trigger, 't'",
        ),
        ("CREATE VIEW v AS SELECT * FROM trials", "it has a view, 'v'"),
        ("ALTER TABLE trials DROP COLUMN state", "no such column: state"),
        ("UPDATE alembic_version SET version_num = 'v9.0.0'", "RuntimeError: The runtime optuna"),
        ("UPDATE trials SET state = 'ASLEEP'", "KeyError: 'ASLEEP'"),
        (f"UPDATE studies SET study_name = '{'x' * 10_000}'", "a name of 10,000 characters"),
        ("UPDATE trial_user_attributes SET value_json = '{'", "JSONDecodeError"),
        ("UPDATE trial_user_attributes SET value_json = x'80049563'", "study 'search'"),
        ("UPDATE trial_values SET value_type = 'LARGE'", "KeyError: 'LARGE'"),
        ("UPDATE trial_values SET objective = 7", "KeyError: 0"),
        ("UPDATE trials SET datetime_start = 'noon'", "ValueError"),
        ("DELETE FROM trial_user_attributes", "trial 0 of study 'search': slot: Field required"),
        ("UPDATE trials SET state = 'WAITING'", "its state is WAITING"),
        ("UPDATE trials SET state = 'PRUNED'", "its state is PRUNED"),
        ("UPDATE trials SET state = 'FAIL'", "its state is FAIL"),
        ("DELETE FROM trial_values", "its values "),
        ("UPDATE trial_values SET value = 'much'", "study 'search'"),
        (
            "UPDATE trial_values SET value = NULL, value_type = 'INF_POS'",
            "its values [inf]",
        ),
        (
            "UPDATE trial_system_attributes SET value_json = '\"x\"'",
            "OrderedNSGAIISampler:generation is 'x'",
        ),
    ],
)
def test_a_database_with_other_content(statement: str, message: str, folder: Path) -> None:
    execute(folder / "study.db", statement)
    _assert_no_record(folder, message)


def test_a_study_with_other_objectives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(folder / "study.db", "UPDATE study_directions SET direction = 'MINIMIZE'")
    assert run.main([*FLAGS, "--run-dir", str(folder)]) == 2
    assert "its study 'search' has other objectives. Restore it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "=cmd|x", "\x1b[2J", "a\u202eb", "../../x", "x" * 199])
def test_any_name_of_a_study(
    name: str, finished: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study of another name is one more; the tables of all studies show it escaped."""
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as connection:
        connection.execute("UPDATE studies SET study_name = ?", (name,))
    check_record(folder / "study.db")


# The trials


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("slot", 7, "no trial is of slot 0, but one of slot 7"),
        ("slot", 10**30, "slot"),
        ("slot", -1, "slot: "),
        ("slot", "0", "slot: "),
        ("slot", True, "slot: "),
        ("slot", 1, "no trial is of slot 0, but one of slot 3"),
        ("attempt", None, "attempt: "),
        ("epochs", 0, "epochs: "),
        ("seed", [], "seed: "),
        ("cost", float("nan"), "cost: "),
        ("digest", "000000000000", "its digest is '000000000000', its network's "),
        ("architecture", 1, "architecture: "),
        ("architecture", "{}", "architecture: "),
        ("architecture", "[" * 100_000, "architecture: "),
        ("architecture", "x" * 10**7, "architecture: "),
        ("choices", [["width", 8]], "choices: "),
        ("choices", {"width": {}}, "choices.width"),
        ("x" * 10_000, 1, "an attribute's name is too long"),
        ("label", "x" * 10**7, "an attribute is too long"),
        ("outcome", None, "its outcome is null"),
        ("outcome", {"accuracy": float("nan")}, "its accuracy is nan"),
        ("outcome", {"accuracy": float("inf")}, "its accuracy is inf"),
        ("outcome", {"accuracy": 1.5}, "its accuracy is 1.5"),
        ("outcome", {"accuracy": "1"}, "outcome.accuracy: "),
        ("outcome", {"accuracy": None}, "its accuracy is None with reason ''"),
        ("outcome", {"accuracy": 0.5, "reason": "nan"}, "its accuracy is 0.5 with reason 'nan'"),
        ("outcome", {"accuracy": 0.5, "reason": "tired"}, "outcome.reason: "),
        ("outcome", {"accuracy": 0.5, "seconds": float("nan")}, "it took nan s"),
        ("outcome", {"accuracy": 0.5, "epochs": 1e9}, "outcome.epochs: "),
        ("outcome", b"\x80\x04\x95", "study 'search'"),
    ],
)
def test_a_trial_with_other_fields(key: str, value: Any, message: str, folder: Path) -> None:
    set_attribute(folder / "study.db", key, value)
    _assert_no_record(folder, message)


def test_a_poisoned_trial_ends_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = {"accuracy": 0.5, "reason": "\x1b[2J<img onerror=x>"}
    set_attribute(folder / "study.db", "outcome", outcome)
    _assert_refused(folder, capsys, "trial 0 of study 'search': outcome.reason: ")


def test_a_running_trial_whose_outcome_is_null(folder: Path) -> None:
    set_attribute(folder / "study.db", "outcome", None)
    execute(folder / "study.db", "UPDATE trials SET state = 'RUNNING' WHERE trial_id = 1")
    _assert_no_record(folder, "its outcome is null")


def test_two_trials_that_ended_in_one_slot(folder: Path) -> None:
    set_attribute(folder / "study.db", "slot", 2, trial=4)
    _assert_no_record(folder, "slot 2 has a trial after 2, which is COMPLETE")


def test_choices_outside_of_the_space(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What may be chosen the space knows, so this is found where the trial is restored."""
    set_attribute(folder / "study.db", "choices", {"width": 17, "kernel": 3})
    assert run.main([*FLAGS, "--run-dir", str(folder)]) == 2
    message = "now reads the choices of trial 0 as another network, or has no such choices."
    assert message in capsys.readouterr().err


def test_a_record_runs_no_code_that_the_command_does_not_name(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network of a builder is its module called; asking for its digest calls it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_builder.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w').close()")
    evil = BuiltNetwork(name="evil", reference="evil_builder:build", resolution=8)
    set_attribute(folder / "study.db", "architecture", evil.to_json())
    message = "its network is made by evil_builder:build, which the command does not name"
    _assert_refused(folder, capsys, message)
    with pytest.raises(RecordError, match=message):
        check_record(folder / "study.db", base=network(8))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_the_record_of_the_builder_that_the_command_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--baseline", "tests.builders:plain@16", "--evaluator", "tests.searching:accuracy"]
    flags += ["--candidates", "3", "--seeds", "2", "--full", "--epochs", "1"]
    for _ in range(2):
        assert grid.main([*flags, "--run-dir", str(tmp_path)]) == 0
    builder = BuiltNetwork(name="other", reference="tests.builders:other", resolution=16)
    set_attribute(tmp_path / "study.db", "architecture", builder.to_json())
    message = "its network is made by tests.builders:other"
    _assert_refused(tmp_path, capsys, message, grid.main, flags)


def test_a_list_whose_trials_are_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials of a grid that are whole, but of networks that it has not."""
    flags = ["--baseline", "efficientnet-b0", "--evaluator", "tests.searching:accuracy"]
    flags += ["--candidates", "3", "--seeds", "2", "--full", "--epochs", "1"]
    assert grid.main([*flags, "--run-dir", str(tmp_path)]) == 0
    set_attribute(tmp_path / "study.db", "architecture", network(8).to_json())
    set_attribute(tmp_path / "study.db", "digest", network(8).digest)
    capsys.readouterr()
    assert grid.main([*flags, "--run-dir", str(tmp_path)]) == 2
    assert (
        "Trial 0 of the record is of w8k3, which is not what was to be" in capsys.readouterr().err
    )
