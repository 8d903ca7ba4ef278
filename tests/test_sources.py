"""Every kind of source by its classes and parts; what does not fit is refused by its cause."""

from pathlib import Path

import numpy as np
import pytest

from nas.data.dataset import DataError, load_for_search, load_for_training, native_size
from tests.trees import contents, counts, plant, write_mnist


@pytest.fixture
def pets(tmp_path) -> Path:
    tree = {"train/cat": 20, "train/dog": 30, "val/cat": 3, "val/dog": 2, "test/dog": 4}
    return plant(tmp_path / "pets", tree)


class TestDigits:
    def test_splits(self):
        data = load_for_training("digits", size=None)
        assert [len(s) for s in (data.train, data.validation, data.test) if s] == [1437, 180, 180]
        assert data.classes == tuple("0123456789")
        assert data.native_size == 8
        assert data.train.images.shape == (1437, 3, 8, 8)
        assert data.train.images.max() == 255
        assert min(counts(data.test)) >= 17

    def test_summary(self):
        data = load_for_training("digits", size=8)
        assert data.summary() == (
            "digits · 1,797 images · 10 classes · train 1,437 / val 180 / test 180 · "
            f"fingerprint {data.fingerprint}"
        )
        searched = load_for_search("digits", size=8)
        assert " · train 1,293 / search-val 144 · " in searched.summary()

    def test_pinned_for_ever(self):
        """A split that moves between versions would mix tested images into training."""
        data = load_for_training("digits", size=8)
        assert data.fingerprint == "0917a0ec6039"
        assert load_for_search("digits", size=8).fingerprint == "7fa4a033203a"


class TestFolders:
    def test_parts_and_labels(self, pets):
        data = load_for_training(str(pets), size=4)
        assert data.name == "pets"
        assert data.classes == ("cat", "dog")
        assert counts(data.train) == [20, 30]
        assert counts(data.validation) == [3, 2]
        assert counts(data.test) == [0, 4]

    @pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
    def test_names_of_validation(self, tmp_path, name):
        root = plant(tmp_path, {"Train/a": 2, "Train/b": 2, f"{name}/a": 1})
        data = load_for_training(str(root), size=4)
        assert counts(data.validation) == [1]
        assert data.test is None

    def test_one_folder_is_divided_80_10_10(self, tmp_path):
        root = plant(tmp_path, {"a": 20, "b": 40})
        data = load_for_training(str(root), size=4)
        assert counts(data.train) == [16, 32]
        assert counts(data.validation) == counts(data.test) == [2, 4]
        parts = [contents(s) for s in (data.train, data.validation, data.test)]
        assert len(set.union(*parts)) == 60

    def test_nested_folders_and_junk(self, tmp_path):
        root = plant(tmp_path, {"a/deep/er": 3, "a": 2, "b": 5, ".ipynb_checkpoints": 1})
        (root / "a" / ".DS_Store").write_bytes(b"junk")
        (root / "notes.txt").write_text("beside the class folders")
        data = load_for_training(str(root), size=4)
        assert data.classes == ("a", "b")
        assert sum(len(s) for s in (data.train, data.validation, data.test) if s) == 10

    def test_links_to_files_and_folders(self, tmp_path):
        origin = plant(tmp_path / "origin", {"a": 4, "b": 4})
        root = tmp_path / "links"
        (root / "train" / "b").mkdir(parents=True)
        (root / "train" / "a").symlink_to(origin / "a")
        for path in (origin / "b").iterdir():
            (root / "train" / "b" / path.name).symlink_to(path)
        assert counts(load_for_training(str(root), size=4, follow_links=True).train) == [4, 4]

    def test_native_size_is_the_median_shorter_side(self, tmp_path):
        root = plant(tmp_path, {"a": 2, "b": 2}, size=(7, 5))
        plant(root, {"c": 3}, size=(9, 30))
        assert native_size(str(root)) == 5
        assert load_for_search(str(root), size=None).train.images.shape[-1] == 5

    def test_native_store_is_capped(self, tmp_path):
        root = plant(tmp_path, {"a": 2, "b": 2}, size=(300, 400))
        data = load_for_search(str(root), size=None)
        assert data.native_size == 300
        assert data.train.images.shape[-1] == 224

    def test_unprintable_names_are_escaped(self, tmp_path):
        root = plant(tmp_path, {"train/a\x1b[2J": 2, "train/b": 2})
        assert load_for_search(str(root), size=4).classes == (r"a\x1b[2J", "b")
        (root / "train" / "b" / "x\n.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"x\\n\.png: empty file"):
            load_for_search(str(root), size=4)


class TestTorchvision:
    def test_dataset_without_parts_is_divided(self):
        data = load_for_training("FakeData", size=4)
        assert [len(s) for s in (data.train, data.validation, data.test) if s] == [800, 100, 100]
        assert data.classes == tuple("0123456789")
        assert data.native_size == 224

    def test_dataset_with_train_and_test(self, tmp_path):
        write_mnist(tmp_path / "MNIST" / "raw")
        for source in (f"MNIST@{tmp_path}", f"torchvision:mnist@{tmp_path}"):
            data = load_for_training(source, size=None)
            assert data.name == "MNIST"
            assert data.classes[2] == "2 - two"
            assert counts(data.train) == [3, 3, 3]
            assert counts(data.test) == [1, 1, 1]
            assert data.validation is None
            np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], np.arange(9))
        (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"corrupt")
        assert len(load_for_search(source, size=None).train) == 6

    def test_dataset_with_named_splits(self, tmp_path):
        files = {"train/1-a": 4, "train/2-b": 4, "valid/1-a": 1, "test/2-b": 2}
        plant(tmp_path / "country211", files)
        data = load_for_training(f"Country211@{tmp_path}", size=4)
        assert data.classes == ("1-a", "2-b")
        assert counts(data.train) == [4, 4]

    def test_dataset_that_needs_more_than_a_root(self, tmp_path):
        with pytest.raises(DataError, match="CocoDetection could not be opened"):
            load_for_search(f"CocoDetection@{tmp_path}", size=4)

    def test_unknown_name(self):
        with pytest.raises(DataError, match="CIFAR11 does not exist"):
            load_for_search("CIFAR11", size=4)


