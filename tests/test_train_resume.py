"""`nas.train` goes on where it was: interrupted, killed, damaged, renamed, refused."""

import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from nas.train import main
from nas.training import checkpoint
from nas.training.pace import choose_threads
from nas.training.trainer import Trainer
from search_spaces.files import exclusive
from tests.trainings import flags


# The interrupt may come after a file has been opened and before `with` has it.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_row_24_ctrl_c_saves_and_the_same_command_ends_as_if_nothing_had_been(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(flags(arch, data, whole, 8)) == 0

    def interrupt() -> None:
        while not (stopped / "checkpoint.pt").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status = main(flags(arch, data, stopped, 8))
    thread.join()
    assert status == 130
    message = capsys.readouterr().out
    wanted = (
        f"finished epochs are saved. Resume with: python -m nas.train --arch {arch} --data {data}"
    )
    assert wanted in message
    assert not (stopped / "model.json").exists()

    assert main(flags(arch, data, stopped, 8)) == 0
    assert f"resume  {stopped} after epoch" in capsys.readouterr().out
    for name in ("model.safetensors", "model.json"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    one, other = (
        pd.read_csv(out / "history.csv").drop(columns="seconds") for out in (whole, stopped)
    )
    pd.testing.assert_frame_equal(one, other)


def test_row_24_ctrl_c_before_the_first_epoch_ends_says_that_none_is_saved(
    arch: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Trainer, "run_epoch", lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert main(flags(arch, data, tmp_path, 8)) == 130
    assert "^C      no epoch was finished. Resume with: python" in capsys.readouterr().out


@pytest.mark.slow
def test_row_1_kill_9_at_any_moment_costs_no_finished_epoch(
    arch: Path, data: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(flags(arch, data, whole, 20)) == 0
    command = [sys.executable, "-m", "nas.train", *flags(arch, data, killed, 20)]
    newest = killed / "checkpoint.pt"
    rng, epochs = random.Random(0), 0
    for _ in range(4):
        before = newest.stat().st_mtime_ns if newest.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and before == (
            newest.stat().st_mtime_ns if newest.exists() else before
        ):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        state = checkpoint.load(killed).state
        assert state is not None
        assert state["trainer"]["epoch"] > epochs
        epochs = state["trainer"]["epoch"]
        if epochs == 20:
            break
    assert main(flags(arch, data, killed, 20)) == 0
    for name in ("model.safetensors", "model.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (("--seed", "1"), "seed was 0, now 1"),
        (("--learning-rate", "0.2"), "learning_rate was 0.4, now 0.2"),
        (("--resolution", "12"), "arch was 'tiny ("),
        (("--data", "digits"), "arch was 'tiny ("),
    ],
)
def test_row_22_changed_settings_are_refused(
    arch: Path,
    data: Path,
    finished: Path,
    more: tuple[str, ...],
    difference: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(flags(arch, data, finished, 3, *more)) == 2
    assert difference in capsys.readouterr().err
    (finished / "model.json").rename(finished / "hidden.json")  # now by the checkpoint alone
    try:
        assert main(flags(arch, data, finished, 3, *more)) == 2
    finally:
        (finished / "hidden.json").rename(finished / "model.json")
    assert difference in capsys.readouterr().err


def test_row_23_a_changed_image_is_refused(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, copy)
    assert main(flags(arch, copy, out, 1)) == 0
    Image.new("L", (8, 8), 7).save(copy / "train" / "zero" / "0.png")
    assert main(flags(arch, copy, out, 1)) == 2
    assert "data was" in capsys.readouterr().err


def test_images_in_a_folder_of_another_name_are_the_same_data(
    arch: Path, data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    renamed = shutil.copytree(data, tmp_path / "renamed")
    assert main(flags(arch, renamed, out)) == 0
    assert "finished; nothing was repeated" in capsys.readouterr().out
    (out / "model.json").unlink()  # now by the checkpoint alone
    assert main(flags(arch, renamed, out)) == 0
    assert "after epoch 3 of 3" in capsys.readouterr().out
    assert json.loads((out / "model.json").read_text())["conditions"]["data"].startswith("renamed")


def test_row_19_damaged_weights_are_made_again_from_the_checkpoint(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(flags(arch, data, out, 1)) == 0
    weights = out / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert main(flags(arch, data, out, 1)) == 0
    assert weights.read_bytes() == whole
    assert "loss" not in capsys.readouterr().out.split("resume")[1]


# The threads


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [({1: 2.0}, 1), ({1: 2.0, 8: 1.0}, 8), ({1: 1.15, 2: 1.0}, 1), ({1: 1.0, 2: math.inf}, 1)],
)
def test_all_cores_are_taken_where_they_are_clearly_faster(
    measured: dict[int, float], chosen: int
) -> None:
    assert choose_threads(measured) == chosen


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """A training killed after its last epoch, before its model was written."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(finished / "checkpoint.pt", out)
    return out


def test_a_dry_run_says_what_is_left_and_what_would_be_refused(
    arch: Path, data: Path, finished: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint.load(unfinished).state
    assert state is not None
    epochs = state["trainer"]["epoch"]
    before = {path: path.read_bytes() for path in unfinished.iterdir()}
    assert main(flags(arch, data, unfinished, epochs, "--dry-run")) == 0
    out = capsys.readouterr().out
    assert f"resume  {unfinished} after epoch {epochs} of {epochs}" in out
    assert "plan" not in out
    assert main(flags(arch, data, unfinished, epochs, "--dry-run", "--seed", "5")) == 2
    assert main(flags(arch, data, finished, epochs, "--dry-run", "--seed", "5")) == 2
    error = capsys.readouterr().err
    assert error.count("holds a training with other settings: seed was ") == 2
    assert main(flags(arch, data, finished, epochs, "--dry-run")) == 0
    assert "finished; nothing was repeated" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in unfinished.iterdir()} == before


def test_a_training_goes_on_with_its_number_of_threads(
    arch: Path, data: Path, finished: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(2)
    command = flags(arch, data, unfinished)
    i = command.index("--threads")
    assert main([*command[:i], *command[i + 2 :]]) == 0
    assert torch.get_num_threads() == 1
    assert "threads" not in capsys.readouterr().out
    for name in ("model.safetensors", "model.json"):
        assert (finished / name).read_bytes() == (unfinished / name).read_bytes()


def test_another_number_of_threads_is_taken_and_noted(
    arch: Path, data: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here of a machine with more cores than any has."""
    state = checkpoint.load(unfinished).state
    assert state is not None
    assert state["threads"] == 1
    checkpoint.save(unfinished, {**state, "threads": 1_000_000})
    command = flags(arch, data, unfinished)
    i = command.index("--threads")
    assert main([*command[:i], *command[i + 2 :]]) == 0
    assert 1 <= torch.get_num_threads() < 1_000_000
    assert "trained with 1000000 threads until here" in capsys.readouterr().out


# The folder


def test_row_20_two_trainings_do_not_share_a_folder(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(tmp_path, "--out"):
        assert main(flags(arch, data, tmp_path)) == 2
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err
    assert main(flags(arch, data, tmp_path, 1)) == 0


def test_row_17_a_folder_that_cannot_be_written_fails_at_once(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(flags(arch, data, tmp_path / "file" / "out")) == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err
    assert "data" not in captured.out


def test_row_18_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    """Cut or with one bit flipped, at many points: never read as if it were whole."""
    for epoch in (1, 2):
        checkpoint.save(tmp_path, {"epoch": epoch, "weights": torch.arange(100.0)})
    newest = tmp_path / "checkpoint.pt"
    whole = newest.read_bytes()
    for at in range(0, len(whole), 7):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]):
            newest.write_bytes(content)
            state, damaged = checkpoint.load(tmp_path)
            assert state is not None
            assert (state["epoch"], damaged) == (1, ("checkpoint.pt",))
    newest.write_bytes(b"")
    (tmp_path / "checkpoint.previous.pt").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="no whole checkpoint"):
        checkpoint.load(tmp_path)


def test_rule_pickle_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path.joinpath("pwned").touch, ())

    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    (tmp_path / "checkpoint.pt").write_bytes(
        buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest()
    )
    with pytest.raises(checkpoint.CheckpointError, match="more than tensors and plain types"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "pwned").exists()
