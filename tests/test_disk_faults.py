"""Rows 16 and 21 of the fault matrix: a disk that is full and a database that is locked end a
command with one line, and the same command goes on; whichever write it is that fails."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas.run import main
from nas.search import record
from search_spaces.architecture import Architecture
from tests.searching import accuracy

FLAGS = [
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
def _afresh() -> None:
    at_call.clear()
    seen.clear()


def _start(folder: Path) -> int:
    return main([*FLAGS, "--run-dir", str(folder)])


def _table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trials.csv", keep_default_na=False).sort_values("slot")


def _measured(folder: Path) -> list[tuple[Any, ...]]:
    """Slot, network and value of what was measured."""
    table = _table(folder)
    ended = table[table.state == "COMPLETE"]
    assert "RUNNING" not in set(table.state)
    return list(zip(ended.slot, ended.digest, ended.accuracy.astype(float), strict=True))


def test_21_a_locked_database_ends_the_command_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _start(tmp_path / "undisturbed") == 0
    folder, finished = tmp_path / "run", len(seen)
    other = sqlite3.connect(":memory:")

    def lock() -> None:
        nonlocal other
        other = sqlite3.connect(folder / "study.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr(record, "_LOCK_SECONDS", 0.2)
    at_call[finished + 2] = lock
    assert _start(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Another process has kept {folder / 'study.db'} locked for 0.2")
    assert error.endswith("What is finished is kept, and the same command goes on.\n")
    assert error.count("\n") == 1
    assert len(_table(folder)) == 2  # a reader is not locked out: what is finished was saved

    assert _start(folder) == 2  # still locked
    other.close()
    assert _start(folder) == 0
    assert _measured(folder) == _measured(tmp_path / "undisturbed")


class _Disk:
    """Counts writes, to the database and of files, and has no room for the n-th and later."""

    def __init__(self, room: int) -> None:
        self.room, self.writes = room, 0

    @property
    def is_full(self) -> bool:
        self.writes += 1
        return self.writes > self.room


@contextmanager
def _disk(room: int, *, statements: bool = False) -> Iterator[_Disk]:
    """A disk with room for so many commits and files; for so many statements, if asked for."""
    disk, fsync = _Disk(room), os.fsync

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            writes = sql.lstrip().split(" ", 1)[0].upper() in ("INSERT", "UPDATE", "CREATE")
            if statements and writes and disk.is_full:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *args)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> sqlite3.Cursor:  # type: ignore[override]
            return super().cursor(Cursor)

        def commit(self) -> None:
            if self.in_transaction and disk.is_full:
                raise sqlite3.OperationalError("database or disk is full")
            super().commit()

    def full(file: int) -> None:
        if disk.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
        patch.setattr(os, "fsync", full)
        yield disk


def _assert_the_command_goes_on(tmp_path: Path, step: int, **kind: Any) -> None:
    with _disk(10**9, **kind) as disk:
        assert _start(tmp_path / "undisturbed") == 0
    expected = _measured(tmp_path / "undisturbed")
    assert len(expected) == 3
    for room in range(0, disk.writes, step):
        folder = tmp_path / f"full-{room}"
        with _disk(room, **kind):
            assert _start(folder) == 2, room
        assert not list(folder.glob("*.tmp")), room
        assert not list(folder.glob(".*.tmp")), room
        assert _start(folder) == 0, room
        assert _measured(folder) == expected, room
        assert _table(folder).attempt.max() <= 1


def test_16_whichever_commit_or_file_finds_no_room_the_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _assert_the_command_goes_on(tmp_path, 3)
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    assert all(line.endswith("goes on.") for line in errors)
    assert {"database or disk is full" in line for line in errors} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize(("step", "statements"), [(1, False), (4, True)])
def test_16_whichever_write_finds_no_room_the_command_goes_on(
    step: int, statements: bool, tmp_path: Path
) -> None:
    _assert_the_command_goes_on(tmp_path, step, statements=statements)
