"""Row 7 of the fault matrix: a trial that hangs ends by its wall-clock limit, in the process and on
Ray Tune."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nas.cli import UserError
from nas.run import Settings
from nas.trials import limits
from nas.trials.execution import execute
from nas.trials.limits import time_limit
from nas.workers import Workers
from search_spaces.architecture import Architecture
from tests import searching
from tests.searching import accuracy, fixed_study, long_proposals, proposals

ROOT = Path(__file__).parents[1]


def test_row_7_a_trial_that_hangs_is_cancelled_in_the_process(tmp_path: Path) -> None:
    second = proposals(2)[1].architecture

    def hanging(architecture: Architecture, *, epochs: int, seed: int) -> float:
        while architecture == second:
            try:
                time.sleep(600)
            except Exception:  # an evaluator that goes on whatever comes
                continue
        return accuracy(architecture)

    before, alarm = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    study = fixed_study(tmp_path / "a.db", proposals(3))
    execute(study, hanging, Workers(seconds_per_epoch=0.3))
    assert [r.outcome.reason for r in study.results] == ["", "timeout", ""]
    failed = study.results[1]
    assert failed.values is None
    assert failed.job.attempt == 0
    assert "in hanging" in failed.outcome.detail
    assert failed.outcome.detail.endswith(
        "longer than 0.3 s, the limit of a trial. Raise --trial-minutes."
    )
    left, _ = signal.getitimer(signal.ITIMER_REAL)  # somebody else's, such as pytest-timeout's
    assert (0 < left < alarm[0]) if alarm[0] else left == 0
    assert signal.getsignal(signal.SIGALRM) is before
    again = fixed_study(tmp_path / "a.db", proposals(3))
    assert again.num_finished == 3


def test_the_limit_holds_for_all_rungs_together_and_grows_with_the_epochs(tmp_path: Path) -> None:
    rungs = []

    def slowing(architecture: Architecture, *, epochs: int, seed: int) -> float:
        rungs.append(epochs)
        time.sleep(600 if epochs == 4 else 0.01)
        return 0.5

    study = searching.halved_study(tmp_path / "a.db", 1)
    execute(study, slowing, Workers(seconds_per_epoch=0.1))
    (result,) = study.results
    assert rungs == [1, 2, 4]
    assert (result.outcome.reason, result.outcome.epochs) == ("timeout", 2)
    assert "longer than 0.4 s" in result.outcome.detail
    assert long_proposals(1)[0].epochs == 4


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(0.05):
        pass
    time.sleep(0.1)  # nothing comes later
    with time_limit(None):
        pass


def test_row_7_an_import_is_not_left_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it would fail all later trials: half a package stays in `sys.modules`."""
    package = tmp_path / "slow_to_import"
    package.mkdir()
    (package / "__init__.py").write_text("from slow_to_import import part\nWHOLE = True\n")
    (package / "part.py").write_text("import time\nfor _ in range(150): time.sleep(0.01)\n")
    monkeypatch.syspath_prepend(tmp_path)
    reached = []

    def importing(architecture: Architecture, *, epochs: int, seed: int) -> float:
        import slow_to_import  # type: ignore[import-not-found]

        reached.append(slow_to_import.WHOLE)
        while len(reached) < 2:
            time.sleep(0.01)
        return 0.5

    study = fixed_study(tmp_path / "a.db", proposals(2))
    execute(study, importing, Workers(seconds_per_epoch=0.5))
    assert [r.outcome.reason for r in study.results] == ["timeout", ""]
    assert reached == [True, True]
    assert "time.sleep(0.01)" in study.results[0].outcome.detail  # in the loop of the evaluator
    assert "slow_to_import/part.py" not in study.results[0].outcome.detail


class _Swallows:
    """As any `__del__` and callback of C: what is raised in it is not passed on."""

    def __del__(self) -> None:
        time.sleep(1.5)


def test_row_7_a_limit_that_was_swallowed_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AGAIN_SECONDS", 0.3)
    swallowed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: swallowed.append(error.exc_type))

    def hanging(architecture: Architecture, *, epochs: int, seed: int) -> float:
        _Swallows()
        while True:
            time.sleep(600)

    study = fixed_study(tmp_path / "a.db", proposals(1))
    execute(study, hanging, Workers(seconds_per_epoch=0.5))
    assert [r.outcome.reason for r in study.results] == ["timeout"]
    assert swallowed == [limits.TrialTimeoutError]


def test_a_limit_that_ends_with_its_block_leaves_nothing_behind() -> None:
    """Hundreds of times at the moment when the block ends."""
    before, alarm = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    caught = 0
    for i in range(300):
        try:
            with time_limit(0.002):
                end = time.monotonic() + 0.002 + (i - 150) * 2e-6
                while time.monotonic() < end:
                    pass
        except limits.TrialTimeoutError:
            caught += 1
        assert signal.getsignal(signal.SIGALRM) is before
    assert 0 < caught < 300
    time.sleep(0.1)  # an alarm that was left would end the process, or this test
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert (0 < left < alarm[0]) if alarm[0] else left == 0


@pytest.mark.ray
@pytest.mark.slow
def test_row_7_a_worker_that_hangs_in_c_is_ended(tmp_path: Path) -> None:
    shutil.copy(searching.__file__, tmp_path / "my_module.py")
    (tmp_path / "deadly").touch()
    program = (
        "from nas.trials import limits; limits.GRACE_SECONDS = 0.5\n"
        "import torch\n"  # its import takes longer than the limit
        "from nas.run import main\n"
        "words = '--evaluator my_module:deaf_once --space my_module:space --finalists 0 '\n"
        "words += '--trials 4 --workers 2 --epochs 2 --trial-minutes 0.03'\n"
        "raise SystemExit(main(words.split()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(tmp_path / "runs/search/trials.csv", keep_default_na=False)
    assert sorted(trials.reason) == ["", "", "", "timeout"]
    assert sorted(trials.slot) == [0, 1, 2, 3]  # not retried
    assert set(trials.state[trials.reason == "timeout"]) == {"FAIL"}


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_cannot_be_is_refused(minutes: float) -> None:
    with pytest.raises(UserError, match="`--trial-minutes` must be above 0, but got"):
        Settings(trial_minutes=minutes)
    assert Settings(trial_minutes=2, epochs=5).where().limit(15) == 360
