"""`python -m scaling_search.grid`: what it trains, finds and writes."""

import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nas import train
from scaling_search import family
from scaling_search.candidates import find_candidates
from scaling_search.compound import Coefficients
from scaling_search.grid import main
from search_spaces.cost import count
from search_spaces.zoo import load_architecture
from tests.grid_evaluators import GRID, TINY, arguments, candidates, read_constants, truth

NETWORKS = candidates()
BEST = max(NETWORKS, key=lambda candidate: truth(candidate.architecture))
COLUMNS = ["alpha", "beta", "gamma", "product", "measured_ratio", "accuracy", "seeds"]


def test_small_noise_finds_the_known_optimum(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.001")
    run_dir = tmp_path / "run"
    assert main(arguments(baseline, run_dir, "--full", "--seeds", "3", "--epochs", "2")) == 0

    constants = read_constants(run_dir)
    best = constants["best"]
    found = Coefficients(best["alpha"], best["beta"], best["gamma"])
    assert found == BEST.coefficients
    assert best["product"] == pytest.approx(found.product)
    assert best["measured_ratio"] == BEST.ratio
    assert best["same_network"] == ["1.1/1.1/1.2", "1.2/1.1/1.2"]
    assert (constants["resolved"], constants["source"]) == (True, "best")
    assert constants["patternless"]  # nine networks, and a cone is no quadratic
    assert (constants["alpha"], constants["beta"], constants["gamma"]) == found.values
    assert len(constants["tied"]) <= 1
    assert constants["baseline"] == {"name": "tiny", "digest": TINY.digest}
    evidence = constants["evidence"]
    assert best["accuracy"] == pytest.approx(truth(BEST.architecture), abs=0.002)
    assert (evidence["epochs"], evidence["seeds"], len(best["accuracies"])) == (2, 3, 3)
    assert (evidence["trials"], evidence["failed_trials"], evidence["candidates"]) == (27, 0, 9)
    assert (evidence["schedule"], evidence["all_trainings"]) == ("full grid", 27)
    assert 0.0003 < evidence["seed_noise"] < 0.003
    assert evidence["evaluator"] == "tests.grid_evaluators:peaked"

    table = pd.read_csv(run_dir / "grid.csv")
    assert set(COLUMNS) <= set(table.columns)
    assert table["digest"].tolist()[0] == BEST.architecture.digest
    assert set(table["digest"]) == {c.architecture.digest for c in NETWORKS}
    trials = pd.read_csv(run_dir / "trials.csv")
    assert (len(trials), set(trials["state"])) == (27, {"COMPLETE"})
    assert (run_dir / "grid.png").read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr().out
    assert "11 triples near x2 (formula) make 9 networks" in output
    assert "plan    all 27 trainings (9 networks x 3 seeds) of 2 epochs" in output
    assert "RESOLVED: the networks differ by more than" in output
    assert "NOT RESOLVED" not in output


def test_large_noise_is_not_resolved_and_the_tied_are_named(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.1")
    assert main(arguments(baseline, tmp_path / "run", "--full", "--seeds", "2")) == 0
    constants = read_constants(tmp_path / "run")
    assert not constants["resolved"]
    assert constants["source"] == "default"
    tied = constants["tied"]
    assert tied
    output = capsys.readouterr().out
    assert f"{len(tied)} of the other 8 networks cannot be told apart from the best" in output
    assert "NOT RESOLVED: noise explains the differences of all networks" in output
    assert "remedy  " in output
    table = pd.read_csv(tmp_path / "run" / "grid.csv")
    assert table["tied_with_best"].tolist().count(True) == len(tied) + 1
    (seeds,) = re.findall(r"about (\d+) seeds of every network would show", output)
    assert re.search(rf"^next    python -m scaling_search.grid .* --seeds {seeds} ", output, re.M)


def test_one_seed_resolves_nothing(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.1")
    assert main(arguments(baseline, tmp_path / "run", "--seeds", "1")) == 0
    assert len(read_constants(tmp_path / "run")["tied"]) == len(NETWORKS) - 1
    output = capsys.readouterr().out
    assert "NOT RESOLVED: noise explains the differences of all networks" in output
    assert "one seed says little about noise: --seeds 3 or more" in output
    (command,) = re.findall(r"^next    python -m scaling_search.grid (.*)", output, re.MULTILINE)
    assert main([*shlex.split(command), "--dry-run"]) == 0
    assert "plan    all 27 trainings (9 networks x 3 seeds)" in capsys.readouterr().out


def test_another_cost_is_the_constraint(tmp_path: Path, baseline: Path) -> None:
    flags = ["--select", "measured", "--cost", "params", "--seeds", "1", "--max-alpha", "2"]
    flags += ["--max-beta", "1.5"]
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 0
    table = pd.read_csv(tmp_path / "run" / "grid.csv")
    ratios = table["params"] / count(TINY).params
    assert ratios.between(1.8, 2.2).all()
    assert table["measured_ratio"].to_numpy() == pytest.approx(ratios.to_numpy())
    assert read_constants(tmp_path / "run")["evidence"]["cost"] == "params"


def test_triples_of_one_network_are_one_trial_and_lines_name_it(
    tmp_path: Path, baseline: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--full", "--seeds", "2", "--seed", "5"]
    assert main(arguments(baseline, tmp_path / "run", *flags)) == 0
    expected = {f"{c.architecture.digest} {seed}" for c in NETWORKS for seed in (5, 6)}
    assert Counter(calls.read_text().splitlines()) == Counter(expected)
    lines = re.findall(r"^ +#\d+  (\S+)  acc ", capsys.readouterr().out, re.MULTILINE)
    assert lines == [c.coefficients.label for c in NETWORKS] * 2


def test_measured_selection_takes_only_networks_of_that_cost(
    tmp_path: Path, baseline: Path
) -> None:
    flags = ["--select", "measured", "--seeds", "1"]
    assert main(arguments(baseline, tmp_path / "run", *flags)) == 0
    table = pd.read_csv(tmp_path / "run" / "grid.csv")
    assert table["measured_ratio"].between(1.8, 2.2).all()
    assert set(table["digest"]) == {
        c.architecture.digest for c in find_candidates(TINY, replace(GRID, selection="measured"))
    }
    assert not table["product"].between(1.8, 2.2).all()


@pytest.mark.slow
def test_the_paper_s_constants_are_admitted_by_default(tmp_path: Path) -> None:
    """Its formula for EfficientNet-B0, with no other flags of the grid than that and all seeds."""
    run_dir = tmp_path / "run"
    argv = ["--baseline", "efficientnet-b0", "--evaluator", "tests.grid_evaluators:paper"]
    argv += ["--select", "formula", "--candidates", "0", "--full", "--seeds", "2"]
    assert main([*argv, "--run-dir", str(run_dir)]) == 0
    constants = read_constants(run_dir)
    top = pd.read_csv(run_dir / "grid.csv").sort_values("accuracy").iloc[-1]
    assert "1.2/1.1/1.15" in top["triples"].split()
    assert top["measured_ratio"] == pytest.approx(2.2287, abs=1e-4)
    assert constants["evidence"]["candidates"] > 60


@pytest.mark.slow
def test_the_printed_next_command_makes_the_network_that_won(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounding included, and a folder whose name needs quotes."""
    run_dir = tmp_path / "my run"
    flags = ["--depth-rounding", "round", "--resolution-step", "8", "--seeds", "2", "--full"]
    assert main(arguments(baseline, run_dir, *flags)) == 0
    assert read_constants(run_dir)["source"] == "best"  # there are few networks with 8-px steps
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("next")]
    command = lines[0].removeprefix("next    python -m scaling_search.family ")
    assert family.main([*shlex.split(command), "--no-measure"]) == 0
    winner = pd.read_csv(run_dir / "grid.csv")["digest"][0]
    made = load_architecture(run_dir / "family" / "B1.json")
    assert made.digest == winner
    assert lines[1].startswith("next    python -m scaling_search.validate ")


def test_a_failing_network_is_left_out_and_reported(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_FAILS", BEST.architecture.digest)
    assert main(arguments(baseline, tmp_path / "run", "--full", "--seeds", "2")) == 0
    output = capsys.readouterr().out
    assert "note    2 of 18 trials failed; trials.csv has the reasons" in output
    assert "note    1 of 9 networks are not ranked: all their trials failed" in output
    assert f"{BEST.coefficients.label}  FAILED error: RuntimeError: this network" in output
    constants = read_constants(tmp_path / "run")
    assert (constants["evidence"]["failed_trials"], constants["evidence"]["candidates"]) == (2, 8)
    assert BEST.architecture.digest not in set(pd.read_csv(tmp_path / "run/grid.csv")["digest"])
    trials = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert trials.loc[trials["state"] == "FAIL", "reason"].tolist() == ["error", "error"]


def test_digits_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real training: three networks, one epoch, two seeds; 1,000 classes become ten."""
    baseline = tmp_path / "tiny.json"
    baseline.write_text(replace(TINY, resolution=8, num_classes=1000).to_json())
    run_dir = tmp_path / "run"
    flags = ["--step", "0.25", "--tolerance", "0.15", "--select", "formula"]
    flags += ["--max-alpha", "1.25", "--max-beta", "1.25", "--max-gamma", "1.5"]
    argv = ["--baseline", str(baseline), "--data", "digits", "--run-dir", str(run_dir), *flags]
    assert main([*argv, "--epochs", "1", "--seeds", "2"]) == 0
    output = capsys.readouterr().out
    assert "note    classifier of tiny: 1000 -> 10 classes" in output
    assert "digits" in output
    scaled = load_architecture(run_dir / "baseline.json")
    assert scaled == replace(TINY, resolution=8)
    constants = read_constants(run_dir)
    assert constants["baseline"] == {"name": "tiny", "digest": scaled.digest}
    assert constants["evidence"]["data"] == "digits"
    assert constants["evidence"]["fingerprint"]
    assert 2 <= constants["evidence"]["candidates"] <= 3
    assert constants["evidence"]["failed_trials"] == 0
    argv = ["--baseline", str(run_dir / "baseline.json"), "--phi", "0", "1"]
    argv += ["--constants", str(run_dir / "constants.json"), "--out", str(tmp_path / "family")]
    argv.append("--no-measure")
    assert family.main(argv) == 0
    printed = capsys.readouterr()
    assert "was fitted to" not in printed.err
    command = printed.out.splitlines()[-1].removeprefix("next    python -m nas.train ")
    assert command.endswith(f"B1.json --data digits --out {tmp_path}/family/B1")
    assert train.main([*shlex.split(command), "--dry-run"]) == 0
    b1 = load_architecture(tmp_path / "family" / "B1.json")
    assert b1.num_classes == 10
    assert count(b1).macs > count(scaled).macs
