"""Rows 16 and 21 of the fault matrix: a disk that is full and a database that is locked end a
command with one line, and the same command goes on; whichever write it is that fails. Trainings
are in test_train_faults."""

import errno
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from nas import run
from nas.search import plot
from nas.trials import record
from scaling_search import grid
from scaling_search import report as grid_report
from search_spaces.architecture import Architecture
from search_spaces.zoo import load_architecture
from tests import grid_evaluators
from tests.searching import accuracy

ROOT = Path(__file__).parents[1]
SEARCH = [
    *("--evaluator", "tests.test_disk_faults:evaluator", "--space", "tests.searching:small_space"),
    *("--strategy", "random", "--trials", "3", "--finalists", "0", "--epochs", "1"),
]

at_call: dict[int, Any] = {}
"""What happens at the n-th call of the evaluator."""
seen: list[str] = []


def evaluator(architecture: Architecture, *, epochs: int, seed: int) -> float:
    seen.append(architecture.digest)
    at_call.pop(len(seen), lambda: None)()
    return accuracy(architecture, epochs=epochs, seed=seed)


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    at_call.clear()
    seen.clear()
    # Drawing takes most of the time of these commands.
    monkeypatch.setattr(plot, "pareto_plot", lambda *_: b"a plot")
    monkeypatch.setattr(grid_report, "triangle_plot", lambda *_: b"a plot")


def _search(folder: Path) -> int:
    return run.main([*SEARCH, "--run-dir", str(folder)])


def _table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trials.csv", keep_default_na=False).sort_values("slot")


def _measured(folder: Path) -> list[tuple[Any, ...]]:
    """Slot, network and value of what was measured."""
    table = _table(folder)
    ended = table[table.state == "COMPLETE"]
    assert "RUNNING" not in set(table.state)
    assert table.attempt.max() <= 1
    return list(zip(ended.slot, ended.digest, ended.accuracy.astype(float), strict=True))


def _grid(folder: Path) -> int:
    baseline = folder.parent / "tiny.json"
    baseline.write_text(grid_evaluators.TINY.to_json())
    flags = ["--seeds", "1", "--candidates", "3", "--full"]
    return grid.main(grid_evaluators.arguments(baseline, folder, *flags))


class Command(NamedTuple):
    start: Callable[[Path], int]
    """In a folder; the exit status."""
    result: Callable[[Path], Any]
    """What a folder holds in the end."""


COMMANDS = {
    "run": Command(_search, lambda f: (_measured(f), load_architecture(f / "baseline.json"))),
    "grid": Command(_grid, lambda f: (_measured(f), (f / "constants.json").read_text())),
}


