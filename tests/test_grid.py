"""`python -m scaling_search.grid`: what it trains, finds, writes, resumes and refuses."""

import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from scaling_search import family
from scaling_search.candidates import find_candidates
from scaling_search.compound import Coefficients, scale
from scaling_search.grid import main
from search_spaces.cost import count
from search_spaces.zoo import efficientnet_b0, load_architecture
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
    assert main(arguments(baseline, run_dir, "--seeds", "3", "--epochs", "2")) == 0

    constants = read_constants(run_dir)
    found = Coefficients(constants["alpha"], constants["beta"], constants["gamma"])
    assert found == BEST.coefficients
    assert constants["product"] == pytest.approx(found.product)
    assert constants["measured_ratio"] == BEST.ratio
    assert constants["same_network"] == ["1.1/1.1/1.2", "1.2/1.1/1.2"]
    assert (constants["resolved"], constants["tied"]) == (True, [])
    assert constants["baseline"] == {"name": "tiny", "digest": TINY.digest}
    evidence = constants["evidence"]
    assert evidence["accuracy"] == pytest.approx(truth(BEST.architecture), abs=0.002)
    assert (evidence["epochs"], evidence["seeds"], len(evidence["accuracies"])) == (2, 3, 3)
    assert (evidence["trials"], evidence["failed_trials"], evidence["candidates"]) == (27, 0, 9)
    assert evidence["degrees_of_freedom"] == 18
    assert 0.0003 < evidence["seed_noise"] < 0.003
    assert evidence["evaluator"] == "tests.grid_evaluators:peaked"

    table = pd.read_csv(run_dir / "grid.csv")
    assert set(COLUMNS) <= set(table.columns)
    assert list(table["digest"]) == [
        c.architecture.digest for c in sorted(NETWORKS, key=lambda c: -truth(c.architecture))
    ]
    trials = pd.read_csv(run_dir / "trials.csv")
    assert (len(trials), set(trials["state"])) == (27, {"COMPLETE"})
    assert (run_dir / "grid.png").read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr().out
    assert "11 triples near x2 (formula) make 9 networks" in output
    assert "9 networks x 3 seeds x 2 epochs" in output
    assert "ahead of all others" in output
    assert "NOT RESOLVED" not in output


def test_large_noise_is_not_resolved_and_the_tied_are_named(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.1")
    assert main(arguments(baseline, tmp_path / "run", "--seeds", "2")) == 0
    constants = read_constants(tmp_path / "run")
    assert not constants["resolved"]
    tied = [Coefficients(t["alpha"], t["beta"], t["gamma"]).label for t in constants["tied"]]
    assert tied
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("NOT RESOLVED"))
    assert line.startswith(f"NOT RESOLVED: {len(tied)} of the other 8 cannot be told apart")
    assert line.endswith(": " + ", ".join(tied))
    table = pd.read_csv(tmp_path / "run" / "grid.csv")
    assert table["tied_with_best"].tolist().count(True) == len(tied) + 1


def test_one_seed_resolves_nothing(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(baseline, tmp_path / "run", "--seeds", "1")) == 0
    assert len(read_constants(tmp_path / "run")["tied"]) == len(NETWORKS) - 1
    assert "NOT RESOLVED: one seed says nothing about noise" in capsys.readouterr().out


def test_triples_of_one_network_are_one_trial_and_lines_name_it(
    tmp_path: Path, baseline: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(baseline, tmp_path / "run", "--seeds", "2", "--seed", "5")) == 0
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


def test_the_paper_s_constants_are_admitted_by_default(tmp_path: Path) -> None:
    """For EfficientNet-B0 with no flags of the grid; family then makes the network that won."""
    run_dir = tmp_path / "run"
    argv = ["--baseline", "efficientnet-b0", "--evaluator", "tests.grid_evaluators:paper"]
    assert main([*argv, "--run-dir", str(run_dir), "--seeds", "1"]) == 0
    constants = read_constants(run_dir)
    assert "1.2/1.1/1.15" in constants["same_network"]
    assert constants["measured_ratio"] == pytest.approx(2.2287, abs=1e-4)

    out = tmp_path / "family"
    flags = ["--constants", str(run_dir / "constants.json"), "--phi", "1", "--out", str(out)]
    assert family.main(["--baseline", "efficientnet-b0", *flags]) == 0
    made = count(load_architecture(out / "B1.json"))
    paper = count(scale(efficientnet_b0(), Coefficients(1.2, 1.1, 1.15), 1))
    assert made == paper


