"""What cannot be exported: one line, status 2, nothing written."""

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.models import formats
from search_spaces.weights import save_weights
from tests.exporting import export, files
from tests.models import EVERY_OP, SMALL, bare, network, trained


def _fails(capfd: pytest.CaptureFixture[str], *args: object) -> str:
    assert export(*args) == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    return err


def _pickle_file(path: Path) -> None:
    path.write_bytes(pickle.dumps({"stem": 1}))


def _torch_file(path: Path) -> None:
    torch.save(network(SMALL).state_dict(), path)


def _cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("spoil", [_pickle_file, _torch_file, _cut_file])
def test_weights_are_safetensors_by_content(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    weights = trained(tmp_path / "run", SMALL)
    spoil(weights)
    err = _fails(capfd, "--weights", weights, "--out", tmp_path / "out")
    assert "safetensors" in err
    assert "a pickle can run code" in err
    assert not (tmp_path / "out").exists()


def test_flipped_bit_in_the_weights_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = trained(tmp_path / "run", SMALL)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "damaged" in _fails(capfd, "--weights", weights, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_architecture_is_known(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights, _ = bare(tmp_path, SMALL)
    err = _fails(capfd, "--weights", weights, "--out", tmp_path / "out")
    assert "--arch must name the architecture" in err


@pytest.mark.parametrize("with_card", [True, False])
def test_other_architecture_than_the_weights_fit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], with_card: bool
) -> None:
    weights = trained(tmp_path, SMALL) if with_card else bare(tmp_path, SMALL)[0]
    err = _fails(
        capfd, "--weights", weights, "--arch", "efficientnet-b0", "--out", tmp_path / "out"
    )
    if with_card:
        assert "differs in resolution, num_classes, stem, stages, head_width. Leave --arch" in err
    else:
        assert "does not fit efficientnet-b0" in err


def test_preprocessing_cannot_be_included_unknown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights, arch = bare(tmp_path, SMALL)
    args = ("--weights", weights, "--arch", arch, "--out", tmp_path / "out")
    assert "needs `preprocessing`" in _fails(capfd, *args, "--include-preprocessing")


@pytest.mark.parametrize("exported_in_place", [False, True])
def test_model_json_of_another_model_is_not_overwritten(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], exported_in_place: bool
) -> None:
    weights = trained(tmp_path / "run", SMALL)
    trained(tmp_path / "other", EVERY_OP)
    if exported_in_place:
        other = tmp_path / "other" / "model.safetensors"
        args = ("--weights", other, "--out", other.parent, "--formats", "torch-export")
        assert export(*args) == 0
    before = (tmp_path / "other" / "model.json").read_bytes()
    err = _fails(capfd, "--weights", weights, "--out", tmp_path / "other")
    assert "would be overwritten" in err
    assert (tmp_path / "other" / "model.json").read_bytes() == before


def test_missing_onnx_packages_name_the_extra(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trained(tmp_path / "run", SMALL)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    err = _fails(capfd, "--weights", weights, "--out", tmp_path / "out")
    assert "needs onnxruntime" in err
    assert "pip install 'efficientnet-search[onnx]'" in err
    args = ("--weights", weights, "--out", tmp_path / "out", "--formats", "torch-export")
    assert export(*args) == 0


@pytest.mark.slow
def test_opset_out_of_reach_keeps_the_earlier_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights, arch = bare(tmp_path, SMALL)
    args = ("--weights", weights, "--arch", arch, "--out", tmp_path / "out", "--formats", "onnx")
    assert export(*args) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capfd.readouterr()
    assert "--opset 5 cannot be reached" in _fails(capfd, *args, "--opset", 5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_diverged_weights_are_not_exported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    diverged = network(SMALL)
    with torch.no_grad():
        next(diverged.parameters()).fill_(torch.nan)
    save_weights(diverged, tmp_path / "model.safetensors")
    (tmp_path / "arch.json").write_text(SMALL.to_json())
    args = ("--weights", tmp_path / "model.safetensors", "--arch", tmp_path / "arch.json")
    args = (*args, "--out", tmp_path / "out", "--formats", "torch-export")
    assert "not finite" in _fails(capfd, *args)
    assert files(tmp_path / "out") == []


def test_failed_check_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by_a_little(path: Path) -> formats.Run:
        right = onnx_format.load(path)
        return lambda images: right(images) * 1.001

    onnx_format = formats.FORMATS["onnx"]
    monkeypatch.setitem(formats.FORMATS, "onnx", replace(onnx_format, load=off_by_a_little))
    weights = trained(tmp_path / "run", SMALL)
    err = _fails(capfd, "--weights", weights, "--out", tmp_path / "out")
    assert "model.onnx differs from PyTorch by 1.0e-03" in err
    assert files(tmp_path / "out") == []


def test_out_that_is_a_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = trained(tmp_path / "run", SMALL)
    (tmp_path / "out").write_text("")
    assert "cannot be written" in _fails(capfd, "--weights", weights, "--out", tmp_path / "out")
