"""Rows 9 to 15 and 23 of the fault matrix: images, names and links that nobody has looked at.

The decoding rules of rows 10 to 13 have their golden pixels in test_images.py.
"""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nas.data import images
from nas.data.dataset import DataError, load_for_search, load_for_training, native_size
from nas.folder import RunFolder
from nas.search.options import TrialOptions
from nas.untrusted import csv_text, markdown_text, printable, printable_lines
from nas.workers import Workers
from tests.test_images import png_header
from tests.trees import contents, counts, plant, same


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return plant(tmp_path / "pets", {"train/cat": 20, "train/dog": 30, "test/dog": 12})


class TestBadFiles:
    """Truncated, empty or no image: all named and refused; or left out and listed."""

    def spoil(self, pets: Path) -> list[Path]:
        bad = sorted((pets / "train/cat").iterdir())[:4]
        bad[0].write_bytes(b"")
        bad[1].write_bytes(b"no image")
        bad[2].write_bytes(bad[2].read_bytes()[:60])
        bad[3].write_bytes(png_header(30_000, 30_000))
        return bad

    def test_row_9_all_are_named(self, pets: Path) -> None:
        bad = self.spoil(pets)
        with pytest.raises(
            DataError, match=r"(?s)^4 images cannot .*leave them out with --skip-bad"
        ) as e:
            load_for_training(str(pets), size=4)
        assert [line.split(": ")[0] for line in e.value.problems] == list(map(str, bad))

    def test_row_9_problems_have_all_where_the_message_has_ten(self, pets: Path) -> None:
        for path in (pets / "test/dog").iterdir():
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match=r"and 2 more\n.*nas\.doctor") as caught:
            load_for_training(str(pets), size=4)
        assert len(caught.value.problems) == 12

    @pytest.mark.parametrize("limit", [None, 10])
    def test_row_9_skipped_they_count_as_removed(self, pets: Path, limit: int | None) -> None:
        bad = self.spoil(pets)
        skipped = load_for_search(str(pets), size=4, limit=limit, skip_bad=True)
        assert [line.split(": ")[0] for line in skipped.skipped] == list(map(str, bad))
        assert skipped.notices[0].startswith("4 images that cannot be used were left out: ")
        for path in bad:
            path.unlink()
        removed = load_for_search(str(pets), size=4, limit=limit)
        assert same(skipped.train, removed.train)
        assert same(skipped.search_validation, removed.search_validation)
        assert skipped.fingerprint == removed.fingerprint
        assert removed.skipped == ()

    def test_row_9_skipped_in_every_split_of_a_training(self, pets: Path) -> None:
        bad = [*self.spoil(pets), next((pets / "test/dog").iterdir())]
        bad[-1].write_bytes(b"no image")
        data = load_for_training(str(pets), size=4, skip_bad=True)
        assert counts(data.train) == [16, 30]
        assert counts(data.test) == [0, 11]
        assert len(data.skipped) == 5

    def test_row_9_a_class_of_bad_files_is_no_class(self, pets: Path) -> None:
        for path in sorted((pets / "train/cat").iterdir())[1:]:
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match=r"fewer than 2 train images: cat \(1\)"):
            load_for_search(str(pets), size=4, skip_bad=True)

    def test_row_9_files_of_no_end_are_not_read(self, pets: Path) -> None:
        huge = pets / "train/cat/000.png"
        os.truncate(huge, images.MAX_BYTES + 1)  # sparse: takes no disk
        os.unlink(pets / "train/dog/000.png")
        os.mkfifo(pets / "train/dog/000.png")
        os.mkdir(pets / "train/dog/empty")
        with pytest.raises(DataError, match=r"400,000,001 bytes, more than 400 MB") as caught:
            load_for_training(str(pets), size=4)
        assert len(caught.value.problems) == 2
        assert "not a regular file" in caught.value.problems[1]

    def test_formats_that_run_programs_are_not_opened(self, tmp_path: Path, monkeypatch) -> None:
        """Pillow hands EPS to Ghostscript."""
        root = plant(tmp_path, {"train/a": 3, "train/b": 3})
        Image.new("RGB", (4, 4)).save(root / "train/a/000.png", format="EPS")

        def started(*_: object, **__: object) -> None:
            raise AssertionError("Ghostscript was started")

        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
        with pytest.raises(DataError, match=r"000\.png: .*not in a format that is read"):
            load_for_training(str(root), size=4)


