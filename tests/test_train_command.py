"""`python -m nas.train` from end to end: its files, its words, its refusals."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nas.data.dataset import load_for_training
from nas.models.saved import load_model, sha256
from nas.train import main
from nas.training.score import accuracy
from search_spaces.files import exclusive
from search_spaces.zoo import load_architecture
from tests.models import tiny
from tests.trainings import flags

CLASSES = ("one", "two", "zero")


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
    assert "plan    1 epoch x 11 steps" in capsys.readouterr().out


def test_a_dry_run_that_diverges_says_so_in_a_line(
    arch: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--dry-run", "--learning-rate", "1e30"]
    assert main(flags(arch, data, tmp_path / "out", 3, *wild)) == 1
    assert capsys.readouterr().err.startswith("error: the training diverged, ")


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
