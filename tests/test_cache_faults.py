"""Decoded images on disk where there is no room, under a kill, made by two at once: never half."""

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest

from nas.data import cache
from nas.data.cache import Mapped
from tests.caching import equal_images, load_pets, only_file


@contextmanager
def _little_room() -> Iterator[None]:
    """No file may become longer than 10 kB: neither may the log that this suite writes, so for the
    length of a call only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _stays_in_memory(
    pets: Path, folder: Path, why: str, room: AbstractContextManager[None] | None = None
) -> None:
    with room or nullcontext():
        data = load_pets(pets, folder)
    assert equal_images(data, load_pets(pets, None))
    assert not isinstance(data.train.images, np.memmap)
    (notice,) = data.notices
    assert why in notice
    assert "name another --cache-dir" in notice


def test_without_room_for_the_file_images_stay_in_memory(pets: Path, tmp_path: Path) -> None:
    _stays_in_memory(pets, tmp_path / "cache", "File too large", _little_room())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_would_be_full_is_not_filled(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**28))
    _stays_in_memory(pets, tmp_path / "cache", "0.00 GB are needed and 0.27 GB free")
    assert list((tmp_path / "cache").iterdir()) == []


def test_where_no_folder_can_be_images_stay_in_memory(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _stays_in_memory(pets, tmp_path / "file" / "cache", "Not a directory")


_CHILD = """
import os, signal, sys
from pathlib import Path
from nas.data import cache, images
from nas.data.dataset import load_for_search

source, folder, dies = sys.argv[1:]
store = images.store
calls = []

def dying(image, out):
    calls.append(1)
    if len(calls) > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    store(image, out)

if dies == "dies":
    images.store = dying
print("ready", flush=True)
sys.stdin.readline()
data = load_for_search(source, size=16, cache=cache.Cache(Path(folder)))
print(data.train.images.sum(), type(data.train.images).__name__)
"""


def _child(pets: Path, folder: Path, how: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(pets), str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process may that starts at the same time."""
    folder, flock, taken = tmp_path / "cache", fcntl.flock, []

    def late(file: IO[bytes], how: int) -> None:
        if not taken:
            taken.extend(folder.iterdir())
            cache._remove_unfinished(folder)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    data = load_pets(pets, folder)
    assert len(taken) == 1
    assert not taken[0].exists()
    assert isinstance(data.train.images, Mapped)
    assert equal_images(data, load_pets(pets, None))
    only_file(folder)


def test_two_processes_make_it_at_once(pets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    children = [_child(pets, folder, "lives") for _ in range(2)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    expected = f"{load_pets(pets, None).train.images.sum()} Mapped\n"
    assert [child.communicate()[0] for child in children] == [expected] * 2
    assert equal_images(load_pets(pets, folder), load_pets(pets, None))
    only_file(folder)


def test_what_a_killed_process_left_is_removed_and_not_used(pets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    child = _child(pets, folder, "dies")
    child.communicate("go\n")
    assert child.returncode == -signal.SIGKILL
    left = only_file(folder)
    assert left.name.startswith("unfinished-")
    with left.open("rb") as held:  # as the process at it does
        fcntl.flock(held, fcntl.LOCK_EX)
        load_pets(pets, folder)
        assert left.exists()
    (made,) = set(folder.iterdir()) - {left}
    os.unlink(made)
    assert equal_images(load_pets(pets, folder), load_pets(pets, None))
    assert not left.exists()
