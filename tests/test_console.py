"""The line that is printed for every trial that ends."""

from pathlib import Path

import pytest

from nas.search.console import TrialLines
from search_spaces.architecture import Architecture
from tests.searching import drive, fixed_study, proposals


def _by_width(architecture: Architecture, *, epochs: int, seed: int) -> float:
    width = architecture.stages[0].width
    if width == 3:
        raise RuntimeError("no such width")
    return {1: 0.5, 2: 0.25, 4: 0.75}[width]


def _printed(study_lines: str) -> list[list[str]]:
    return [line.split() for line in study_lines.splitlines()]


def test_lines_mark_the_best_and_name_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = TrialLines("accuracy", lambda labels: "named")
    study = fixed_study(tmp_path / "study.db", proposals(4), on_result=lines)
    lines.follow(study)
    drive(study, _by_width)
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["#0", "named", "acc", "0.500"]
    assert first.endswith("* best")
    assert "best" not in second
    assert "FAILED error: RuntimeError: no such width (1 so far)" in third
    assert fourth.endswith("eta 0:00  * best")


def test_what_was_measured_before_is_marked_and_does_not_speed_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = TrialLines("reward")
    study = fixed_study(tmp_path / "study.db", proposals(1) * 3, on_result=lines)
    lines.follow(study)
    drive(study, _by_width)
    first, *others = _printed(capsys.readouterr().out)
    assert first[3:6] == [first[3], "reward", "0.5000"]
    assert all("study" in words and "#0)" in words for words in others)


def test_a_resumed_study_remembers_its_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(fixed_study(tmp_path / "study.db", proposals(2)), _by_width, stop=1)
    lines = TrialLines("accuracy")
    study = fixed_study(tmp_path / "study.db", proposals(2), on_result=lines)
    lines.follow(study)
    drive(study, _by_width)
    assert "best" not in capsys.readouterr().out
