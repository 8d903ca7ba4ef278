"""`python -m nas.train` from end to end: its files, its refusals, and its resume."""

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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torchvision.models import efficientnet_b0 as torchvision_b0

from nas.data.dataset import load_for_training
from nas.models.saved import load_model, sha256
from nas.train import main
from nas.training import checkpoint
from nas.training.pace import choose_threads
from nas.training.score import accuracy
from search_spaces.files import exclusive
from search_spaces.zoo import efficientnet_b0, load_architecture
from tests.models import tiny

CLASSES = ("one", "two", "zero")
WEIGHT, BIAS = (f"classifier.branch.fc.linear.{name}" for name in ("weight", "bias"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three digits in folders: 90 to train on, 30 to validate, 30 to test."""
    root = tmp_path_factory.mktemp("data")
    pixels, labels = load_digits(return_X_y=True)
    assert isinstance(pixels, np.ndarray)
    for digit, name in ((0, "zero"), (1, "one"), (2, "two")):
        images = (pixels[labels == digit][:50].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
        for split, part in (("train", images[:30]), ("val", images[30:40]), ("test", images[40:])):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(part):
                Image.fromarray(image).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def arch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    path.write_text(tiny(num_classes=1000).to_json())
    return path


def flags(arch: Path, data: Path, out: Path, epochs: int = 3, *more: str) -> list[str]:
    common = ["--arch", str(arch), "--data", str(data), "--out", str(out)]
    return [*common, "--epochs", str(epochs), "--no-flip", "--threads", "1", *more]


@pytest.fixture(scope="module")
def finished(arch: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(flags(arch, data, out)) == 0
    return out


def test_the_files_describe_the_model(finished: Path, data: Path) -> None:
    card = json.loads((finished / "model.json").read_text())
    assert card["schema"] == 1
    assert card["classes"] == list(CLASSES)
    assert card["preprocessing"]["resolution"] == 8
    assert card["preprocessing"]["interpolation"] == "bicubic"
    assert card["preprocessing"]["crop"] == "central square"
    assert card["preprocessing"]["colour"] == "RGB"
    assert card["preprocessing"]["range"] == [0, 1]
    assert card["weights_sha256"] == sha256(finished / "model.safetensors")
    assert card["recipe"]["flip"] is False
    assert card["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert load_architecture(finished / "model.json").digest == tiny(num_classes=3).digest

    model = load_model(finished / "model.safetensors", None)
    test = load_for_training(str(data), size=8).test
    assert test is not None
    measured = accuracy(model.network, test, resolution=8, device=torch.device("cpu"))
    assert measured == card["metrics"]["test_accuracy"]

    history = pd.read_csv(finished / "history.csv")
    assert list(history.columns) == ["epoch", "loss", "val_accuracy", "seconds"]
    assert list(history.epoch) == [1, 2, 3]
    assert card["metrics"]["validation_accuracy"] == history.val_accuracy.iloc[-1]
    assert card["metrics"]["train_loss"] == history.loss.iloc[-1]


def test_a_run_says_what_it_does(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(flags(arch, data, out)) == 0
    first = capsys.readouterr().out
    assert "tiny has 1000 classes, the data have 3: the classifier gets 3" in first
    assert "plan    3 epochs x 11 steps of 8 images" in first
    assert "cpu, 1 thread · about" in first
    lines = [line for line in first.splitlines() if "/3   loss" in line]
    assert len(lines) == 3
    assert all("val 0." in line and "best 0." in line and "eta 0:" in line for line in lines)
    assert "test    accuracy" in first
    model = out / "model.json"
    weights = out / "model.safetensors"
    command = f"--arch {model} --weights {weights} --out {out / 'export'}"
    assert f"next    python -m nas.export {command}" in first

    written = {path: path.stat().st_mtime_ns for path in out.glob("[!.]*")}
    assert main(flags(arch, data, out)) == 0
    second = capsys.readouterr().out
    assert "finished; nothing was repeated" in second
    assert "loss" not in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in out.glob("[!.]*")} == written


def test_a_dry_run_plans_and_writes_nothing(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(arch, data, tmp_path / "out", 3, "--dry-run")) == 0
    assert "plan    3 epochs" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_decoded_images_are_kept_where_asked(arch: Path, data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for name, more in (("one", []), ("two", ["--cache-dir", str(kept)])):
        out = tmp_path / name
        assert main(flags(arch, data, out, 1, *more)) == 0
        files = (kept if more else out / "cache").iterdir()
        sizes = sorted(file.stat().st_size for file in files)
        assert sizes == [128 + number * 3 * 8 * 8 for number in (30, 30, 90)]
        assert (out / "cache").exists() == (not more)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


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


def test_row_29_a_dry_run_refuses_a_newer_format(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 4, "package": "ours 7.0"}')
    assert main(flags(arch, data, tmp_path, 3, "--dry-run")) == 2
    assert "update, or choose another --out." in capsys.readouterr().err


def test_a_dry_run_needs_no_lock(
    arch: Path, data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(finished / "checkpoint.previous.pt", tmp_path)
    with exclusive(tmp_path, "--out"):
        assert main(flags(arch, data, tmp_path, 3, "--dry-run")) == 0
    assert "plan    1 epochs x 11 steps" in capsys.readouterr().out


def test_a_dry_run_that_diverges_says_so_in_a_line(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--dry-run", "--learning-rate", "1e30"]
    assert main(flags(arch, data, tmp_path / "out", 3, *wild)) == 1
    assert capsys.readouterr().err.startswith("error: the training diverged, ")


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
    assert f"Resume with: python -m nas.train --arch {arch} --data {data}" in message
    assert not (stopped / "model.json").exists()

    assert main(flags(arch, data, stopped, 8)) == 0
    assert f"resume  {stopped} after epoch" in capsys.readouterr().out
    for name in ("model.safetensors", "model.json"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    one, other = (
        pd.read_csv(out / "history.csv").drop(columns="seconds") for out in (whole, stopped)
    )
    pd.testing.assert_frame_equal(one, other)


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


def test_a_test_set_of_one_class_is_called_so(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    for name in ("one", "zero"):
        shutil.rmtree(copy / "test" / name)
    assert main(flags(arch, copy, tmp_path / "out", 1)) == 0
    printed = capsys.readouterr().out
    assert "WARNING the test images are all of one class" in printed
    assert "learned nothing" not in printed


def test_a_model_of_another_program_is_not_overwritten(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").write_text("{}")
    assert main(flags(arch, data, tmp_path)) == 2
    assert "is not of a training" in capsys.readouterr().err
    assert (tmp_path / "model.json").read_text() == "{}"


ALL = {f"{s}_{of}": 0.5 for s in ("test", "validation") for of in ("accuracy", "majority_share")}


@pytest.mark.parametrize("metrics", [{}, {"test_accuracy": 0.5}, ALL | {"test_accuracy": "x"}, []])
def test_a_card_without_its_metrics_is_refused(
    arch: Path,
    data: Path,
    finished: Path,
    tmp_path: Path,
    metrics: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    card = json.loads((out / "model.json").read_text())
    (out / "model.json").write_text(json.dumps({**card, "metrics": metrics}))
    assert main(flags(arch, data, out)) == 2
    assert "model.json is damaged. Choose another --out, or move it." in capsys.readouterr().err


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


def test_weights_of_other_classes_start_a_new_classifier(
    arch: Path, data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(finished / "model.safetensors")
    more = ("--init-weights", weights, "--learning-rate", "1e-9")
    assert main(flags(arch, data, tmp_path / "same", 1, *more)) == 0
    assert "(own naming)" in capsys.readouterr().out
    cards = [json.loads((out / "model.json").read_text()) for out in (finished, tmp_path / "same")]
    one, other = (card["metrics"]["test_accuracy"] for card in cards)
    assert one == pytest.approx(other, abs=0.1)  # a rate of nothing leaves them as they were

    (tmp_path / "two").mkdir()
    for split in ("train", "val", "test"):
        for name in ("one", "two"):
            shutil.copytree(data / split / name, tmp_path / "two" / split / name)
    assert main(flags(arch, tmp_path / "two", tmp_path / "other", 1, *more)) == 0
    assert main(flags(arch, data, tmp_path / "none", 1, "--init-weights", "missing")) == 2
    assert "There is no weights file missing" in capsys.readouterr().err
    (tmp_path / "file").write_bytes(b"no weights")
    more = ("--init-weights", str(tmp_path / "file"), "--dry-run")
    assert main(flags(arch, data, tmp_path / "none", 1, *more)) == 2


@pytest.mark.parametrize(
    ("changes", "printed"),
    [
        ({WEIGHT: None, BIAS: None}, "(own naming; the classifier starts anew)"),
        ({BIAS: torch.tensor(1.0)}, f"of another shape {BIAS} () instead of (3,)"),
        ({"classifier.1.steps": torch.tensor(1)}, "unexpected classifier.1.steps"),
        ({BIAS: torch.tensor([1, math.nan, 1])}, f"not finite, in {BIAS} and 0 other tensors"),
    ],
)
def test_odd_weights_are_taken_or_explained(
    arch: Path,
    data: Path,
    finished: Path,
    tmp_path: Path,
    changes: dict[str, torch.Tensor | None],
    printed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = load_file(finished / "model.safetensors") | changes
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    more = ("--init-weights", str(path), "--dry-run")
    status = main(flags(arch, data, tmp_path / "out", 1, *more))
    captured = capsys.readouterr()
    assert printed in (captured.err if status else captured.out)
    assert status == (0 if None in changes.values() else 2)


@pytest.mark.parametrize(("eps", "notes"), [(1e-3, 1), (1e-5, 0)])
def test_foreign_weights_do_not_tell_their_norm_eps(
    eps: float, notes: int, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b0 = replace(efficientnet_b0(), resolution=8, norm_eps=eps)
    (tmp_path / "b0.json").write_text(b0.to_json())
    save_file(torchvision_b0().state_dict(), tmp_path / "b0.safetensors")
    more = (
        "--init-weights",
        str(tmp_path / "b0.safetensors"),
        "--dry-run",
        "--learning-rate",
        "1e-9",
    )
    assert main(flags(tmp_path / "b0.json", data, tmp_path / "out", 1, *more)) == 0
    printed = capsys.readouterr().out
    assert "(torchvision naming; the classifier starts anew)" in printed
    assert printed.count("trained with norm_eps 1e-05, efficientnet-b0 has 0.001") == notes


def test_a_network_that_learned_nothing_is_called_so(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(arch, data, tmp_path / "out", 1, "--learning-rate", "1e-9")) == 0
    assert "WARNING" in (printed := capsys.readouterr().out)
    assert "no better than always answering the most frequent class" in printed


def test_a_diverged_training_names_the_remedy(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(arch, data, tmp_path / "out", 1, "--learning-rate", "1e30")) == 1
    error = capsys.readouterr().err
    assert "loss at step" in error
    assert "Lower --learning-rate" in error
    assert not (tmp_path / "out" / "model.json").exists()


def test_data_without_a_test_split_are_judged_on_validation(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shutil.rmtree(copy / "test")
    assert main(flags(arch, copy, tmp_path / "out", 1)) == 0
    assert "validation, for there is no test split: accuracy" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "model.json").read_text())["metrics"]
    assert metrics["test_accuracy"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--threads", "0"), "`--threads` must be at least 1"),
        (("--seed", "-1"), "`--seed` must be at least 0"),
        (("--seed", str(2**32)), "`--seed` must be at most 4294967295"),
        (("--loader-workers", "9999"), "`--loader-workers` must be at most"),
        (("--batch-size", "1"), "`--batch-size` must be at least 2"),
        (("--epochs", "0"), "`epochs >= 1` must hold"),
        (("--resolution", "0"), "`resolution >= 1` must hold"),
        (("--augment", "flip-crop", "--erasing", "0.5"), "`erasing` needs augment"),
        (("--arch", "nonesuch"), "'nonesuch' is neither a file nor a network of the zoo"),
    ],
)
def test_impossible_settings_are_explained(
    arch: Path,
    data: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _status([*flags(arch, data, tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err


def _status(args: list[str]) -> int:
    try:
        return main(args)
    except SystemExit as ended:  # by what reads the flags
        return int(str(ended.code))


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
def unfinished(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A training killed after its last epoch, before its model was written."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(finished / "checkpoint.pt", out)
    threads = torch.get_num_threads()
    yield out
    torch.set_num_threads(threads)


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
