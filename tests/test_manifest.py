"""What a run leaves in its folder: whole files, and a manifest that vouches for them."""

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas import run
from nas.cli import UserError
from nas.folder import FORMAT, MANIFEST, RunFolder, Stamp, read_manifest, warn_of_changes
from tests.searching import calls

ROOT = Path(__file__).parents[1]


def _vouched(folder: Path) -> dict[str, bool]:
    """Whether the manifest vouches for each file that it names, as it lies there."""
    manifest = read_manifest(folder / MANIFEST)
    return {name: manifest.vouches(name, Stamp.at(folder / name)) for name in manifest.files}


def _flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 4]) + content[-1:])


def test_the_manifest_names_every_file_that_a_run_writes(tmp_path: Path) -> None:
    flags = ["--evaluator", "tests.searching:accuracy", "--space", "tests.searching:small_space"]
    flags += ["--strategy", "random", "--trials", "3", "--finalists", "1", "--finalist-seeds", "1"]
    assert run.main([*flags, "--run-dir", str(tmp_path)]) == 0
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert _vouched(tmp_path) == dict.fromkeys(written - {".lock", MANIFEST, "study.db"}, True)
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert (content["format"], content["command"]) == (FORMAT, "nas.run")
    assert content["package"].startswith("efficientnet-search ")
    stamp = content["files"]["baseline.json"][0]
    assert stamp["size"] == (tmp_path / "baseline.json").stat().st_size