class TestDeepImages:
    """16 bits a channel are scaled; what has no range is refused."""

    def test_row_10_mean_of_a_16_bit_image(self, tmp_path: Path) -> None:
        root = plant(tmp_path, {"train/a": 2, "train/b": 2})
        grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
        Image.fromarray(grey).save(root / "train/a/deep.png")
        data = load_for_training(str(root), size=64)
        assert data.train.images[2].mean() == pytest.approx(127.5, abs=0.5)

    def test_row_10_floats_are_refused_by_name(self, tmp_path: Path) -> None:
        root = plant(tmp_path, {"train/a": 2, "train/b": 2})
        Image.new("F", (4, 4), 0.5).save(root / "train/a/float.tiff")
        with pytest.raises(DataError, match=r"float\.tiff: mode F \(floats\)"):
            load_for_search(str(root), size=4)


def test_row_11_every_mode_in_one_folder(tmp_path: Path) -> None:
    root = plant(tmp_path, {"train/a": 2, "train/b": 2})
    for i, mode in enumerate(("L", "LA", "P", "RGBA", "1", "CMYK")):
        suffix = "tiff" if mode == "CMYK" else "png"
        Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode).save(
            root / f"train/a/w{i}.{suffix}"
        )
    Image.new("RGB", (6, 6), (255, 255, 255)).save(root / "train/a/w6.webp", lossless=True)
    data = load_for_training(str(root), size=4)
    assert (data.train.images[2:9] == 255).all()


def test_row_12_first_frame_and_one_notice(tmp_path: Path) -> None:
    root = plant(tmp_path, {"train/a": 2, "train/b": 2})
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for i in range(3):
        frames[0].save(root / f"train/a/x{i}.gif", save_all=True, append_images=frames[1:])
    data = load_for_training(str(root), size=4)
    assert (data.train.images[2:5, 0] == 255).all()
    assert [n for n in data.notices if "frames" in n] == [
        "3 files hold several frames; the first of each is used."
    ]


