"""A user's own builder: counted like its module, scaled by its factors, and never run unasked."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import export, train
from nas.costs.objective import AccuracyObjective
from nas.models.saved import ModelError, load_model
from nas.search.options import TrialOptions
from nas.training.parts import build_network
from nas.trials.evaluate import measure
from nas.trials.runner import TrialRunner
from nas.trials.trial import Proposal
from nas.workers import Workers
from scaling_search.compound import Coefficients, ScalingError, default_rounding, scale, scale_by
from search_spaces.adapt import adapt_classes, adapt_resolution
from search_spaces.architecture import ArchitectureError
from search_spaces.builder import BuilderError, BuiltNetwork, network_from_json
from search_spaces.building import BuiltModule, build
from search_spaces.cost import Cost, count
from search_spaces.network import Network
from search_spaces.rounding import Rounding
from search_spaces.weights import WeightsError, load_weights, save_weights
from search_spaces.zoo import ZOO, efficientnet_b0, file_argument, load_architecture
from tests import builders
from tests.counting import count_module

PAPER = Coefficients(1.2, 1.1, 1.15)


def built(function: str, resolution: int = 8, depth: float = 1, width: float = 1) -> BuiltNetwork:
    reference = f"tests.builders:{function}"
    return BuiltNetwork(
        name=function, reference=reference, resolution=resolution, depth=depth, width=width
    )


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


def test_modules_have_the_user_s_weights_from_the_seed(tmp_path: Path) -> None:
    network = built("plain", 8)
    first, again, other = (build_network(network, seed) for seed in (0, 0, 1))
    assert isinstance(first, BuiltModule)
    torch.manual_seed(0)
    states = [m.state_dict() for m in (builders.plain(depth=1, width=1, resolution=8), again)]
    for name, tensor in states[0].items():
        assert torch.equal(first.state_dict()[f"module.{name}"], tensor)
        assert torch.equal(states[1][f"module.{name}"], tensor)
    assert not torch.equal(first.module.stem.weight, other.module.stem.weight)  # pyright: ignore

    save_weights(first, tmp_path / "a.safetensors")
    state = safetensors.torch.load_file(tmp_path / "a.safetensors")
    builders.plain(depth=1, width=1, resolution=8).load_state_dict(state)  # the user's own names
    assert load_weights(other, state) == "own"
    assert torch.equal(first.module.stem.weight, other.module.stem.weight)  # pyright: ignore
    wider = build_network(built("plain", 8, width=2), 0)
    with pytest.raises(WeightsError, match=r"not those of plain: of another shape stem\.weight"):
        load_weights(wider, state)
    with pytest.raises(WeightsError, match=r"not those of plain: missing"):
        load_weights(wider, Network(efficientnet_b0()).state_dict())


def test_tied_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    network = build_network(built("tied"), 0)
    save_weights(network, tmp_path / "tied.safetensors")
    state = safetensors.torch.load_file(tmp_path / "tied.safetensors")
    again = build_network(built("tied"), 1)
    load_weights(again, state)
    images = torch.ones(1, 3, 8, 8)
    torch.testing.assert_close(again(images), network(images))


def accuracy(architecture: BuiltNetwork, *, epochs: int, seed: int) -> float:
    """Needs the module, in whatever process it runs."""
    assert architecture.num_classes == 10
    return (architecture.cost.macs * (seed + 3)) % 997 / 997


@pytest.mark.parametrize(
    "workers",
    [Workers(), pytest.param(Workers(count=2), marks=[pytest.mark.slow, pytest.mark.ray])],
)
def test_trials_are_recorded_and_resumed(workers: Workers, tmp_path: Path) -> None:
    base = built("plain", 8)
    networks = [scale(base, PAPER, phi) for phi in (0, 1, 2)]
    proposals = [Proposal(architecture=n, epochs=1, seed=s) for s in (0, 1) for n in networks]

    def run(number: int) -> list[tuple[str, float | None, int]]:
        runner = TrialRunner(tmp_path / "study.db", accuracy, AccuracyObjective(), workers)
        results = runner.run_all("a", proposals[:number]).results
        return [(r.job.proposal.architecture.digest, r.value, r.macs) for r in results]

    expected = [
        (p.architecture.digest, accuracy(n, epochs=1, seed=p.seed), n.cost.macs)
        for p, n in zip(proposals, networks * 2, strict=True)
    ]
    assert sorted(run(3)) == sorted(expected[:3])
    assert sorted(run(6)) == sorted(run(6)) == sorted(expected)


def test_a_trial_trains_the_module(tmp_path: Path) -> None:
    options = TrialOptions(data="digits", max_images=200)
    task = options.load_task(Workers(), run_dir=tmp_path, resolution=8, num_classes=None)
    outcome = measure(task.evaluator, built("plain", 8), epochs=8, seed=0)
    assert outcome.reason == "", outcome.detail
    assert outcome.accuracy is not None
    assert outcome.accuracy > 0.4
    seconds_of = task.seconds_of(built("plain", 8))
    assert seconds_of is not None
    assert 0 < seconds_of(1) < seconds_of(2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A member of a builder's family, trained by the command."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "B1.json").write_text(scale(built("plain", 8), PAPER, 1, name="plain-b1").to_json())
    assert train.main(_train(folder)) == 0
    return folder


def _train(folder: Path, *flags: str) -> list[str]:
    arch = f"tests.builders:plain@{folder}/B1.json"
    common = ["--arch", arch, "--data", "digits", "--out", str(folder / "out"), "--threads", "1"]
    return [*common, "--epochs", "2", "--augment", "none", *flags]


def test_train_resumes_and_export_runs_without_the_builder(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train.main(_train(trained)) == 0
    output = capfd.readouterr().out
    assert "holds this training, finished" in output
    command = f"--arch tests.builders:plain@{trained}/out/model.json --weights {trained}"
    assert command in output

    weights = trained / "out" / "model.safetensors"
    arguments = ["--weights", str(weights), "--out", str(tmp_path / "x")]
    assert export.main(arguments) == 2
    assert "run only if you name it: tests.builders:plain@" in capfd.readouterr().err
    named = ["--arch", f"tests.builders:plain@{trained}/out/model.json"]
    assert export.main([*arguments, *named, "--formats", "torch-export"]) == 0
    card = json.loads((tmp_path / "x" / "model.json").read_text())
    assert card["architecture"]["builder"] == "tests.builders:plain"
    assert card["cost"]["macs"] == scale(built("plain", 8), PAPER, 1).cost.macs
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    model = load_model(weights, named[1])
    with torch.no_grad():
        program = torch.export.load(tmp_path / "x" / "model.pt2").module()
        torch.testing.assert_close(program(images), model.network(images))
    assert load_model(weights, f"tests.builders:plain@{trained}/B1.json").card.classes


def test_other_weights_and_other_data_are_refused(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = trained / "out" / "model.safetensors"
    with pytest.raises(ModelError, match=r"depth, width\. Name tests\.builders:plain@/"):
        load_model(weights, "tests.builders:plain@8")
    moved = shutil.copy(weights, tmp_path / "moved.safetensors")
    with pytest.raises(ModelError, match=r"does not fit tests\.builders:plain@8"):
        load_model(Path(moved), "tests.builders:plain@8")

    flags = _train(tmp_path, "--init-weights", str(weights))
    shutil.copy(trained / "B1.json", tmp_path)
    assert train.main(flags) == 0
    assert "(own naming)" in capfd.readouterr().out
    flags[1] = "tests.builders:three_classes@8"
    assert train.main([*flags[:4], "--out", str(tmp_path / "three")]) == 2
    assert "puts out 3 logits, but 10 classes are needed" in capfd.readouterr().err