def _killed(at: int, action: Callable[[], None]) -> bool:
    """Whether a process that does `action` came so far as to be killed at its `at`-th step.

    Steps lie before, within and after every write, flush and change of name.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    steps = iter(range(1, 10**9))

    def stepping(act: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any) -> Any:
            for half in (True, False):
                if act is write and half:
                    act(args[0], args[1][: len(args[1]) // 2])
                if next(steps) == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return act(*args)

        return stepped

    write, rename, flush = Path.write_bytes, Path.replace, os.fsync
    Path.write_bytes, Path.replace = stepping(write), stepping(rename)  # type: ignore[method-assign]
    os.fsync = stepping(flush)
    try:
        action()
    finally:
        os._exit(0)


def test_row_18_a_kill_between_a_file_and_its_manifest_leaves_no_doubt(tmp_path: Path) -> None:
    """Killed at every step of the third write of a file: it is whole, as it was or as it became,
    and still vouched for; then a flipped bit is told."""

    def write() -> None:
        with RunFolder(tmp_path / "run", "nas.run") as folder:
            folder.write("results/a.csv", "third")

    at, killed, file = 0, True, tmp_path / "run" / "results" / "a.csv"
    while killed:
        at += 1
        with RunFolder(tmp_path / "run", "nas.run") as folder:
            for content in ("first", "second"):
                folder.write("results/a.csv", content)
        killed = _killed(at, write)
        assert file.read_text() == "third" or killed
        assert file.read_text() in ("second", "third")
        assert _vouched(tmp_path / "run") == {"results/a.csv": True}
        with RunFolder(tmp_path / "run", "nas.run"):
            names = {path.name for path in (tmp_path / "run").rglob("*")}
        assert names == {".lock", MANIFEST, "results", "a.csv"}
        _flip(file)
        assert _vouched(tmp_path / "run") == {"results/a.csv": False}
    assert at > 15


def test_a_damaged_file_is_not_vouched_for_by_what_replaces_it(tmp_path: Path) -> None:
    """Not while the new one is being written: killed then, the damaged one lies there still."""
    with RunFolder(tmp_path) as folder:
        folder.write("a.json", "one")
        _flip(tmp_path / "a.json")
        damaged = (tmp_path / "a.json").read_bytes()
        folder.write("a.json", "two")
        (tmp_path / "a.json").write_bytes(damaged)
        assert _vouched(tmp_path) == {"a.json": False}


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.write("finalists/a.json", "{}")
    others = [".bashrc.12.tmp", ".config.json.tmp", "finalists/.b.json.7.tmp", "x.1.tmp"]
    ours = [f".{MANIFEST}.12.tmp", ".checkpoint.pt.9.tmp", "finalists/.a.json.7.tmp"]
    for name in others + ours:
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path):
        pass
    assert {name for name in others + ours if (tmp_path / name).exists()} == set(others)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not readable"),
        ("[]", "is not readable"),
        ("[" * 100_000, "is not readable"),
        ('{"format": 2}', r"is not readable \('package'\)"),
        ('{"format": 2, "package": "", "files": {"a": 1}}', "is not readable"),
        ('{"format": 2, "package": "", "files": {"../a": []}}', "no name of a file in the folder"),
        ('{"format": 2, "package": "", "files": {"/a": []}}', "no name of a file in the folder"),
        ('{"format": 2, "package": "", "files": {"": []}}', "no name of a file in the folder"),
        ('{"format": "2", "package": ""}', "in format 2 of ; this is format 3"),
        ('{"format": 4, "package": "us 9.1"}', r"in format 4 of us 9\.1; this is format 3: update"),
        ('{"format": 4, "package": "\\u001b[2J"}', r"of \\x1b\[2J; .* choose another --out\."),
    ],
)
def test_row_29_a_manifest_that_is_not_ours_to_read_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    folder = RunFolder(tmp_path, flag="--out")
    with pytest.raises(UserError, match=message), folder:
        pass
    assert (tmp_path / MANIFEST).read_text() == content
    with pytest.raises(UserError, match=message), folder:  # and it is free again
        pass


def test_row_29_a_newer_folder_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / MANIFEST).write_text('{"format": 4, "package": "efficientnet-search 7.0"}')
    assert run.main(["--run-dir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {tmp_path} was written in format 4 of efficientnet-search 7.0; this is format 3: "
        "update, or choose another --run-dir.\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {".lock", MANIFEST}


def test_row_29_a_folder_of_format_1_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search that was killed in its third trial, written by the version before the manifest."""
    monkeypatch.chdir(tmp_path)
    fixture = ROOT / "tests" / "fixtures" / "run-format-1"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((fixture / "config.json").read_bytes())
    with sqlite3.connect(folder / "study.db") as database:
        database.executescript((fixture / "study.sql").read_text())
    database.close()

    flags = ["--evaluator", "tests.searching:noting", "--space", "tests.searching:small_space"]
    flags += ["--strategy", "random", "--trials", "5", "--finalists", "0", "--epochs", "2"]
    assert run.main([*flags, "--run-dir", "run"]) == 0
    assert (
        "note    run was written in format 1 and goes on in format 3\n" in capsys.readouterr().out
    )
    measured = {call["digest"] for call in calls(tmp_path)}
    assert not measured & {"f461e4a03a66", "ee41628fa2f5"}  # the two that were finished
    assert "58334226d033" in measured  # and the one that was not
    trials = pd.read_csv(folder / "trials.csv")
    ended = trials[trials.state == "COMPLETE"]
    assert sorted(ended.slot) == [0, 1, 2, 3, 4]
    assert "format" not in json.loads((folder / "config.json").read_text())["conditions"]
    assert all(_vouched(folder).values())

    assert run.main([*flags, "--run-dir", "run"]) == 0
    assert "format" not in capsys.readouterr().out
    assert {call["digest"] for call in calls(tmp_path)} == measured


def test_a_changed_file_that_a_command_reads_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder(tmp_path, "nas.run") as folder:
        whole = folder.write("baseline.json", '{"a": 1}')
        edited = folder.write("finalists/b.json", '{"b": 1}')
    _flip(edited)
    (tmp_path / "copy.json").write_bytes(edited.read_bytes())  # of this, nothing is known
    warn_of_changes(None, whole, "efficientnet-b0", "my_module:build@64", tmp_path / "none.json")
    warn_of_changes(tmp_path / "copy.json", "\0", "x" * 5000)
    assert capsys.readouterr().out == ""
    warn_of_changes(f"my_module:build@{edited}")
    assert capsys.readouterr().out == (
        f"WARNING {edited} differs from what nas.run wrote (SHA-256 in manifest.json): it was "
        "edited or damaged since\n"
    )