def test_row_21_a_locked_database_ends_the_command_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _search(tmp_path / "undisturbed") == 0
    folder, finished = tmp_path / "run", len(seen)
    other = sqlite3.connect(":memory:")

    def lock() -> None:
        nonlocal other
        other = sqlite3.connect(folder / "study.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr(record, "_LOCK_SECONDS", 0.2)
    at_call[finished + 2] = lock
    assert _search(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Another process has kept {folder / 'study.db'} locked for 0.2")
    assert error.endswith("What is finished is kept, and the same command goes on.\n")
    assert error.count("\n") == 1
    assert len(_table(folder)) == 2  # a reader is not locked out: what is finished was saved

    assert _search(folder) == 2  # still locked
    other.close()
    assert _search(folder) == 0
    assert _measured(folder) == _measured(tmp_path / "undisturbed")


class _Disk:
    """Counts writes, to the database and of files, and has no room for the n-th and later, or for
    the n-th alone."""

    def __init__(self, room: int, *, once: bool) -> None:
        self._room, self._once = room, once
        self._writes = 0

    @property
    def refused(self) -> bool:
        """Whether any write found no room."""
        return self._writes > self._room

    @property
    def is_full(self) -> bool:
        """Whether the next write finds no room."""
        self._writes += 1
        return self._writes == self._room + 1 if self._once else self.refused


@contextmanager
def _disk(room: int, *, statements: bool = False, once: bool = False) -> Iterator[_Disk]:
    """A disk with room for so many commits and files; for so many statements, if asked for."""
    disk, fsync = _Disk(room, once=once), os.fsync

    def before(sql: str) -> None:
        writes = sql.lstrip().split(" ", 1)[0].upper() in ("INSERT", "UPDATE", "CREATE")
        if statements and writes and disk.is_full:
            raise sqlite3.OperationalError("database or disk is full")

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            before(sql)
            return super().execute(sql, *args)

        def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
            before(sql)
            return super().executemany(sql, *args)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> sqlite3.Cursor:  # type: ignore[override]
            return super().cursor(Cursor)

        def commit(self) -> None:
            if self.in_transaction and disk.is_full:
                raise sqlite3.OperationalError("database or disk is full")
            super().commit()

    def full(file: int) -> None:
        is_content = stat.S_ISREG(os.fstat(file).st_mode)  # a folder's entry has its room
        if is_content and disk.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
        patch.setattr(os, "fsync", full)
        yield disk


def _assert_the_command_goes_on(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], step: int, **kind: bool
) -> None:
    """The n-th write fails, for n = 1, 2, ... until a run passes untouched."""
    command = COMMANDS[name]
    assert command.start(place / "undisturbed") == 0
    expected = command.result(place / "undisturbed")
    room = 0
    while True:
        folder = place / f"full-{room}"
        capsys.readouterr()
        with _disk(room, **kind) as disk:
            status = command.start(folder)
        error = capsys.readouterr().err
        if not disk.refused:
            assert status == 0
            break
        assert status == 2, room
        assert error.startswith("error: "), room
        assert error.endswith(" and the same command goes on.\n"), room
        assert error.count("\n") == 1, room
        assert not list(folder.rglob(".*.tmp")), room
        assert command.start(folder) == 0, room
        assert command.result(folder) == expected, room
        shutil.rmtree(folder)
        room += step
    assert room >= 4 * step, "hardly a write was seen"


@pytest.mark.slow
def test_row_16_whichever_commit_or_file_finds_no_room_the_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _assert_the_command_goes_on("run", tmp_path, capsys, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step", "kind"),
    [
        ("run", 1, {}),
        ("run", 3, {"once": True}),
        ("run", 9, {"statements": True}),
        ("grid", 3, {}),
    ],
)
def test_row_16_whichever_write_finds_no_room_the_command_goes_on(
    name: str,
    step: int,
    kind: dict[str, bool],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _assert_the_command_goes_on(name, tmp_path, capsys, step, **kind)


_ON_A_REAL_DISK = """
import contextlib, io, json, os, shutil, sys
from pathlib import Path
from tests.test_disk_faults import COMMANDS

command, disk = COMMANDS["run"], Path("disk")
filler, run = disk / "filler", disk / "run"
print(command.start(Path("undisturbed")), file=sys.stderr)
expected = command.result(Path("undisturbed"))
for kilobytes in range(0, 2048, 32):
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(0, free - 1024 * kilobytes)))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = command.start(run)
    filler.unlink()
    again = command.start(run)
    same = command.result(run) == expected
    leftovers = [path.name for path in run.rglob(".*.tmp")]
    print("SEEN", json.dumps([kilobytes, status, errors.getvalue(), again, same, leftovers]))
    shutil.rmtree(run)
    if status == 0:
        break
"""


@pytest.mark.slow
def test_row_16_on_a_disk_of_2_mb(tmp_path: Path) -> None:
    """Really full: with room for nothing, for 32 KB, 64 KB, ... until a run passes."""
    (tmp_path / "disk").mkdir()
    private = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-ec"]
    mount = "mount -t tmpfs -o size=2m tmpfs disk"
    try:
        subprocess.run([*private, mount], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system of our own can be mounted here: {error}")
    done = subprocess.run(
        [*private, f'{mount}; exec "$0" -c "$1"', sys.executable, _ON_A_REAL_DISK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("SEEN ") for line in done.stdout.splitlines() if "SEEN " in line]
    *full, last = map(json.loads, lines)
    assert len(full) >= 5
    for kilobytes, status, error, *rest in full:
        assert (status, error.count("\n")) == (2, 1), (kilobytes, error)
        assert error.startswith("error: "), kilobytes
        assert rest == [0, True, []], (kilobytes, error)
    assert last[1:] == [0, "", 0, True, []]
