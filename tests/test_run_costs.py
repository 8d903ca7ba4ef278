"""`python -m nas.run` with other costs than multiply-adds, without a reward, and with halving."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nas import run
from nas.cli import format_number
from search_spaces.cost import count
from search_spaces.zoo import load_architecture
from tests.toy_runs import config_of, run_toy, trials_of


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search for a front at the first target, with finalists."""
    folder = tmp_path_factory.mktemp("front")
    assert _front(folder, "--target-flops", "400M") == 0
    return folder


def _front(folder: Path, *flags: str) -> int:
    evaluator = ["--evaluator", "tests.searching:accuracy", "--epochs", "2", "--trials", "12"]
    finalists = ["--finalists", "2", "--finalist-seeds", "2"]
    pareto = ["--pareto", "--strategy", "nsga2", "--run-dir", str(folder)]
    return run.main([*evaluator, *finalists, *pareto, *flags])


def test_a_front_is_left_in_files(front: Path) -> None:
    names = {path.name for path in front.iterdir() if not path.name.startswith(".")}
    assert {"pareto.csv", "pareto.png", "report.md", "baseline.json", "random.csv"} <= names
    table = pd.read_csv(front / "pareto.csv")
    assert table.cost.is_monotonic_increasing
    assert table[table.on_front].accuracy.is_monotonic_increasing
    assert table.baseline.sum() == 1
    trials = pd.read_csv(front / "trials.csv")
    assert "reward" not in trials.columns
    assert list(trials.cost) == list(trials.macs)
    conditions = config_of(front)["conditions"]
    assert conditions["pareto"] is True
    assert "w" not in conditions
    report = (front / "report.md").read_text()
    for words in ("## Accuracy against multiply-adds", "reference point accuracy 0", "<- baseline"):
        assert words in report


def test_a_baseline_is_picked_from_a_front_by_another_target(
    front: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "front"
    shutil.copytree(front, folder)
    before = (folder / "trials.csv").read_bytes()
    costs = pd.read_csv(folder / "pareto.csv").query("on_front").cost
    assert len(costs) > 2
    target = int(costs.iloc[1]) + 1
    capsys.readouterr()
    for left in ("at most 10 trainings of finalists", "nothing"):
        assert _front(folder, "--target-flops", str(target)) == 0
        assert f"\nleft    {left}" in capsys.readouterr().out
    assert count(load_architecture(folder / "baseline.json")).macs <= target
    assert (folder / "trials.csv").read_bytes() == before
    assert config_of(folder)["conditions"]["target_macs"] == 400e6

    assert _front(folder) == 0  # no target: what the folder was made with
    capsys.readouterr()
    assert _front(folder, "--target-flops", "1M") == 2
    error = capsys.readouterr().err
    assert "`--target-flops` asks for at most 1M, but the cheapest network on the front" in error


@pytest.mark.parametrize("cost", ["params", "activations"])
def test_another_cost_has_its_own_target(
    cost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy(tmp_path / "a", "--trials", "3", "--cost", cost, "--target-cost", "2M") == 0
    assert "T = 2M" in capsys.readouterr().out
    table = trials_of(tmp_path / "a")
    if cost == "params":
        assert list(table.cost) == list(table.params)
    expected = table.accuracy * (table.cost / 2e6) ** -0.07
    assert table.reward.to_numpy(float) == pytest.approx(expected.to_numpy(float))
    assert config_of(tmp_path / "a")["conditions"]["target_cost"] == 2e6

    assert run_toy(tmp_path / "b", "--trials", "3", "--cost", cost) == 0
    typical = config_of(tmp_path / "b")["conditions"]["target_cost"]
    assert table.cost.min() / 2 < typical < table.cost.max() * 2
    assert run_toy(tmp_path / "b", "--cost", cost, "--target-cost", "2M") == 2
    assert f"target_cost was {format_number(typical)}, now 2M" in capsys.readouterr().err


def test_latency_is_measured_once_and_bound_to_its_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--space", "tests.searching:small_space", "--cost", "latency"]
    assert run_toy(tmp_path / "run", *flags, "--dry-run") == 0
    assert not (tmp_path / "run").exists()
    assert run_toy(tmp_path / "run", *flags, "--trials", "5") == 0
    remembered = (tmp_path / "run/latency.json").read_bytes()
    known = json.loads(remembered)
    table = trials_of(tmp_path / "run")
    assert [known["ms"][digest] for digest in table.digest] == list(table.cost)
    assert config_of(tmp_path / "run")["conditions"]["latency"] == known["conditions"]

    assert run_toy(tmp_path / "run", *flags, "--trials", "6") == 0
    again = json.loads((tmp_path / "run/latency.json").read_bytes())
    assert again["ms"].items() >= known["ms"].items()
    capsys.readouterr()
    assert run_toy(tmp_path / "run", *flags, "--latency-batch", "2") == 2
    assert "batch_size was 1, now 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["macs", "latency"])
def test_trials_beside_one_another_are_no_advice_where_latency_is_measured(
    cost: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("nas.search.plan.num_cores", lambda: 2)
    flags = ["--cost", cost, "--dry-run"]
    assert run.main(["--data", "digits", "--run-dir", str(tmp_path / "run"), *flags]) == 0
    hinted = "hint    1 of 2 cores is used: --workers auto" in capsys.readouterr().out
    assert hinted == (cost == "macs")


def test_halving_tells_what_it_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--evaluator", "tests.searching:accuracy", "--halving", "--epochs", "9"]
    assert run_toy(tmp_path, *flags, "--trials", "9") == 0
    output = capsys.readouterr().out
    assert "9 epochs (stopped after 1, 3 of 9 epochs unless in the best 1 of 3) by guided" in output
    table = trials_of(tmp_path)
    saved = (9 - table[table.state == "PRUNED"].stopped_after.astype(float)).sum()
    assert saved > 0
    assert f"halving saved {saved:.0f} of 81 epochs of search" in output
    assert f"{saved:.0f} saved" in (tmp_path / "report.md").read_text()
