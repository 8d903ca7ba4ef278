"""`python -m scaling_search.grid`: what it trains, finds, writes, resumes and refuses."""

import re
import shlex
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from nas import train
from nas.cli import UserError, format_duration
from nas.search.session import seconds_of_starts
from nas.workers import Workers
from scaling_search import family
from scaling_search.candidates import find_candidates
from scaling_search.compound import Coefficients
from scaling_search.grid import Settings, main
from scaling_search.grid_plan import prepare
from search_spaces.cost import count
from search_spaces.zoo import load_architecture
from tests.grid_evaluators import GRID, TINY, arguments, candidates, read_constants, truth
from tests.trees import plant

NETWORKS = candidates()
BEST = max(NETWORKS, key=lambda candidate: truth(candidate.architecture))
_GRID: dict[str, Any] = {
    **{"step": 0.1, "tolerance": 0.1, "select": "formula"},
    **{"max_alpha": 1.4, "max_beta": 1.2, "max_gamma": 1.2},
}
"""FLAGS of `tests.grid_evaluators`, as settings."""
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


@pytest.mark.slow
def test_a_race_spends_a_third_and_finds_the_same(
    tmp_path: Path,
    baseline: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The full grid in the same folder afterwards trains only what the race did not."""
    monkeypatch.setenv("GRID_NOISE", "0.01")
    run_dir = tmp_path / "run"
    assert main(arguments(baseline, run_dir)) == 0
    raced = calls.read_text().splitlines()
    assert 9 < len(raced) <= 18
    race = read_constants(run_dir)
    assert race["evidence"]["schedule"] == "race"
    output = capsys.readouterr().out
    assert "plan    a race of at most 18 of 54 trainings (9 networks x 6 seeds)" in output
    assert f"note    {len(raced)} trainings, {len(raced) / 54:.0%} of the full grid's 54" in output
    assert main(arguments(baseline, run_dir, "--full")) == 0
    assert Counter(calls.read_text().splitlines()) == Counter(set(calls.read_text().splitlines()))
    assert len(calls.read_text().splitlines()) == 54
    full = read_constants(run_dir)
    winners = [full["best"], *full["tied"]]
    assert race["best"]["shares"] in [winner["shares"] for winner in winners]
    ours, theirs = (np.array([*made["shares"].values()]) for made in (race, full))
    assert np.abs(ours - theirs).max() < 0.25


def test_a_budget_of_trials_is_kept(tmp_path: Path, baseline: Path, calls: Path) -> None:
    assert main(arguments(baseline, tmp_path / "run", "--trials", "12")) == 0
    assert len(calls.read_text().splitlines()) <= 12


def test_more_trials_than_there_are_trainings_are_no_plan(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--trials", "1000", "--seeds", "2", "--dry-run"]
    assert main(arguments(baseline, tmp_path / "run", *flags)) == 0
    assert "plan    a race of at most 18 of 18 trainings" in capsys.readouterr().out


@pytest.mark.parametrize(("seeds", "is_said"), [(1, False), (2, True), (3, True), (4, False)])
def test_a_budget_without_a_second_seed_is_said(
    seeds: int, is_said: bool, tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(baseline, tmp_path / "run", "--seeds", str(seeds), "--dry-run")
    assert main(argv) == 0
    note = f"note    9 of {9 * seeds} trainings train no network twice: "
    output = capsys.readouterr().out
    assert (note in output) == is_said
    assert ("--trials 18 trains the likeliest again" in output) == is_said


@pytest.mark.slow
def test_hours_end_the_race_and_the_same_command_goes_on(
    tmp_path: Path,
    baseline: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Time for some of the trainings; a second start has its own hours and reuses the first's."""
    monkeypatch.setenv("GRID_NOISE", "0.05")
    monkeypatch.setenv("GRID_SECONDS", "0.4")
    run_dir, flags = tmp_path / "run", ["--hours", str(4 / 3600), "--full", "--seeds", "2"]
    assert main(arguments(baseline, run_dir, *flags)) == 0
    begun = len(calls.read_text().splitlines())
    assert 1 <= begun <= 10
    assert "note    time was up (--hours 0.00111111)" in capsys.readouterr().out
    monkeypatch.setenv("GRID_SECONDS", "0")
    assert main(arguments(baseline, run_dir, *flags)) == 0
    assert len(calls.read_text().splitlines()) == 18
    assert len(set(calls.read_text().splitlines())) == 18
    assert "time was up" not in capsys.readouterr().out


def test_hours_count_what_is_left_to_train(
    tmp_path: Path, baseline: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first round that is done takes no time, and is not refused for the time it took."""
    run_dir = tmp_path / "run"
    assert main(arguments(baseline, run_dir, "--full", "--seeds", "1")) == 0
    assert len(calls.read_text().splitlines()) == 9
    settings = Settings(
        baseline=str(baseline),
        evaluator="tests.grid_evaluators:peaked",
        run_dir=run_dir,
        hours=1.0,
        **_GRID,
    )
    plan = replace(prepare(settings), seconds=1000.0)
    plan.check_hours()
    fewer = replace(plan, known=frozenset(sorted(plan.known)[5:]))
    with pytest.raises(UserError, match="each of the 5 networks that have none yet, about 1:23:20"):
        fewer.check_hours()
    with pytest.raises(UserError, match=r"`--hours 1` .* each of the 9 networks, about 2:30:00"):
        replace(plan, known=frozenset()).check_hours()
    two = replace(plan, known=frozenset(), workers=Workers(count=2))
    start = seconds_of_starts(two.workers, 1)
    with pytest.raises(UserError, match=rf"about {format_duration(4500 + start)}\."):
        two.check_hours()
    almost = {"seconds": 3600 - start / 2, "started": time.monotonic()}
    assert [replace(one, **almost).affordable(None) for one in (plan, two)] == [1, 0]
    every = seconds_of_starts(two.workers, two.schedule.rounds) + 500 * two.schedule.budget
    assert two.describe()[-1].endswith(f" · about {format_duration(every)}")

    capsys.readouterr()
    assert main(arguments(baseline, run_dir, "--full", "--seeds", "2", "--hours", "1e-9")) == 0
    output = capsys.readouterr().out
    assert "note    time was up (--hours 1e-09); the same command goes on" in output
    assert len(calls.read_text().splitlines()) == 9
    assert read_constants(run_dir)["evidence"]["candidates"] == 9


@pytest.mark.slow
def test_hours_are_kept_where_trainings_fail(
    tmp_path: Path,
    baseline: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an estimate the first trainings come one by one, and the first may fail."""
    monkeypatch.setenv("GRID_FAILS", NETWORKS[0].architecture.digest)
    assert main(arguments(baseline, tmp_path / "run", "--hours", "1")) == 0
    assert "note    1 of 9 networks are not ranked" in capsys.readouterr().out
    assert main(arguments(baseline, tmp_path / "short", "--hours", "1e-9")) == 2
    assert "Time was up (--hours) before a training" in capsys.readouterr().err


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


def test_a_dry_run_measures_and_writes_nothing(
    tmp_path: Path, baseline: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(arguments(baseline, tmp_path / "run", "--dry-run")) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert calls.read_text() == ""
    output = capsys.readouterr().out
    assert "plan    a race of at most 18 of 54 trainings (9 networks x 6 seeds) of 5" in output
    outside = sum(not 1.8 <= candidate.ratio <= 2.2 for candidate in NETWORKS)
    assert f"note    {outside} of 9 networks really cost more or less than the tolerance" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step", "0"], "`step > 0`"),
        (["--tolerance", "0.001"], "Raise the tolerance, take a smaller step, or widen the bounds"),
        (["--baseline", "b9"], "'b9' is neither a file nor a network of the zoo"),
        (["--evaluator", "tests.grid_evaluators"], "must have the form my_module:function"),
        (["--workers", "0"], "`--workers` must be at least 1, but got 0."),
        (["--trials", "8"], "A budget of 8 trainings does not suffice for one of each of the 9"),
        (["--cost", "params"], "formula"),
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


@pytest.mark.parametrize(
    "flags",
    [
        *(["--seeds", "0"], ["--epochs", "0"], ["--seed", "-1"], ["--trials", "0"]),
        *(["--seed", str(2**32)], ["--hours", "inf"], ["--hours", "1e308"]),
        *(["--max-alpha", "0.5"], ["--max-beta", "nan"], ["--max-gamma", "inf"]),
    ],
)
def test_numbers_out_of_range_are_refused(
    flags: list[str], tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    assert re.search(rf"`{flags[0]}` must (be a|not be neg|be above 0)", capsys.readouterr().err)


@pytest.mark.parametrize("ratio", ["1", "0.5", "nan", "inf"])
def test_a_ratio_that_is_no_growth_is_refused(
    ratio: str, tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ratio", ratio, "--tolerance", "0.5"]
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    assert "`--ratio` must be above 1" in capsys.readouterr().err


@pytest.mark.parametrize(("ratio", "tolerance"), [("1.05", "0.05"), ("2", "0.5")])
def test_a_tolerance_that_admits_no_growth_is_refused(
    ratio: str,
    tolerance: str,
    tmp_path: Path,
    baseline: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rounding makes networks of the baseline's cost, whose share of width is 1."""
    flags = ["--ratio", ratio, "--tolerance", tolerance]
    assert main([*arguments(baseline, tmp_path / "run"), *flags]) == 2
    assert f"`--ratio {ratio}` with `--tolerance {tolerance}`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "cost"), [("tiny", "memory"), ("tests.builders:plain@16", "macs")]
)
def test_a_cost_that_takes_long_is_announced(
    base: str,
    cost: Literal["memory", "macs"],
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the first network is costed: the plan comes minutes later."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaling_search.grid_plan.find_candidates", interrupted)
    settings = Settings(
        baseline=str(baseline) if base == "tiny" else base,
        evaluator="tests.grid_evaluators:peaked",
        run_dir=tmp_path / "run",
        cost=cost,
    )
    with pytest.raises(KeyboardInterrupt):
        prepare(settings)
    assert capsys.readouterr().out.startswith(f"search  {cost} of up to some 300 networks")


def test_images_are_stored_with_the_pixels_that_the_finest_network_sees(
    tmp_path: Path, baseline: Path
) -> None:
    """By the formula 46 px are enough, which steps of 16 px round up to 48."""
    plan = prepare(
        Settings(
            baseline=str(baseline),
            data=str(plant(tmp_path / "photos", {"a": 12, "b": 12}, size=(96, 96))),
            run_dir=tmp_path / "run",
            candidates=0,
            select="formula",
            resolution_step=16,
        )
    )
    assert plan.task.training is not None
    assert max(candidate.architecture.resolution for candidate in plan.candidates) == 48
    assert plan.task.training.data.train.images.shape[-1] == 48


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