def test_the_printed_next_command_makes_the_network_that_won(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounding included, and a folder whose name needs quotes."""
    run_dir = tmp_path / "my run"
    flags = ["--depth-rounding", "round", "--resolution-step", "4", "--seeds", "1"]
    assert main(arguments(baseline, run_dir, *flags)) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("next"))
    command = line.removeprefix("next    python -m scaling_search.family ")
    assert family.main(shlex.split(command)) == 0
    assert capsys.readouterr().err.count("warning") == 1  # one seed: tied
    winner = pd.read_csv(run_dir / "grid.csv")["digest"][0]
    made = load_architecture(run_dir / "family" / "B1.json")
    assert made.digest == winner


def test_a_failing_network_is_left_out_and_reported(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_FAILS", BEST.architecture.digest)
    assert main(arguments(baseline, tmp_path / "run", "--seeds", "2")) == 0
    output = capsys.readouterr().out
    assert "note    2 of 18 trials failed; trials.csv has the reasons" in output
    assert "note    1 of 9 networks are not ranked: all their trials failed" in output
    assert f"{BEST.coefficients.label}  FAILED error: RuntimeError: this network" in output
    constants = read_constants(tmp_path / "run")
    assert (constants["evidence"]["failed_trials"], constants["evidence"]["candidates"]) == (2, 8)
    assert BEST.architecture.digest not in set(pd.read_csv(tmp_path / "run/grid.csv")["digest"])
    trials = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert trials.loc[trials["state"] == "FAIL", "reason"].tolist() == ["error", "error"]


def test_a_dry_run_measures_and_writes_nothing(
    tmp_path: Path, baseline: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(arguments(baseline, tmp_path / "run", "--dry-run")) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert calls.read_text() == ""
    output = capsys.readouterr().out
    assert "plan    9 networks x 3 seeds x 5 epochs" in output
    outside = sum(not 1.8 <= candidate.ratio <= 2.2 for candidate in NETWORKS)
    assert f"note    {outside} of 9 networks really cost more or less than the tolerance" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step", "0"], "`step > 0`"),
        (["--max-alpha", "0.5"], "must hold for alpha; got 1.0, 0.5."),
        (["--tolerance", "0.001"], "Raise the tolerance, take a smaller step, or widen the bounds"),
        (["--baseline", "b9"], "'b9' is neither a file nor a network of the zoo"),
        (["--evaluator", "tests.grid_evaluators"], "must have the form my_module:function"),
        (["--workers", "0"], "`--workers` must be at least 1, but got 0."),
    ],
)
def test_what_cannot_be_is_one_line(
    flags: list[str],
    message: str,
    tmp_path: Path,
    baseline: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--seeds", "0"], ["--epochs", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused(
    flags: list[str], tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments(baseline, tmp_path / "run"), *flags])
    assert re.search(rf"`{flags[0]}` must (be at least 1|not be negative)", capsys.readouterr().err)


def test_digits_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real training: three networks, one epoch, two seeds; 1,000 classes become ten."""
    baseline = tmp_path / "tiny.json"
    baseline.write_text(replace(TINY, resolution=8, num_classes=1000).to_json())
    run_dir = tmp_path / "run"
    flags = ["--step", "0.25", "--tolerance", "0.15", "--max-alpha", "1.25", "--max-beta", "1.25"]
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
    assert family.main(argv) == 0
    assert "was fitted to" not in capsys.readouterr().err
    b1 = load_architecture(tmp_path / "family" / "B1.json")
    assert b1.digest == pd.read_csv(run_dir / "grid.csv")["digest"][0]
    assert b1.num_classes == 10
