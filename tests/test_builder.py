"""A user's own builder: counted like its module, scaled by its factors, and never run unasked."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_search.compound import ScalingError, default_rounding, scale, scale_by
from search_spaces.adapt import adapt_classes, adapt_resolution
from search_spaces.architecture import ArchitectureError
from search_spaces.builder import BuilderError, BuiltNetwork, network_from_json
from search_spaces.building import build
from search_spaces.cost import Cost, count
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0, file_argument, load_architecture
from tests import builders
from tests.builders import PAPER, built
from tests.counting import count_module


@settings(max_examples=25)
@given(
    name=st.sampled_from(["efficientnet", "resnet50"]),
    depth=st.floats(0.4, 2),
    width=st.floats(0.3, 1.5),
    resolution=st.integers(33, 200),
)
def test_a_wrapped_network_costs_what_arithmetic_says(
    name: str, depth: float, width: float, resolution: int
) -> None:
    zoo = {"efficientnet": "efficientnet-b0", "resnet50": "resnet-50"}[name]
    expected = builders.scaled(ZOO[zoo](), depth, width, resolution)
    assert count(built(name, resolution, depth, width)) == count(expected)


@pytest.mark.parametrize("name", ["plain", "resnet", "mobilenet", "tied"])
@pytest.mark.parametrize(("depth", "width"), [(1, 1), (1.6, 1.5)])
def test_any_module_costs_what_fvcore_counts(name: str, depth: float, width: float) -> None:
    network = built(name, 40, depth, width)
    module = build(network)
    assert count(network) == count_module(module, 3, 40)
    assert network.num_classes == 10


def test_what_has_no_module_is_counted_too() -> None:
    """By hand: functional and transposed convolutions, attention, linear layers; and a builder
    that reads tensors, so that it does not run without content."""
    half, full = 32 // 2, 32
    functional = 8 * 3 * 9 * half**2
    transposed = half**2 * 8 * (4 // 2) * 4
    attention = 2 * full**4 * 4
    linear = 2 * full**2 * 4 * 4
    params = 8 * 3 * 9 + (8 * 2 * 4 + 4) + 2 * (4 * 4 + 4)
    activations = 8 * half**2 + 4 * full**2
    expected = Cost(params, functional + transposed + attention + linear, activations)
    assert count(built("functional", 32)) == expected


def test_counting_leaves_torch_s_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for function in ("plain", "functional"):
        assert count(built(function, 20)).macs
    assert torch.equal(torch.get_rng_state(), before)


def test_factors_that_round_alike_are_one_network() -> None:
    network = built("plain", 16, depth=1.2)
    assert network.digest == built("plain", 16, depth=1.4).digest
    assert network.digest == replace(network, name="other").digest
    others = [
        built("plain", 16),
        built("plain", 17, depth=1.2),
        built("plain", 16, depth=1.2, width=2),
        built("three_classes", 16, depth=1.2),
    ]
    assert len({network.digest, *(other.digest for other in others)}) == 5


@pytest.mark.slow
def test_digests_are_the_same_in_another_process() -> None:
    fields = "name='a', reference='tests.builders:mobilenet', resolution=40"
    code = f"from search_spaces.builder import *; print(BuiltNetwork({fields}).digest)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == built("mobilenet", 40).digest


def test_scaling_multiplies_the_factors_and_rounds_the_resolution() -> None:
    base = built("plain", 32)
    scaled = scale(base, PAPER, 2)
    assert (scaled.depth, scaled.width) == pytest.approx((1.44, 1.21))
    assert (scaled.resolution, scaled.name) == (42, "plain-phi2")
    twice = scale(scaled, PAPER, 1, name="more")
    assert twice.depth == pytest.approx(1.2**3)
    assert scale(base, PAPER, 0) == base
    assert scale(base, PAPER, -1).depth == pytest.approx(1 / 1.2)
    assert default_rounding(built("plain", 224), 1) == Rounding(8, "ceil", 8)
    with pytest.raises(ScalingError, match="`0 < width <= "):
        scale_by(base, depth=1, width=0, resolution=32, rounding=Rounding())


def test_scaling_a_builder_is_scaling_its_architecture() -> None:
    """The same rounding inside the builder gives the networks of the zoo."""
    base, b0 = built("efficientnet", 224), efficientnet_b0()
    for phi in (1, 2.5):
        assert count(scale(base, PAPER, phi)) == count(scale(b0, PAPER, phi))


def test_json_gives_back_an_equal_value() -> None:
    network = scale(built("plain", 32), PAPER, 1.7)
    assert network_from_json(network.to_json()) == network
    assert network_from_json(efficientnet_b0().to_json()) == efficientnet_b0()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2; this version reads schema 1"),
        ({"depth": 0}, "`0 < depth` must hold"),
        ({"width": "1"}, "width: Input should be a valid number"),
        ({"resolution": 0}, "`resolution >= 1` must hold"),
        ({"builder": "os.system"}, "form my_module:function, but got 'os.system'"),
        ({"stages": []}, "stages: Unexpected keyword"),
    ],
)
def test_broken_json_is_named(changes: dict[str, object], message: str) -> None:
    fields = {**json.loads(built("plain").to_json()), **changes}
    with pytest.raises(BuilderError, match=message):
        network_from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.builders:plain", r"needs the side of its images in px: tests\.builders:plain@64"),
        (
            "tests.builders:plain@b1.json",
            r"neither a number of px nor a file\. `python -m scaling_search\.family` writes",
        ),
        ("tests.builders:plain@0", "`resolution >= 1` must hold"),
        ("no.such:plain@8", "does not import: No module named 'no'"),
        ("tests.builders:none@8", "has no 'none'"),
        ("tests.builders:not_callable@8", "is 7, which is no function"),
        ("tests.builders:positional@8", r"called as f\(depth=.*does not take: missing"),
        ("tests.builders:fails@8", r"depth=1, width=1, resolution=8\) raised RuntimeError: no 1"),
        ("tests.builders:no_module@8", r"returns a torch\.nn\.Module, but .* returned list"),
        ("tests.builders:a_map@8", r"logits \(1, classes\), .* but gave \(1, 8, 8, 8\)"),
        ("tests.builders:other_channels@8", r"cannot compute images \(1, 3, 8, 8\): RuntimeError"),
        ("tests.builders:lazy@8", r"parameters without a shape \(1\.weight, 1\.bias\)"),
        ("tests.builders:no_depth@8", "same module for depth=2 as for depth=1.*number of blocks"),
        ("tests.builders:no_width@8", "same module for width=2 as for width=1.*number of channels"),
        ("tests.builders:auxiliary@8", "in training too, but gave tuple"),
    ],
)
def test_what_is_wrong_with_a_builder_is_said(name: str, message: str) -> None:
    with pytest.raises(BuilderError, match=message):
        load_architecture(name)


def test_classes_are_the_builder_s_own() -> None:
    network = built("plain")
    assert adapt_classes(network, 10) is network
    with pytest.raises(BuilderError, match=r"10 logits, but 3 classes .* classifier put out 3"):
        adapt_classes(network, 3)
    assert adapt_classes(efficientnet_b0(), 3).num_classes == 3
    assert adapt_resolution(network, 12) == replace(network, resolution=12)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A builder in the working directory that tells when its module is imported."""
    (tmp_path / "foreign_module.py").write_text(
        "from pathlib import Path\n"
        "from tests.builders import plain as build\n"
        "Path('imported').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign_module", raising=False)
    return "foreign_module:build"


