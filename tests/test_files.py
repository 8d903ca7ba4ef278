"""Whole files, locked folders, and what changed between two runs."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.files import FolderError, atomic_write, differences, exclusive

HOLD = """
import sys, time
from pathlib import Path
from search_spaces.files import exclusive
with exclusive(Path(sys.argv[1]), "--out"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("content", ["naïve\n", b"\x00\xff"])
def test_a_write_replaces_what_was_there(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, "before")
    atomic_write(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", "before")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(tmp_path / "file", "lone surrogate \ud800")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path / "folder", "after")  # fails at the rename, all bytes written
    assert (tmp_path / "file").read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_gets_the_permissions_of_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", "")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        message = f"run is in use by process {holder.pid}. Wait for it, .* choose another --run-dir"
        with pytest.raises(FolderError, match=message), exclusive(tmp_path / "run", "--run-dir"):
            pass
        holder.kill()
    with exclusive(tmp_path / "run", "--run-dir"):
        pass
    with exclusive(tmp_path / "run", "--run-dir"):  # and after an ordinary end
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = f"`--out {tmp_path}/file/out` cannot be written"
    with pytest.raises(FolderError, match=message), exclusive(tmp_path / "file" / "out", "--out"):
        pass


def test_differences_name_each_changed_value() -> None:
    old = {"seed": 0, "data": "a", "recipe": {"epochs": 1, "batch": 8}, "gone": 1}
    new = {"seed": 1, "data": "a", "recipe": {"epochs": 2, "batch": 8}, "more": "x"}
    assert differences(old, old) == []
    assert differences(old, new) == [
        "seed was 0, now 1",
        "epochs was 1, now 2",
        "gone was 1, now None",
        "more was None, now 'x'",
    ]
    assert differences({"t": 4e8, "w": -0.07}, {"t": 6.5e8, "w": -0.1}) == [
        "t was 400M, now 650M",
        "w was -0.07, now -0.1",
    ]
    assert differences({"t": 4e8}, {"t": 4e8 + 1}) == ["t was 400000000.0, now 400000001.0"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    kept, mine = tmp_path / "kept", tmp_path / "mine"
    kept.mkdir()
    for folder in (kept, mine):
        with exclusive(folder, "--out"):
            assert folder.is_dir()
    assert kept.is_dir()
    assert not mine.exists()
    with exclusive(mine, "--out"):
        (mine / "result").write_text("")
    assert (mine / "result").exists()


def test_a_file_and_then_its_folder_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order around the change of name; and what fails is named."""
    flushed: list[tuple[bool, bool]] = []

    def flush(file: int) -> None:
        kind = os.path.isdir(f"/proc/self/fd/{file}")
        flushed.append((kind, (tmp_path / "file").exists()))
        if kind and len(flushed) > 2:
            raise OSError(len(flushed), "no luck")

    monkeypatch.setattr(os, "fsync", flush)
    atomic_write(tmp_path / "file", "content")
    assert flushed == [(False, False), (True, True)]
    with pytest.raises(OSError, match=rf"no luck: '{tmp_path}'"):
        atomic_write(tmp_path / "file", "content")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_flush_folders(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of a network; there the file is as whole as can be."""

    def flush(file: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", flush)
    atomic_write(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(FolderError, match=r"cannot be locked: .*No locks"),
        exclusive(tmp_path, "--out"),
    ):
        pass
