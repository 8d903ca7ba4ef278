"""The line that is printed for every trial that ends."""

import time
from pathlib import Path
from typing import Any

import pytest

from nas.costs.objective import AccuracyObjective, Objective, ParetoObjective, RewardObjective
from nas.costs.reward import Reward
from nas.trials.console import TrialLines
from nas.trials.halving import Halving
from nas.trials.proposers import FixedProposer
from nas.trials.record import Record
from nas.trials.study import Study
from nas.trials.trial import Proposal
from search_spaces.architecture import Architecture
from tests.searching import ask, at, drive, network, proposals


def _by_width(architecture: Architecture, *, epochs: int, seed: int) -> float:
    width = architecture.stages[0].width
    if width == 3:
        raise RuntimeError("no such width")
    return {1: 0.5, 2: 0.25, 4: 0.75}[width]


def _start(
    tmp_path: Path, items: list[Proposal], objective: Objective, name: str = "", **options: Any
) -> Study:
    lines = TrialLines(objective, lambda labels: name)
    record = Record(tmp_path / "study.db", "study", directions=objective.directions)
    study = Study(record, FixedProposer(items), objective, len(items), on_result=lines, **options)
    lines.follow(study)
    return study


def test_lines_mark_the_best_and_name_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(_start(tmp_path, proposals(4), AccuracyObjective(), "named"), _by_width)
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["#0", "named", "acc", "0.500"]
    assert first.endswith("* best")
    assert "best" not in second
    assert "FAILED error: RuntimeError: no such width (1 so far)" in third
    assert fourth.endswith("eta 0:00  * best")


def test_what_was_measured_before_is_marked_and_does_not_speed_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = RewardObjective(Reward(1e6, w=0))
    drive(_start(tmp_path, proposals(1) * 3, objective), _by_width)
    first, *others = (line.split() for line in capsys.readouterr().out.splitlines())
    assert first[3:6] == [first[3], "reward", "0.5000"]
    assert all("study" in words and "#0)" in words for words in others)


def test_the_time_left_does_not_count_what_came_before_the_first_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _start(tmp_path, proposals(4), AccuracyObjective())
    job, now = ask(study), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 100)  # workers took so long to start
    study.tell(job, at(1, 0.5))
    assert "eta 0:03" in capsys.readouterr().out  # three trials of a second


def test_a_resumed_study_remembers_its_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(_start(tmp_path, proposals(2), AccuracyObjective()), _by_width, stop=1)
    capsys.readouterr()
    drive(_start(tmp_path, proposals(2), AccuracyObjective()), _by_width)
    assert "best" not in capsys.readouterr().out


def test_a_trial_that_was_stopped_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [Proposal(architecture=network(i), epochs=6, seed=0) for i in (1, 2, 3)]
    drive(_start(tmp_path, items, AccuracyObjective(), halving=Halving()), _by_width)
    first, second, third = capsys.readouterr().out.splitlines()
    assert "stopped" not in first
    assert "acc 0.250" in second
    assert "stopped at epoch 1 of 6  " in second
    assert "best" not in second
    assert third.endswith("(1 so far)")


def test_without_a_reward_the_front_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Widths 1, 4, 2, 1 again: the third is dearer and worse than the first, the last its equal;
    a restart forgets nothing."""
    items = [Proposal(architecture=network(i), epochs=1, seed=0) for i in (1, 4, 2, 1)]
    drive(_start(tmp_path, items, ParetoObjective()), _by_width, stop=2)
    drive(_start(tmp_path, items, ParetoObjective()), _by_width)
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("* front") for line in lines] == [True, True, False, False]
    assert not any("best" in line or "reward" in line for line in lines)


def test_cost_is_shown_in_its_own_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Milliseconds:
        name, unit, conditions = "latency", "ms", {}

        def __call__(self, architecture: Architecture) -> float:
            return 1.5

        def format(self, value: float) -> str:
            return f"{value:.2f} ms"

        def describe(self) -> str:
            return "ms"

    objective = RewardObjective(Reward(1.5), metric=Milliseconds())
    drive(_start(tmp_path, proposals(1), objective), _by_width)
    assert "acc 0.500  1.50 ms  reward 0.5000" in capsys.readouterr().out
