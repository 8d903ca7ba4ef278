"""Decoded images on disk: decoded once, mapped by all, made anew when damaged."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data import images
from nas.data.cache import Cache, Mapped
from nas.data.dataset import DataError, ImageData, load_for_search, load_for_training
from nas.run import Settings
from nas.trials.execution import execute
from nas.workers import Workers
from search_spaces.architecture import Architecture
from tests.caching import SIZE, equal_images, load_pets, only_file
from tests.searching import fixed_study, proposals
from tests.trees import contents, same


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


def test_a_second_start_decodes_nothing(pets: Path, tmp_path: Path, decoded: list[int]) -> None:
    folder = tmp_path / "cache"
    first = load_pets(pets, folder)
    assert len(decoded) == 50
    assert equal_images(load_pets(pets, folder), first)
    assert len(decoded) == 50
    assert equal_images(load_pets(pets, None), first)
    assert len(decoded) == 100
    assert first.notices == ()
    assert only_file(folder).stat().st_size == 128 + 50 * 3 * SIZE**2


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
    before = load_pets(pets, folder)
    path = next(pets.glob("train/cat/*"))
    Image.new("RGB", (6, 4), "red").save(path)
    after = load_pets(pets, folder)
    assert len(contents(before.train) ^ contents(after.train)) == 2
    assert before.fingerprint != after.fingerprint
    load_pets(pets, folder, seed=1)
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
    first = load_pets(pets, None)
    load_pets(pets, folder)
    file = only_file(folder)
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
    assert equal_images(load_pets(pets, folder), first)
    assert len(decoded) == 150
    assert only_file(folder).read_bytes() == whole


def test_read_only_it_is_taken_as_it_is_or_not_at_all(
    pets: Path, tmp_path: Path, decoded: list[int]
) -> None:
    folder = tmp_path / "cache"

    def look() -> ImageData:
        return load_for_search(str(pets), size=SIZE, cache=Cache(folder, is_read_only=True))

    plain = look()
    assert not folder.exists()
    load_pets(pets, folder)
    assert len(decoded) == 100
    assert isinstance(look().train.images, Mapped)
    assert len(decoded) == 100
    damaged = only_file(folder).read_bytes()[:-1]
    only_file(folder).write_bytes(damaged)
    assert equal_images(look(), plain)
    assert len(decoded) == 150
    assert only_file(folder).read_bytes() == damaged


def test_another_process_maps_the_file(pets: Path, tmp_path: Path) -> None:
    data = load_pets(pets, tmp_path / "cache")
    for split in (data.train, data.search_validation):
        assert split is not None
        pickled = pickle.dumps(split.images, protocol=5)
        assert len(pickled) < 500
        received = pickle.loads(pickle.dumps(pickle.loads(pickled)))
        assert isinstance(received, Mapped)
        assert received.filename == str(only_file(tmp_path / "cache"))
        assert np.array_equal(received, split.images)
        assert not received.flags.writeable
    # What is not rows of the file goes by value.
    for part in (data.train.images[:, :, ::2], data.train.images[[1, 5]], data.train.images + 1):
        received = pickle.loads(pickle.dumps(part))
        assert not isinstance(received, np.memmap)
        assert np.array_equal(received, part)


def test_a_file_that_is_gone_is_named(pets: Path, tmp_path: Path) -> None:
    data = load_pets(pets, tmp_path / "cache")
    pickled = pickle.dumps(data.train)
    shutil.rmtree(tmp_path / "cache")
    assert data.train.images.any(), "who has mapped it keeps it"
    with pytest.raises(DataError, match=r"cannot be mapped: No such file.*Start the command again"):
        pickle.loads(pickled)


def test_images_that_are_refused_leave_no_file(pets: Path, tmp_path: Path) -> None:
    next(pets.glob("train/cat/*")).write_bytes(b"no image")
    with pytest.raises(DataError, match="1 image cannot be used"):
        load_pets(pets, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    data = load_pets(pets, tmp_path / "cache", skip_bad=True)
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
    data = load_pets(pets, tmp_path / "cache")
    study = fixed_study(tmp_path / "study.db", proposals(2))
    execute(study, Looking(data.train.images), Workers(count=2))
    assert [result.outcome.accuracy for result in study.results] == [1.0, 1.0]


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
        file = only_file(tmp_path / where)
        assert getattr(task.training.data.train.images, "filename", "") == str(file)
        assert len(pickle.dumps(task.training.data.train.images)) < 500
