"""Faults of the disk while `nas.train` works: the same command goes on, to the same weights."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from nas.folder import MANIFEST
from nas.train import main
from nas.training import checkpoint
from tests.models import tiny


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training of two epochs on a few digits."""
    root = tmp_path_factory.mktemp("inputs")
    pixels, labels = load_digits(return_X_y=True)
    assert isinstance(pixels, np.ndarray)
    for digit in (0, 1):
        images = (pixels[labels == digit][:12].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
        for split, part in (("train", images[:8]), ("val", images[8:])):
            folder = root / "data" / split / str(digit)
            folder.mkdir(parents=True)
            for i, image in enumerate(part):
                Image.fromarray(image).save(folder / f"{i}.png")
    (root / "arch.json").write_text(tiny().to_json())
    flags = ["--arch", str(root / "arch.json"), "--data", str(root / "data"), "--epochs", "2"]
    return [*flags, "--no-flip", "--threads", "1", "--batch-size", "8"]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([*command, "--out", str(out)]) == 0
    return out


def _assert_same(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "model.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    ours, theirs = (
        pd.read_csv(out / "history.csv").drop(columns="seconds") for out in (one, other)
    )
    pd.testing.assert_frame_equal(ours, theirs)


@contextmanager
def _room(flushes: int) -> Iterator[list[int]]:
    """A disk that is full after so many files and folders were flushed to it; those refused."""
    fsync, done, refused = os.fsync, 0, []

    def flush(file: int) -> None:
        nonlocal done
        done += 1
        if done > flushes:
            refused.append(done)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", flush)
        yield refused


@pytest.mark.slow
def test_row_16_whichever_write_finds_no_room_the_training_goes_on(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room, refused = -1, [1]
    while refused:
        room += 1
        out = tmp_path / f"out-{room}"
        with _room(room) as refused:
            status = main([*command, "--out", str(out)])
        error = capsys.readouterr().err
        if not refused:
            assert status == 0
            break
        assert status == 2
        assert error.startswith(f"error: {out}")
        assert "cannot be written or read: No space left on device." in error
        assert error.count("\n") == 1
        assert not list(out.glob(".*.tmp"))
        assert main([*command, "--out", str(out)]) == 0
        assert capsys.readouterr().err == ""
        _assert_same(whole, out)
    assert room > 15


# Of the decoded images, a file a split, copies in memory will do.
@pytest.mark.parametrize(("room", "ends"), [(0, [1, 2, 3]), (3, [4]), (7, [8])])
def test_row_16_a_disk_that_is_full_ends_a_training_which_goes_on(
    room: int,
    ends: list[int],
    command: list[str],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _room(room) as refused:
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert refused == ends
    assert "written or read: No space left on device." in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    _assert_same(whole, tmp_path / "out")


def test_row_18_a_training_goes_on_from_the_checkpoint_before_a_torn_one(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after its last checkpoint, which then turns out to be cut."""
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        shutil.copy(whole / name, tmp_path)
    newest = tmp_path / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"WARNING {newest} is damaged and was not used" in printed
    assert f"resume  {tmp_path} after epoch 1 of 2" in printed
    _assert_same(whole, tmp_path)


def test_row_18_without_a_whole_checkpoint_the_remedy_names_the_flag_of_a_training(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "to start again, or choose another --out.\n" in capsys.readouterr().err


def test_row_18_no_epoch_is_missing_in_the_history(
    command: list[str], whole: Path, tmp_path: Path
) -> None:
    """Killed between the last checkpoint and the history that goes with it."""
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "history.csv"):
        shutil.copy(whole / name, tmp_path)
    lines = (whole / "history.csv").read_text().splitlines(keepends=True)
    (tmp_path / "history.csv").write_text("".join(lines[:-1]))
    assert main([*command, "--out", str(tmp_path)]) == 0
    _assert_same(whole, tmp_path)


def test_row_19_a_flipped_bit_in_a_checkpoint_is_found(whole: Path, tmp_path: Path) -> None:
    """Of a real training, weights and optimizer included: wherever it is."""
    content = (whole / "checkpoint.pt").read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(len(content), size=40):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << rng.integers(8)
        (tmp_path / "checkpoint.pt").write_bytes(spoilt)
        with pytest.raises(checkpoint.CheckpointError, match="holds no whole checkpoint"):
            checkpoint.load(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(content)
    state = checkpoint.load(tmp_path).state
    assert state is not None
    assert state["trainer"]["epoch"] == 2


def test_row_29_a_training_of_format_1_goes_on(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That format is a folder without a manifest."""
    shutil.copy(whole / "checkpoint.previous.pt", tmp_path / "checkpoint.pt")
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"note    {tmp_path} was written in format 1 and goes on in format 3\n" in printed
    _assert_same(whole, tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["command"] == "nas.train"
    files = {"history.csv", "classes.csv", "model.safetensors", "model.json"}
    assert manifest["files"].keys() == files


def test_row_29_a_training_of_a_newer_format_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / MANIFEST).write_text('{"format": 4, "package": "efficientnet-search 7.0"}')
    assert main([*command, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {tmp_path} was written in format 4 of efficientnet-search 7.0; this is format 3: "
        "update, or choose another --out.\n"
    )


_DIGITS = ["--data", "digits", "--epochs", "3", "--batch-size", "128", "--threads", "1"]
"""Of 1,437 images: 11 steps an epoch."""


@pytest.mark.slow
def test_row_16_memory_to_share_that_is_full_is_named(tmp_path: Path) -> None:
    """A container has 64 MB of it by default. torch's own queue would drop the batches."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(16):
                pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "arch.json").write_text(tiny(resolution=64, num_classes=2).to_json())
    flags = ["--arch", "arch.json", "--data", "data", "--out", "out", "--epochs", "1"]
    flags += ["--batch-size", "32", "--threads", "1", "--loader-workers", "1"]
    little = 'mount -t tmpfs -o size=200k tmpfs /dev/shm && exec "$@"'
    training = subprocess.run(
        ["unshare", "-m", "sh", "-c", little, "sh", sys.executable, "-m", "nas.train", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert training.returncode == 2, training.stderr
    assert training.stderr.splitlines()[-1].startswith(
        "error: The memory that loader processes share with this one (/dev/shm) is full. Use fewer"
    )


@pytest.mark.parametrize(
    ("network", "more"),
    [("hungriest", ["--dry-run"]), ("hungriest", []), ("hungry", [])],
)
def test_row_4_a_lack_of_memory_names_the_remedy(
    network: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arch = f"tests.builders:{network}@8"
    assert main(["--arch", arch, *_DIGITS, "--out", str(out), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: There is not enough memory (")
    assert "can't allocate memory" in error
    assert "Lower --batch-size (128), with another --out" in error
    assert error.count("\n") == 1
    state = checkpoint.load(out).state
    assert (state and state["trainer"]["epoch"]) == (1 if network == "hungry" else None)
