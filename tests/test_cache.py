"""Decoded images on disk: decoded once, mapped by all, made anew when damaged, never half."""

import fcntl
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from nas.data import cache, images
from nas.data.cache import Cache, Mapped
from nas.data.dataset import DataError, ImageData, load_for_search, load_for_training
from nas.run import Settings
from nas.trials.execution import execute
from nas.workers import Workers
from search_spaces.architecture import Architecture
from tests.searching import fixed_study, proposals
from tests.trees import contents, plant, same

SIZE = 16


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return plant(tmp_path / "pets", {"train/cat": 20, "train/dog": 30, "val/cat": 2, "val/dog": 2})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every image that is decoded."""
    calls: list[int] = []
    store = images.store

    def counting(image: Image.Image, out: np.ndarray) -> None:
        calls.append(1)
        store(image, out)

    monkeypatch.setattr(images, "store", counting)
    return calls


def _load(pets: Path, folder: Path | None, **options: Any) -> ImageData:
    cache = None if folder is None else Cache(folder)
    return load_for_search(str(pets), size=SIZE, cache=cache, **options)


def _equal(one: ImageData, other: ImageData) -> bool:
    return (
        same(one.train, other.train)
        and same(one.search_validation, other.search_validation)
        and one.fingerprint == other.fingerprint
    )


def _file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_second_start_decodes_nothing(pets: Path, tmp_path: Path, decoded: list[int]) -> None:
    folder = tmp_path / "cache"
    first = _load(pets, folder)
    assert len(decoded) == 50
    assert _equal(_load(pets, folder), first)
    assert len(decoded) == 50
    assert _equal(_load(pets, None), first)
    assert len(decoded) == 100
    assert first.notices == ()
    assert _file(folder).stat().st_size == 128 + 50 * 3 * SIZE**2


def test_a_training_maps_every_split(pets: Path, tmp_path: Path, decoded: list[int]) -> None:
    plain = load_for_training(str(pets), size=SIZE)
    assert len(decoded) == 54
    for _ in range(2):
        mapped = load_for_training(str(pets), size=SIZE, cache=Cache(tmp_path / "cache"))
        assert len(decoded) == 108
        assert mapped.fingerprint == plain.fingerprint
        assert mapped.notices == plain.notices
        for name in ("train", "validation"):
            split = getattr(mapped, name)
            assert same(split, getattr(plain, name))
            assert isinstance(split.images, Mapped)


def test_what_the_pixels_depend_on_makes_another_file(
    pets: Path, tmp_path: Path, decoded: list[int]
) -> None:
    folder = tmp_path / "cache"
    before = _load(pets, folder)
    path = next(pets.glob("train/cat/*"))
    Image.new("RGB", (6, 4), "red").save(path)
    after = _load(pets, folder)
    assert len(contents(before.train) ^ contents(after.train)) == 2
    assert before.fingerprint != after.fingerprint
    _load(pets, folder, seed=1)
    load_for_search(str(pets), size=8, cache=Cache(folder))
    assert len(list(folder.iterdir())) == 4
    assert len(decoded) == 200


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", "no header", "open header", "empty", "other shape"]
)
def test_a_damaged_file_is_made_anew(
    damage: str, pets: Path, tmp_path: Path, decoded: list[int]
) -> None:
    folder = tmp_path / "cache"
    first = _load(pets, None)
    _load(pets, folder)
    file = _file(folder)
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[-1000] ^= 1
    other = whole.replace(b"(50, 3, 16, 16)", b"(3, 50, 16, 16)")
    damaged = {
        "flipped": bytes(broken),
        "cut": whole[:-1],
        "no header": b"x" * len(whole),
        "open header": whole.replace(b"(50, 3, 16, 16)", b"(50, 3, 16, 16("),
        "empty": b"",
        "other shape": other,
    }
    assert damaged[damage] != whole
    file.write_bytes(damaged[damage])
    assert _equal(_load(pets, folder), first)
    assert len(decoded) == 150
    assert _file(folder).read_bytes() == whole


def test_read_only_it_is_taken_as_it_is_or_not_at_all(
    pets: Path, tmp_path: Path, decoded: list[int]
) -> None:
    folder = tmp_path / "cache"

    def look() -> ImageData:
        return load_for_search(str(pets), size=SIZE, cache=Cache(folder, is_read_only=True))

    plain = look()
    assert not folder.exists()
    _load(pets, folder)
    assert len(decoded) == 100
    assert isinstance(look().train.images, Mapped)
    assert len(decoded) == 100
    damaged = _file(folder).read_bytes()[:-1]
    _file(folder).write_bytes(damaged)
    assert _equal(look(), plain)
    assert len(decoded) == 150
    assert _file(folder).read_bytes() == damaged


def test_another_process_maps_the_file(pets: Path, tmp_path: Path) -> None:
    data = _load(pets, tmp_path / "cache")
    for split in (data.train, data.search_validation):
        assert split is not None
        pickled = pickle.dumps(split.images, protocol=5)
        assert len(pickled) < 500
        received = pickle.loads(pickle.dumps(pickle.loads(pickled)))
        assert isinstance(received, Mapped)
        assert received.filename == str(_file(tmp_path / "cache"))
        assert np.array_equal(received, split.images)
        assert not received.flags.writeable
    # What is not rows of the file goes by value.
    for part in (data.train.images[:, :, ::2], data.train.images[[1, 5]], data.train.images + 1):
        received = pickle.loads(pickle.dumps(part))
        assert not isinstance(received, np.memmap)
        assert np.array_equal(received, part)


def test_a_file_that_is_gone_is_named(pets: Path, tmp_path: Path) -> None:
    data = _load(pets, tmp_path / "cache")
    pickled = pickle.dumps(data.train)
    shutil.rmtree(tmp_path / "cache")
    assert data.train.images.any(), "who has mapped it keeps it"
    with pytest.raises(DataError, match=r"cannot be mapped: No such file.*Start the command again"):
        pickle.loads(pickled)


def test_images_that_are_refused_leave_no_file(pets: Path, tmp_path: Path) -> None:
    next(pets.glob("train/cat/*")).write_bytes(b"no image")
    with pytest.raises(DataError, match="1 image cannot be used"):
        _load(pets, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    data = _load(pets, tmp_path / "cache", skip_bad=True)
    assert len(data.train) == 44
    assert isinstance(data.train.images, Mapped)


class Looking:
    """An evaluator that says whether its process has mapped the file."""

    def __init__(self, images: np.ndarray) -> None:
        self._images, self._expected = images, int(images.sum())

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        assert int(self._images.sum()) == self._expected
        maps = Path("/proc/self/maps").read_text()
        return float(str(getattr(self._images, "filename", "nothing")) in maps)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_map_the_file(pets: Path, tmp_path: Path) -> None:
    data = _load(pets, tmp_path / "cache")
    study = fixed_study(tmp_path / "study.db", proposals(2))
    execute(study, Looking(data.train.images), Workers(count=2))
    assert [result.outcome.accuracy for result in study.results] == [1.0, 1.0]


# Faults


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
        data = _load(pets, folder)
    assert _equal(data, _load(pets, None))
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
    data = _load(pets, folder)
    assert len(taken) == 1
    assert not taken[0].exists()
    assert isinstance(data.train.images, Mapped)
    assert _equal(data, _load(pets, None))
    _file(folder)


def test_two_processes_make_it_at_once(pets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    children = [_child(pets, folder, "lives") for _ in range(2)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    expected = f"{_load(pets, None).train.images.sum()} Mapped\n"
    assert [child.communicate()[0] for child in children] == [expected] * 2
    assert _equal(_load(pets, folder), _load(pets, None))
    _file(folder)


def test_what_a_killed_process_left_is_removed_and_not_used(pets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    child = _child(pets, folder, "dies")
    child.communicate("go\n")
    assert child.returncode == -signal.SIGKILL
    left = _file(folder)
    assert left.name.startswith("unfinished-")
    with left.open("rb") as held:  # as the process at it does
        fcntl.flock(held, fcntl.LOCK_EX)
        _load(pets, folder)
        assert left.exists()
    (made,) = set(folder.iterdir()) - {left}
    os.unlink(made)
    assert _equal(_load(pets, folder), _load(pets, None))
    assert not left.exists()


# Commands


@pytest.mark.parametrize(
    ("flags", "workers", "where"),
    [
        ({}, Workers(), "run/cache"),
        ({"cache_dir": "shared"}, Workers(count=2), "shared"),
        ({"dry_run": True}, Workers(), None),
        ({}, Workers(ray_address="auto"), None),
    ],
)
def test_commands_keep_images_where_flags_say(
    flags: dict[str, Any], workers: Workers, where: str | None, tmp_path: Path, pets: Path
) -> None:
    if "cache_dir" in flags:
        flags = {"cache_dir": tmp_path / flags["cache_dir"]}
    before = set(tmp_path.iterdir())
    settings = Settings(data=str(pets), run_dir=tmp_path / "run", **flags)
    task = settings.load_task(workers, run_dir=settings.run_dir, resolution=SIZE, num_classes=None)
    assert task.training is not None
    if where is None:
        assert not isinstance(task.training.data.train.images, np.memmap)
        assert set(tmp_path.iterdir()) == before
    else:
        file = _file(tmp_path / where)
        assert getattr(task.training.data.train.images, "filename", "") == str(file)
        assert len(pickle.dumps(task.training.data.train.images)) < 500
