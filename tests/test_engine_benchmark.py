"""The benchmark of the engine: what it compares, in which order, and that it runs."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments.engine_benchmark import main
from experiments.engine_gpu import compare, noise
from experiments.engine_loops import b0, our_loop, timm_b0, timm_loop, tuned_loop
from experiments.engine_trials import growth, real_trial, seconds_a_trial
from experiments.measuring import in_turn, number_row, ratio_row
from nas.data.dataset import load_for_search
from nas.training import proxy
from nas.training.proxy import ProxyTraining
from tests.trees import plant

# timm's dataset leaves the files that it decodes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of eight images."""
    tree = {f"train/{name}": 8 for name in "abcdefghij"} | {"val/a": 1}
    return plant(tmp_path_factory.mktemp("data") / "photos", tree, size=(40, 36))


def test_runs_take_turns_and_warm_rounds_do_not_count() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = in_turn(runs, 3, warm=2)
    assert "".join(calls) == "ab" * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_that_of_speeds_round_by_round() -> None:
    slow, fast = np.array([2.0, 4.0, 9.0]), np.array([1.0, 1.0, 3.0])
    row = ratio_row("x", slow, fast)
    assert (row.low, row.value, row.high) == (2.5, 3.0, 3.5)
    assert row.cells()["value"] == "**3**"
    assert number_row("x", slow, unit=" ms").cells()["value"] == "**4 ms**"


def test_every_loop_trains_its_network_for_so_many_steps(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []
    networks = [timm_b0(0.25, 10) for _ in range(2)]
    before = [_weights(network) for network in networks]
    for network in networks:
        network.register_forward_hook(lambda _, images, logits: seen.append(images[0].shape))
    split = noise(20, 32, 10)
    tuned_loop(networks[0], split, 4, CPU)(3)
    timm_loop(networks[1], photos / "train", 32, 4, CPU, 0)(2)
    assert seen == [torch.Size((4, 3, 32, 32))] * 5
    for network, weights in zip(networks, before, strict=True):
        assert not torch.equal(_weights(network), weights)
    seen.clear()
    step = proxy.Trainer._step

    def noting(self: proxy.Trainer, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(images.shape)
        return step(self, images, *rest)

    monkeypatch.setattr(proxy.Trainer, "_step", noting)
    run = our_loop(b0(0.25, 32, 10), split, 4, CPU)
    run(3)
    run(3)
    assert seen == [torch.Size((4, 3, 32, 32))] * 6


def _weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.slow
def test_growth_compares_a_late_trial_and_reads_memory() -> None:
    cost, memory = growth("evolution", late=80, most=100, rounds=1, clock="cpu")
    assert cost.what == "cost of trial 80 over trial 50"
    assert 0.2 < cost.value < 5
    assert re.fullmatch(r"memory at 1\d\d trials", memory.what)
    assert 0.05 < memory.value < 2


def test_shares_of_a_real_trial_add_up_and_the_trainer_is_left_as_it_was(photos: Path) -> None:
    data = load_for_search(str(photos), size=32)
    original = proxy.Trainer.run_epoch
    outside, judging = real_trial(ProxyTraining(data=data, device="cpu"), b0(0.25, 32, 10), 1, 2)
    assert 0 < outside.value < 100
    assert 0 < judging.value < 100 - outside.low
    assert proxy.Trainer.run_epoch is original


@pytest.mark.slow
def test_the_command_writes_what_it_prints(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(photos), "--sections", "loops", "gpu", "--resolutions", "32"]
    command += ["--widths", "0.25", "--batch", "4", "--steps", "1", "--rounds", "2"]
    assert main([*command, "--out", str(tmp_path), "--name", "engine"]) == 0
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-engine.md", file.name)
    written, printed = file.read_text(), capsys.readouterr().out
    table = written[written.index("| measured") :].strip()
    assert table in printed
    assert "over hand-tuned" in table
    assert "over timm's defaults" in table
    assert "python -m experiments.engine_benchmark" in written
    if not torch.cuda.is_available():
        assert "none here: not measured" in printed


def test_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--sections", "growth", "--rounds", "0"]) == 2
    assert "`--rounds` must be at least 1, but got 0" in capsys.readouterr().err
    two = plant(tmp_path / "two", {"train/a": 4, "train/b": 4, "val/a": 1}, size=(32, 32))
    assert main(["--data", str(two), "--sections", "loops", "--resolutions", "32"]) == 2
    assert "must have 10 classes, but has 2" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["--data", str(two)]) == 2
    assert "pip install timm" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_and_the_trials_on_ray_are_measured(photos: Path, tmp_path: Path) -> None:
    command = ["--data", str(photos), "--sections", "overhead", "workers", "--resolutions", "32"]
    command += ["--widths", "0.25", "--rounds", "1", "--epochs", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    (file,) = tmp_path.iterdir()
    assert "trials of two workers over those of one" in file.read_text()


@pytest.mark.parametrize("lag", [0.0, 0.5, 0.99])
def test_workers_in_step_are_no_faster_than_others(lag: float) -> None:
    """Two of them, a trial a second each, the second begun later."""
    trials = np.arange(1, 7)
    ends = np.sort(np.concatenate([trials, trials + lag]))
    assert seconds_a_trial(ends, 2) == pytest.approx(0.5)
    assert seconds_a_trial(trials, 1) == 1


def test_the_gpu_s_loops_are_compared_though_none_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile_nothing(network: nn.Module) -> Any:
        def run(_: torch.Tensor) -> None:
            raise RuntimeError("no compiler")

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    rows = compare(1, 2, False, device=CPU, batch=2, side=32)
    assert "timm, compiled: failed, for want of a compiler perhaps: no compiler" in (
        capsys.readouterr().out
    )
    names = ["ours", "timm", "ours over timm", "ours, first steps", "timm, first steps"]
    assert [row.what for row in rows] == names
    ours, theirs, ratio = (row.value for row in rows[:3])
    assert ratio == pytest.approx(ours / theirs, rel=0.5)
    assert torch.backends.cudnn.benchmark is False
    compare(1, 1, True, device=CPU, batch=2, side=32)
    assert torch.backends.cudnn.benchmark is True


@pytest.mark.gpu
def test_the_gpu_sections(photos: Path, tmp_path: Path) -> None:
    command = ["--data", str(photos), "--sections", "gpu", "gpu-trials", "--resolutions", "32"]
    assert main([*command, "--rounds", "2", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    assert "ours over timm" in file.read_text()
    assert "trials an hour, 8 on the GPU" in file.read_text()
