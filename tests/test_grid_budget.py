"""`python -m scaling_search.grid`: the race, and the trainings and hours that it may take."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.cli import UserError, format_duration
from nas.search.session import seconds_of_starts
from nas.workers import Workers
from scaling_search.grid import Settings, main
from scaling_search.grid_plan import prepare
from tests.grid_evaluators import arguments, candidates, read_constants

NETWORKS = candidates()
_GRID: dict[str, Any] = {
    **{"step": 0.1, "tolerance": 0.1, "select": "formula"},
    **{"max_alpha": 1.4, "max_beta": 1.2, "max_gamma": 1.2},
}
"""FLAGS of `tests.grid_evaluators`, as settings."""


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
