"""A user's own builder in trials, trainings and exports: its own weights, under its own names."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nas import export, train
from nas.costs.objective import AccuracyObjective
from nas.models.saved import ModelError, load_model
from nas.search.options import TrialOptions
from nas.training.parts import build_network
from nas.trials.evaluate import measure
from nas.trials.runner import TrialRunner
from nas.trials.trial import Proposal
from nas.workers import Workers
from scaling_search.compound import scale
from search_spaces.builder import BuiltNetwork
from search_spaces.building import BuiltModule
from search_spaces.network import Network
from search_spaces.weights import WeightsError, load_weights, save_weights
from search_spaces.zoo import efficientnet_b0
from tests import builders
from tests.builders import PAPER, built


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