class TestRefusals:
    def test_all_bad_images_in_one_error(self, pets):
        for path in [*pets.glob("train/cat/00*.png"), *pets.glob("val/*/00[01].png")]:
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match=r"^14 images cannot be used:") as caught:
            load_for_training(str(pets), size=4)
        lines = str(caught.value).splitlines()
        assert len(lines) == 1 + 10 + 1 + 1
        assert lines[-2].strip() == "and 4 more"
        assert str(pets / "train" / "cat" / "000.png") in lines[1]
        with pytest.raises(DataError, match=r"^10 images cannot be used:"):
            load_for_search(str(pets), size=4)

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"train/a": 4, "test/a": 1}, "has 1 class"),
            ({"a": 4}, "has 1 class"),
            ({"train/a": 4, "train/b": 0}, r"Class folders without images: .*train/b\."),
            ({"train/a": 4, "train/b": 1, "train/c": 1}, r"fewer than 2 train images: b \(1\), c"),
            ({"train/a": 2, "train/b": 2, "val/c": 1}, r"lacks: .*val/c\. Classes come from"),
            (
                {"train/a": 2, "train/caf\u00e9": 2, "val/cafe\u0301": 1},
                r"\ANames that look like those of .*train, .*: .*val/cafe\u0301\. Rename",
            ),
            ({"val/a": 2, "val/b": 2}, "has val/ but no train/"),
            ({"bus": 2, "train": 2}, "train holds no class folders.*none of which has such a name"),
            ({"train/a": 2, "train/b": 2, "val/a": 1, "valid/a": 1}, "would both be"),
            ({"train": 3, "val/a": 1}, "holds no class folders"),
            ({".": 3}, "holds no class folders"),
        ],
    )
    def test_trees_that_do_not_fit(self, tmp_path, tree, message):
        root = plant(tmp_path / "root", tree)
        with pytest.raises(DataError, match=message):
            load_for_search(str(root), size=4)

    def test_empty_class_in_test(self, tmp_path):
        root = plant(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 0})
        with pytest.raises(DataError, match=r"without images: .*test/a"):
            load_for_training(str(root), size=4)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match=r"does not exist.*digits;.*train/.*torchvision"):
            load_for_search(str(tmp_path / "missing"), size=4)
        with pytest.raises(DataError, match="holds no class folders"):
            load_for_search(str(tmp_path), size=4)

    def test_archive(self, tmp_path):
        (tmp_path / "images.zip").write_bytes(b"PK")
        with pytest.raises(DataError, match="is a file and no folder; unpack"):
            load_for_search(str(tmp_path / "images.zip"), size=4)

    def test_no_image_opens(self, tmp_path):
        root = plant(tmp_path, {"a": 4, "b": 4})
        for path in root.glob("*/*"):
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match=r"can be opened, not even .*\.png"):
            native_size(str(root))

    def test_more_than_the_memory(self, pets):
        with pytest.raises(DataError, match=r"50 images of 1000000 px need 150000\.0 GB"):
            load_for_search(str(pets), size=1_000_000)

    def test_size_below_one(self, pets):
        with pytest.raises(DataError, match="at least 1 px; got 0"):
            load_for_search(str(pets), size=0)
