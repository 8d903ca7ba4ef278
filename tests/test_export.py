"""Exported files give PyTorch's logits, load without this framework, and appear whole or never."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from torch import Tensor

from nas.data.images import store
from nas.export import main, snippet
from nas.folder import RunFolder
from nas.models import formats
from nas.models.saved import load_model
from nas.training.augment import normalise
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.zoo import ZOO, load_architecture
from tests.exporting import export, files
from tests.models import CLASSES, EVERY_OP, MEAN, SMALL, STD, bare, network, trained
from tests.strategies import architectures

README = Path(__file__).parent.parent / "README.md"


def _onnx_logits(file: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.tensor(session.run(None, {"images": images.numpy()})[0])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the command writes for the network of every op."""
    folder = tmp_path_factory.mktemp("exported")
    weights = trained(folder / "run", EVERY_OP)
    assert export("--weights", weights, "--out", folder / "out") == 0
    return folder / "out"


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("resolution", [400_000, 10**12])
def test_rule_weights_a_card_that_claims_giant_images_takes_no_memory(
    resolution: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = trained(tmp_path, SMALL)
    card = tmp_path / "model.json"
    fields = json.loads(card.read_text())
    fields["architecture"]["resolution"] = resolution
    card.write_text(json.dumps(fields))
    assert main(["--weights", str(weights), "--out", str(tmp_path / "out")]) == 2
    message = rf"error: 3 images of {resolution:,} px, .* take .* GiB of memory, and .* are free"
    assert re.match(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_writes_these_files_and_no_others(exported: Path) -> None:
    assert files(exported) == ["model.json", "model.onnx", "model.pt2"]


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_files_give_pytorchs_logits_at_any_batch_size(
    exported: Path, images: Tensor, batch: int
) -> None:
    with torch.no_grad():
        expected = network(EVERY_OP)(images[:batch])
        program = torch.export.load(exported / "model.pt2").module()(images[:batch])
    torch.testing.assert_close(program, expected)
    logits = _onnx_logits(exported / "model.onnx", images[:batch])
    torch.testing.assert_close(logits, expected)


def test_onnx_is_one_file_with_named_ends(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", 3, 32, 32], "logits": ["batch", 5]}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert not any(node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_files_carry_no_paths_of_this_machine(exported: Path, name: str) -> None:
    content = (exported / name).read_bytes()
    assert str(Path(formats.__file__).parent).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content


def test_model_json_describes_the_files(exported: Path) -> None:
    card = json.loads((exported / "model.json").read_text())
    cost = count(EVERY_OP)
    assert load_architecture(exported / "model.json") == EVERY_OP
    assert card["classes"] == CLASSES
    assert card["preprocessing"] == {"resolution": 32, "mean": MEAN, "std": STD}
    assert card["metrics"]["test_accuracy"] == 0.5
    assert (card["cost"]["params"], card["cost"]["macs"]) == (cost.params, cost.macs)
    export = card["export"]
    assert export["input"]["shape"] == ["batch", 3, 32, 32]
    assert export["input"]["values"] == "(pixels / 255 - mean) / std"
    assert export["output"] == {"name": "logits", "shape": ["batch", 5]}
    assert set(export["versions"]) == {"torch", "onnx", "onnxruntime", "onnxscript"}
    for file in export["files"].values():
        content = (exported / file["file"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert [check["batch_size"] for check in file["checks"]] == [1, 3]
        assert all(check["max_relative_difference"] < 1e-4 for check in file["checks"])
        assert all(check["same_classes"] for check in file["checks"])
    assert export["files"]["onnx"]["opset"] >= 18


_WITHOUT_US = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
card = json.loads((folder / "model.json").read_text())
export = card["export"]
shape = [1, *export["input"]["shape"][1:]]
if sys.argv[2] == "onnx":
    import numpy, onnxruntime
    session = onnxruntime.InferenceSession(folder / export["files"]["onnx"]["file"])
    images = numpy.zeros(shape, export["input"]["dtype"])
    logits = session.run([export["output"]["name"]], {export["input"]["name"]: images})[0]
    assert "torch" not in sys.modules
else:
    import torch
    module = torch.export.load(folder / export["files"]["torch-export"]["file"]).module()
    logits = module(torch.zeros(shape))
print(card["classes"][int(logits[0].argmax())])
ours = {"nas", "search_spaces", "scaling_search"} & {name.split(".")[0] for name in sys.modules}
assert not ours, ours
"""


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_files_run_without_this_framework(exported: Path, tmp_path: Path, name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-c", _WITHOUT_US, exported, name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        expected = network(EVERY_OP)(torch.zeros(1, 3, 32, 32)).argmax()
    assert result.stdout.strip() == CLASSES[int(expected)]


@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_printed_snippet_runs(exported: Path, file: str) -> None:
    names: dict[str, Any] = {}
    code = snippet(exported / file, EVERY_OP)
    assert len(code.splitlines()) == 3
    exec(code, names)
    assert names["logits"].shape == (1, 5)


def test_output_is_short_and_names_the_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = trained(tmp_path / "run", SMALL)
    assert export("--weights", weights, "--out", tmp_path / "out") == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["model", "wrote", "wrote", "wrote", "run"]
    assert len(lines) == 8
    assert "opset" in lines[1]
    assert "iB" in lines[2]
    assert snippet(tmp_path / "out" / "model.onnx", SMALL) in out
    assert lines[4] == "run it, on images prepared as `preprocessing` in model.json says"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P"])
@pytest.mark.parametrize("shape", [(32, 32), (75, 40), (41, 90), (300, 3), (1, 9)])
def test_the_readmes_example_prepares_images_as_training_does(
    exported: Path, tmp_path: Path, mode: str, shape: tuple[int, int]
) -> None:
    (example,) = re.findall(r"```python\n(import json\n.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    assert example.count('"runs/photos-b2"') == 1
    exec(example.replace('"runs/photos-b2"', repr(str(exported))), names)
    noise = np.random.default_rng(5).integers(0, 256, (*shape, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    file = tmp_path / "image.tiff"
    Image.fromarray(noise).convert(mode).save(file, exif=turned)

    stored = np.empty((3, 32, 32), np.uint8)
    with Image.open(file) as image:
        store(image, stored)
    cpu = torch.device("cpu")
    expected = normalise(torch.from_numpy(stored)[None], cpu, tuple(MEAN), tuple(STD))
    torch.testing.assert_close(torch.from_numpy(names["pixels"](file)), expected)
    with torch.no_grad():
        answer = CLASSES[int(network(EVERY_OP)(expected).argmax())]
    assert names["classify"](file) == answer


def test_included_preprocessing_normalises_inside(tmp_path: Path, images: Tensor) -> None:
    weights = trained(tmp_path / "run", SMALL)
    assert export("--weights", weights, "--out", tmp_path, "--include-preprocessing") == 0
    pixels = images[:, :, :16, :16].sigmoid()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = network(SMALL)((pixels - mean) / std)
        program = torch.export.load(tmp_path / "model.pt2").module()(pixels)
    torch.testing.assert_close(program, expected)
    logits = _onnx_logits(tmp_path / "model.onnx", pixels)
    torch.testing.assert_close(logits, expected)
    written = json.loads((tmp_path / "model.json").read_text())["export"]
    assert written["includes_preprocessing"] is True
    assert written["input"]["values"] == "pixels / 255"


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = trained(tmp_path / "run", SMALL)
    assert export("--weights", weights, "--out", tmp_path / "out", "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    assert "would write" in capsys.readouterr().out


def test_one_format_alone_leaves_an_earlier_file_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, arch = bare(tmp_path, SMALL)
    common = ("--weights", weights, "--arch", arch, "--out", tmp_path / "out", "--formats")
    assert export(*common, "onnx") == 0
    assert files(tmp_path / "out") == ["model.json", "model.onnx"]
    assert export(*common, "torch-export") == 0
    assert files(tmp_path / "out") == ["model.json", "model.onnx", "model.pt2"]
    assert "model.onnx is of an earlier export" in capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert list(card["export"]["files"]) == ["torch-export"]
    assert card["classes"] is None


def test_exporting_beside_the_weights_keeps_what_training_wrote(tmp_path: Path) -> None:
    weights = trained(tmp_path, SMALL)
    for _ in range(2):
        assert export("--weights", weights, "--out", tmp_path, "--formats", "torch-export") == 0
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["metrics"]["test_accuracy"] == 0.5
    assert "export" in card
    assert load_model(weights, None).architecture == SMALL


def test_exporting_beside_the_weights_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a training vouches for its model.json, which an export writes anew."""
    weights = trained(tmp_path, SMALL)
    with RunFolder(tmp_path, "nas.train", "--out") as folder:
        folder.start()
        folder.write("model.json", (tmp_path / "model.json").read_bytes())
    for _ in range(2):
        assert export("--weights", weights, "--out", tmp_path, "--formats", "torch-export") == 0
    assert "WARNING" not in capsys.readouterr().out


def test_opset_is_the_one_asked_for(tmp_path: Path) -> None:
    weights, arch = bare(tmp_path, SMALL)
    args = ("--weights", weights, "--arch", arch, "--out", tmp_path / "out", "--formats", "onnx")
    assert export(*args, "--opset", 18) == 0
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 18


@pytest.mark.slow
@given(architecture=architectures())
@settings(max_examples=8, deadline=None)
def test_any_architecture_is_exported(
    tmp_path_factory: pytest.TempPathFactory, architecture: Architecture
) -> None:
    folder = tmp_path_factory.mktemp("any")
    weights, arch = bare(folder, architecture)
    assert export("--weights", weights, "--arch", arch, "--out", folder / "out") == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ZOO))
def test_zoo_is_exported(tmp_path: Path, name: str) -> None:
    weights, arch = bare(tmp_path, replace(ZOO[name](), resolution=64))
    assert export("--weights", weights, "--arch", arch, "--out", tmp_path / "out") == 0
