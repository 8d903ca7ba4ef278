"""Nothing leaks into the search; fingerprints follow the content and nothing else."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.dataset import (
    DataError,
    ImageData,
    Split,
    load_for_search,
    load_for_training,
    majority_share,
)
from tests.trees import contents, counts, plant, same


@pytest.fixture
def pets(tmp_path) -> Path:
    tree = {"train/cat": 20, "train/dog": 30, "val/cat": 3, "val/dog": 2, "test/dog": 4}
    return plant(tmp_path / "pets", tree)


class TestSearch:
    def test_holdout_comes_from_train_alone(self, pets):
        data = load_for_search(str(pets), size=4)
        whole = load_for_training(str(pets), size=4)
        assert counts(data.train) == [18, 27]
        assert counts(data.search_validation) == [2, 3]
        assert data.validation is None
        assert data.test is None
        assert not contents(data.train) & contents(data.search_validation)
        assert contents(data.train) | contents(data.search_validation) == contents(whole.train)

    def test_validation_and_test_are_not_opened(self, pets):
        before = load_for_search(str(pets), size=4)
        for path in [*pets.glob("val/*/*"), *pets.glob("test/*/*")]:
            path.unlink()
            os.mkfifo(path)  # to open it would wait for ever
        after = load_for_search(str(pets), size=4)
        assert same(before.train, after.train)
        assert before.fingerprint == after.fingerprint

    def test_test_part_of_a_divided_folder_is_not_opened(self, tmp_path):
        root = plant(tmp_path / "flat", {"a": 20, "b": 20})
        seen = load_for_search(str(root), size=4)
        parts = load_for_training(str(root), size=4)
        hidden = contents(parts.test) | contents(parts.validation)
        for path in root.glob("*/*"):
            if np.asarray(_stored(path)).tobytes() in hidden:
                path.write_bytes(b"corrupt")
        again = load_for_search(str(root), size=4)
        assert len(hidden) == 8
        assert same(seen.train, again.train)
        assert seen.fingerprint == again.fingerprint

    def test_same_split_every_call_and_another_by_seed(self, pets):
        first, second = (load_for_search(str(pets), size=4) for _ in range(2))
        other = load_for_search(str(pets), size=4, seed=1)
        assert same(first.search_validation, second.search_validation)
        assert not same(first.search_validation, other.search_validation)

    def test_limit_is_taken_before_the_holdout(self):
        data = load_for_search("digits", size=8, limit=1000)
        assert len(data.train) == 900
        assert counts(data.search_validation) == [10] * 10
        whole = np.array(counts(load_for_training("digits", size=8).train))
        np.testing.assert_allclose(np.array(counts(data.train)) + 10, whole / 1.437, atol=1)

    def test_limit_above_the_images_changes_nothing(self, pets):
        limited = load_for_search(str(pets), size=4, limit=50)
        assert same(limited.train, load_for_search(str(pets), size=4).train)

    def test_every_class_is_on_both_sides(self, tmp_path):
        root = plant(tmp_path / "few", {f"train/{c}": 2 for c in "abcde"})
        data = load_for_search(str(root), size=4)
        assert counts(data.train) == counts(data.search_validation) == [1] * 5

    def test_store_is_contiguous_and_survives_pickling(self, pets):
        data = load_for_search(str(pets), size=5)
        again: ImageData = pickle.loads(pickle.dumps(data))
        assert data.search_validation is not None
        for split in (data.train, data.search_validation):
            assert split.images.flags.c_contiguous
            assert split.images.shape[1:] == (3, 5, 5)
            assert split.labels.dtype == np.int64
        assert same(again.train, data.train)

    @pytest.mark.parametrize("holdout", [0.0, 1.0, -0.1])
    def test_holdout_out_of_range(self, pets, holdout):
        with pytest.raises(DataError, match=r"0 < holdout < 1"):
            load_for_search(str(pets), size=4, holdout=holdout)

    def test_images_that_the_limit_leaves_out_may_judge(self):
        plain = load_for_search("digits", size=8, limit=300)
        more = load_for_search("digits", size=8, limit=300, judges=500)
        assert same(more.train, plain.train)
        assert more.search_validation is not None
        assert len(more.search_validation) == 500
        assert contents(plain.search_validation) < contents(more.search_validation)
        assert not contents(more.search_validation) & contents(more.train)
        whole = np.array(counts(load_for_training("digits", size=8).train))
        share = 500 * whole / whole.sum()
        np.testing.assert_allclose(counts(more.search_validation), share, atol=2)

    def test_fewer_judges_leave_more_to_train_on(self):
        data = load_for_search("digits", size=8, limit=300, judges=20)
        assert (len(data.train), counts(data.search_validation)) == (280, [2] * 10)

    @pytest.mark.parametrize(("limit", "most"), [(None, 144), (300, 1167)])
    def test_judges_are_not_trained_on(self, limit, most):
        most_judges = load_for_search("digits", size=8, limit=limit, judges=most)
        assert most_judges.search_validation is not None
        assert len(most_judges.search_validation) == most
        with pytest.raises(DataError, match=rf"{most + 1} images to judge by .* the {most} that"):
            load_for_search("digits", size=8, limit=limit, judges=most + 1)

    def test_limit_too_small(self, pets):
        with pytest.raises(DataError, match="Allow at least 4"):
            load_for_search(str(pets), size=4, limit=3)


class TestFingerprint:
    def test_size_limit_and_times_do_not_matter(self, pets):
        first = load_for_search(str(pets), size=4).fingerprint
        for path in pets.rglob("*.png"):
            os.utime(path, (1, 1))
        moved = shutil.move(pets, pets.parent / "moved")
        assert load_for_search(str(moved), size=8, limit=10, seed=3).fingerprint == first
        assert len(first) == 12
        assert int(first, 16)

    def test_content_name_and_class_matter(self, pets):
        seen = {load_for_search(str(pets), size=4).fingerprint}
        image = pets / "train" / "cat" / "000.png"
        Image.new("RGB", (6, 4)).save(image)
        seen.add(load_for_search(str(pets), size=4).fingerprint)
        image = image.rename(image.with_name("renamed.png"))
        seen.add(load_for_search(str(pets), size=4).fingerprint)
        image.rename(pets / "train" / "dog" / "renamed.png")
        seen.add(load_for_search(str(pets), size=4).fingerprint)
        assert len(seen) == 4

    def test_training_covers_the_other_splits(self, pets):
        first = load_for_training(str(pets), size=4).fingerprint
        (pets / "test" / "dog" / "000.png").unlink()
        assert load_for_training(str(pets), size=4).fingerprint != first


class TestNotices:
    def test_duplicates_of_train(self, pets):
        shutil.copy(pets / "train/dog/000.png", pets / "test/dog/000.png")
        (notice,) = load_for_training(str(pets), size=4).notices
        assert notice.startswith("1 of 4 test images are in train too")
        assert load_for_search(str(pets), size=4).notices == ()

    def test_several_frames(self, pets):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        frames[0].save(pets / "train/dog/x.gif", save_all=True, append_images=frames[1:])
        (notice,) = load_for_search(str(pets), size=4).notices
        assert notice.startswith("1 files hold several frames")


class TestStatistics:
    def test_majority(self):
        labels = np.array([0, 1, 1, 2], dtype=np.int64)
        assert majority_share(Split(np.zeros((4, 3, 1, 1), dtype=np.uint8), labels)) == 0.5


def _stored(path: Path) -> np.ndarray:
    """The image as a 4 px store holds it, (3, 4, 4)."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image)[:, 1:5].transpose(2, 0, 1))
