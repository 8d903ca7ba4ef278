"""`nas.train --init-weights`: our weights, others, odd ones."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import efficientnet_b0 as torchvision_b0

from nas.train import main
from search_spaces.zoo import efficientnet_b0
from tests.trainings import flags

WEIGHT, BIAS = (f"classifier.branch.fc.linear.{name}" for name in ("weight", "bias"))


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