def test_a_file_alone_imports_nothing(foreign: str) -> None:
    network = BuiltNetwork(name="mine", reference=foreign, resolution=8, depth=1.5)
    Path("B1.json").write_text(network.to_json())
    Path("model.json").write_text(json.dumps({"architecture": json.loads(network.to_json())}))
    for file in ("B1.json", "model.json"):
        with pytest.raises(ArchitectureError, match=f"only if you name it: {foreign}@{file}"):
            load_architecture(file)
        with pytest.raises(BuilderError, match=f"holds a network of {foreign}, not of other:f"):
            load_architecture(f"other:f@{file}")
    assert network_from_json(network.to_json()) == network
    assert not Path("imported").exists()

    assert file_argument(network, "B1.json") == f"{foreign}@B1.json"
    for file in ("B1.json", "model.json"):
        assert load_architecture(f"{foreign}@{file}") == network
    assert network.num_classes == 10
    assert Path("imported").exists()


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    file = tmp_path / "b0.json"
    file.write_text(efficientnet_b0().to_json())
    assert file_argument(efficientnet_b0(), file) == str(file)
    with pytest.raises(BuilderError, match="holds a network of no builder, not of tests"):
        load_architecture(f"tests.builders:plain@{file}")


@pytest.mark.parametrize("module", ["builder", "zoo", "cost"])
def test_describing_a_built_network_loads_no_torch(module: str) -> None:
    code = (
        f"import sys, search_spaces.{module}\n"
        "from search_spaces.builder import BuiltNetwork, network_from_json\n"
        "network = BuiltNetwork(name='a', reference='b:c', resolution=8)\n"
        "assert network_from_json(network.to_json()) == network\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