def test_row_13_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    root = plant(tmp_path, {"train/a": 2, "train/b": 2})
    buffer = io.BytesIO()
    Image.new("1", (20_000, 19_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    (root / "train/a/bomb.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"bomb\.png: .*more than 50 megapixels"):
        load_for_search(str(root), size=4)
    assert native_size(str(root)) == 4


class TestClasses:
    def test_row_14_all_that_is_wrong_in_one_error(self, tmp_path: Path) -> None:
        tree = {"train/a": 4, "train/b": 1, "train/c": 0, "val/d": 1, "valid/a": 1, "test/a": 0}
        root = plant(tmp_path / "root", tree)
        (root / "train/a/000.png").write_bytes(b"no image")
        for load in (load_for_search, load_for_training):
            with pytest.raises(DataError) as caught:
                load(str(root), size=4)
            text = str(caught.value)
            for words in (
                "would both be the validation images",
                r"train lacks: " + str(root / "val/d"),
                f"without images: {root / 'train/c'}, {root / 'test/a'}",
                "fewer than 2 train images: b (1), c (0)",
                "1 image cannot be used:",
            ):
                assert words in text

    def test_row_14_one_class(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"has 1 class \(only\)"):
            load_for_search(str(plant(tmp_path, {"train/only": 4})), size=4)

    def test_row_14_an_empty_class_in_test_ends_a_search_too(self, tmp_path: Path) -> None:
        root = plant(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 0})
        with pytest.raises(DataError, match=r"without images: .*test/a"):
            load_for_search(str(root), size=4)


def test_row_15_images_of_train_in_test_are_counted(pets: Path) -> None:
    for i in range(3):
        shutil.copy(pets / f"train/cat/00{i}.png", pets / "test/dog" / f"again{i}.png")
    (notice,) = load_for_training(str(pets), size=4).notices
    assert notice.startswith("3 of 15 test images are in train too, byte for byte")


def test_row_23_changed_images_end_a_run_that_goes_on(pets: Path, tmp_path: Path) -> None:
    def start() -> None:
        options, run_dir = TrialOptions(data=str(pets)), tmp_path / "run"
        task = options.load_task(Workers(), run_dir=run_dir, resolution=8, num_classes=None)
        with RunFolder(run_dir) as folder:
            folder.bind(task.conditions, {})

    start()
    start()
    extra, first = pets / "train/dog/extra.png", pets / "train/dog/000.png"
    shutil.copy(first, extra)
    with pytest.raises(ValueError, match=r"conditions: images was \[45, 5\], now \[46, 5\]\. "):
        start()
    extra.unlink()
    start()
    shutil.copy(pets / "train/cat/000.png", first)
    with pytest.raises(ValueError, match=r"other conditions: fingerprint was .*new --run-dir"):
        start()


class TestLinks:
    """Symbolic links stay inside the data set's folder unless a flag says otherwise."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        return plant(tmp_path / "outside", {"a": 4, "b": 4})

    def test_rule_links_out_of_the_folder(self, tmp_path: Path, outside: Path) -> None:
        root = plant(tmp_path / "root", {"train/b": 3})
        (root / "train/a").symlink_to(outside / "a")
        (root / "train/b/file.png").symlink_to("../../../outside/b/000.png")
        (root / "train/b/passwd.png").symlink_to("/etc/passwd")
        (root / "train/b/deep").symlink_to(outside / "b")
        with pytest.raises(DataError, match=r"(?s)^4 images .*link out of the data") as caught:
            load_for_training(str(root), size=4)
        assert all("--follow-links allows it" in line for line in caught.value.problems)
        (root / "train/b/passwd.png").unlink()
        assert counts(load_for_training(str(root), size=4, follow_links=True).train) == [4, 8]
        assert native_size(str(root), follow_links=True) == 4

    def test_rule_links_are_skipped(self, tmp_path: Path, outside: Path) -> None:
        root = plant(tmp_path / "root", {"train/a": 2, "train/b": 3})
        (root / "train/b/file.png").symlink_to(outside / "b/000.png")
        data = load_for_training(str(root), size=4, skip_bad=True)
        assert counts(data.train) == [2, 3]
        (root / "train/c").symlink_to(outside / "a")
        with pytest.raises(DataError, match=r"fewer than 2 train images: c \(0\)"):
            load_for_training(str(root), size=4, skip_bad=True)

    def test_rule_links_to_a_split_that_is_elsewhere(self, tmp_path: Path, outside: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "root/train").symlink_to(outside)
        with pytest.raises(DataError, match="train: link out of the data set"):
            load_for_search(str(tmp_path / "root"), size=4)
        assert load_for_search(str(tmp_path / "root"), size=4, follow_links=True)

    def test_the_folder_may_be_a_link_itself(self, tmp_path: Path, outside: Path) -> None:
        (tmp_path / "link").symlink_to(outside)
        assert load_for_search(str(tmp_path / "link"), size=4)

    def test_rule_links_inside_the_folder(self, tmp_path: Path) -> None:
        root = plant(tmp_path, {"train/a": 2, "train/b": 2, "more": 3})
        (root / "train/a/more").symlink_to(root / "more")
        (root / "train/b/one.png").symlink_to("000.png")
        assert counts(load_for_training(str(root), size=4).train) == [5, 3]

    def test_rule_links_in_circles_and_their_multitude(self, tmp_path: Path) -> None:
        """Twenty folders with two links each to the next make a million paths."""
        root = plant(tmp_path, {"train/a": 2, "train/b": 2})
        for i in range(20):
            folder = root / "train/a" / f"level{i}"
            folder.mkdir()
            (folder / "x").symlink_to(f"../level{(i + 1) % 20}")
            (folder / "y").symlink_to(f"../level{(i + 1) % 20}")
        assert counts(load_for_training(str(root), size=4).train) == [2, 2]
        (root / "train/b/up").symlink_to("..")
        (root / "train/b/self").symlink_to("self")
        with pytest.raises(DataError, match="link to a folder that it is in") as caught:
            load_for_training(str(root), size=4)
        assert len(caught.value.problems) == 2


class TestNames:
    """Class and file names are shown, never obeyed, and never become paths."""

    HOSTILE = ("=cmd|' 'C calc'!A0", "<img src=x onerror=alert(1)>", "a\x1b[2J\nb\u202e", "x" * 255)

    def test_rule_names_of_hostile_classes(self, tmp_path: Path) -> None:
        root = plant(tmp_path, {f"train/{name}": 2 for name in self.HOSTILE})
        before = sorted(tmp_path.rglob("*"))
        data = load_for_training(str(root), size=4)
        assert set(data.classes) == set(map(printable, self.HOSTILE))
        assert all(name.isprintable() for name in data.classes)
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_long_folder_name_is_cut(self, tmp_path: Path) -> None:
        root = plant(tmp_path / ("n" * 250), {"train/a": 2, "train/b": 2})
        assert load_for_search(str(root), size=4).name == "n" * 59 + "…"

    def test_names_that_look_the_same(self, tmp_path: Path) -> None:
        root = plant(tmp_path, {"train/a\x1b": 2, r"train/a\x1b": 2})
        with pytest.raises(DataError, match=r"would be shown as a\\x1b; rename"):
            load_for_search(str(root), size=4)

    @pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "\x1b[2J"])
    def test_sources_that_are_no_names(self, source: str) -> None:
        with pytest.raises(DataError, match=r"cannot be opened|does not exist") as caught:
            load_for_search(source, size=4)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 700

    def test_torchvisions_own_folder_reader_goes_round_the_limits(self, pets: Path) -> None:
        with pytest.raises(DataError, match=r"Name the folder itself"):
            load_for_search(f"ImageFolder@{pets / 'train'}", size=4)

    def test_rule_names_in_csv(self) -> None:
        frame = pd.DataFrame(
            {"=head": [-1.5, 2], "text": ["-1.5", "+x"], "name": list(self.HOSTILE[:3:2])}
        )
        text = csv_text(frame)
        again = pd.read_csv(io.StringIO(text), dtype=str)
        assert list(again.columns) == ["'=head", "text", "name"]
        assert again["'=head"].tolist() == ["-1.5", "2.0"]
        assert again["text"].tolist() == ["-1.5", "'+x"]
        assert again["name"].tolist() == ["'" + self.HOSTILE[0], r"a\x1b[2J\nb\u202e"]
        assert csv_text(pd.DataFrame({"a": ["x"], "b": [None]})) == "a,b\nx,\n"

    def test_rule_html_is_not_in_markdown(self) -> None:
        shown = markdown_text("<img onerror=x> | `a` [b](javascript:c)\n# d")
        assert "<" not in shown
        assert r"\|" in shown
        assert r"\[b\](javascript:c)" in shown
        assert "\n" not in shown

    def test_lines_stay_lines(self) -> None:
        assert printable_lines("a\x1b\nb") == "a\\x1b\nb"
        assert printable("x" * 9, 4) == "xxx…"


def test_contents_of_a_skip_are_the_good_ones(pets: Path) -> None:
    whole = contents(load_for_training(str(pets), size=4).train)
    (pets / "train/cat/000.png").write_bytes(b"")
    assert contents(load_for_training(str(pets), size=4, skip_bad=True).train) < whole
