"""Successive halving under kills, and on workers: what is stopped, and what is trained again."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nas.trials.evaluate import Outcome
from nas.trials.execution import execute
from nas.trials.record import Record, outcome_of
from nas.workers import Workers
from search_spaces.architecture import Architecture
from tests.searching import ask, at, drive, falling, halved_search, halved_study, history, wait_for

ROOT = Path(__file__).parents[1]


def test_a_search_that_was_killed_between_rungs_ends_as_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    whole = halved_search(tmp_path / "whole.db")
    drive(whole)
    assert 0 < sum(r.pruned for r in whole.results) < 16
    for stop, reports in ((3, 1), (0, 2), (5, 1), (2, 0)):
        assert drive(halved_search(tmp_path / "cut.db"), stop=stop, reports=reports) is not None
    resumed = halved_search(tmp_path / "cut.db")
    drive(resumed)
    assert history(resumed) == history(whole)
    assert resumed.epochs_saved == whole.epochs_saved > 0


def test_a_verdict_that_was_written_is_not_lost_by_a_kill_before_the_state(
    tmp_path: Path,
) -> None:
    study = halved_study(tmp_path / "a.db", 2)
    for outcome, value in ((at(4, 0.5), 0.5), (at(1, 0.25), 0.25)):
        job = ask(study)
        study.report(job, at(1, value))
        if job.slot == 0:
            study.tell(job, outcome)
    record = Record(tmp_path / "a.db", "study")
    record.conclude(job.trial_id, Outcome(accuracy=0.25, epochs=1, reason="pruned"), {})
    record.close()
    resumed = halved_study(tmp_path / "a.db", 2)
    assert [r.pruned for r in resumed.results] == [False, True]
    assert resumed.ask() is None


PROGRAM = """
import sys, time
from pathlib import Path
from nas.trials.execution import execute
from nas.workers import Workers
from tests.searching import accuracy, halved_search, history

def slow(architecture, *, epochs, seed):
    with open("calls", "a") as file:
        file.write("x")
    time.sleep(float(sys.argv[1]))
    return accuracy(architecture, epochs=epochs, seed=seed)

study = halved_search(Path("study.db"))
execute(study, slow, Workers())
print(repr(history(study)))
"""


def _program(folder: Path, seconds: float) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {
        "args": [sys.executable, "-c", PROGRAM, str(seconds)],
        "cwd": folder,
        "env": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        "text": True,
    }


def _called(folder: Path) -> int:
    calls = folder / "calls"
    return len(calls.read_text()) if calls.exists() else 0


@pytest.mark.slow
def test_a_search_that_is_killed_by_the_system_goes_on(tmp_path: Path) -> None:
    for enough in (3, 14):
        command = _program(tmp_path / "cut", 0.05)
        with subprocess.Popen(**command, stdout=subprocess.DEVNULL) as driver:
            wait_for(lambda enough=enough: _called(tmp_path / "cut") >= enough, "rungs")
            driver.kill()
    resumed = subprocess.run(**_program(tmp_path / "cut", 0), capture_output=True, check=True)
    whole = halved_search(tmp_path / "whole.db")
    drive(whole)
    assert resumed.stdout.strip() == repr(history(whole))


# On workers


class Staged:
    """One training that is looked at on the way; its process notes how far each one came."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        raise AssertionError("a training that can be looked at is not repeated")

    def stages(
        self, architecture: Architecture, *, epochs: int, seed: int, rungs: Sequence[int]
    ) -> Iterator[float]:
        for rung in rungs:
            with (self._folder / architecture.digest).open("a") as file:
                file.write(f"{rung}\n")
            yield falling(architecture, epochs=rung, seed=seed)


@pytest.mark.parametrize(
    "workers",
    [Workers(), pytest.param(Workers(count=2), marks=[pytest.mark.slow, pytest.mark.ray])],
)
def test_stopped_trainings_take_no_further_step(workers: Workers, tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    study = halved_study(tmp_path / "a.db", 8)
    execute(study, Staged(folder), workers)
    assert len(study.results) == 8
    for result in study.results:
        steps = (folder / result.job.proposal.architecture.digest).read_text().split()
        assert steps == [str(r) for r in result.job.rungs if r <= result.outcome.epochs]
        assert result.pruned == (result.outcome.epochs < 4)
    assert study.epochs_saved >= 3
    assert not study.results[0].pruned or workers.count > 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_dies_between_rungs_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    study = halved_study(tmp_path / "a.db", 6)
    execute(study, _DyingOnce(folder), Workers(count=2))
    record = Record(tmp_path / "a.db", "study")
    reasons = Counter(outcome_of(trial).reason for trial in record.trials())
    record.close()
    assert reasons["worker-lost"] == 1
    assert sorted(result.job.slot for result in study.results) == list(range(6))
    assert {result.outcome.reason for result in study.results} <= {"", "pruned"}


class _DyingOnce(Staged):
    def stages(
        self, architecture: Architecture, *, epochs: int, seed: int, rungs: Sequence[int]
    ) -> Iterator[float]:
        for value in super().stages(architecture, epochs=epochs, seed=seed, rungs=rungs):
            yield value
            if not (self._folder / "died").exists():
                (self._folder / "died").touch()
                os._exit(1)
