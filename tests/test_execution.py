"""Where trials run: in the process or on Ray Tune, each with its own share of the machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nas.cli import UserError
from nas.cores import limit_threads, num_cores
from nas.trials.execution import execute
from nas.trials.study import Study
from nas.workers import Workers, workers_for
from search_spaces.architecture import Architecture
from tests import searching
from tests.searching import accuracy, calls, fixed_study, proposals, wait_for

ROOT = Path(__file__).parents[1]
TWO = Workers(count=2)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A working directory with the user's own module in it, outside of this repository."""
    shutil.copy(searching.__file__, tmp_path / "my_module.py")
    (tmp_path / "home").mkdir()
    return tmp_path


def _command(workplace: Path, function: str, *flags: str) -> dict[str, Any]:
    """Arguments of `subprocess` for the command, on the user's own evaluator."""
    evaluator = ["--evaluator", f"my_module:{function}", "--space", "my_module:space"]
    words = [sys.executable, "-m", "nas.run", *evaluator, "--finalists", "0", *flags]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(workplace / "home"),
        "RAY_ADDRESS": "192.0.2.1:6379",  # nobody is there: must not be followed
    }
    return {"args": words, "cwd": workplace, "env": environment, "text": True}


def _run(workplace: Path, function: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**_command(workplace, function, *flags), capture_output=True)


def _trials(workplace: Path) -> pd.DataFrame:
    table = pd.read_csv(workplace / "runs/search/trials.csv", keep_default_na=False)
    return table.sort_values("number")


def test_the_threads_of_a_worker_are_its_share() -> None:
    assert TWO.threads == max(1, num_cores() // 2)
    assert Workers(count=10 * num_cores()).threads == 1
    assert Workers(count=1).threads == 1


def test_workers_without_a_core_each_take_longer() -> None:
    crowd = Workers(count=3 * num_cores())
    assert crowd.crowding == 3
    assert f"on Ray Tune, more than the {num_cores()} core" in crowd.describe()
    assert Workers(count=num_cores()).crowding == 1
    assert replace(crowd, gpus_per_trial=0.5).crowding == 1
    assert replace(crowd, ray_address="auto").crowding == 1


@pytest.mark.parametrize(
    ("count", "address", "in_process"), [(1, None, True), (2, None, False), (1, "auto", False)]
)
def test_one_worker_stays_in_the_process_unless_a_cluster_is_named(
    count: int, address: str | None, in_process: bool
) -> None:
    assert Workers(count=count, ray_address=address).in_process is in_process


def test_a_cluster_that_does_not_answer_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"No Ray cluster answers at `--ray-address {address}`"):
            workers_for(2, 0.0, address, None)


@pytest.mark.parametrize("gpus", [-1.0, 1.5, float("nan")])
def test_impossible_workers_are_refused(gpus: float) -> None:
    with pytest.raises(UserError, match="`--gpus-per-trial` must be a whole number, or a fraction"):
        Workers(gpus_per_trial=gpus)
    with pytest.raises(UserError, match="`--workers` must be at least 1, but got 0"):
        Workers(count=0)


def test_an_evaluator_of_the_user_s_gets_gpus_on_request_only() -> None:
    assert workers_for(1, None, None, "my:f").gpus_per_trial == 0
    assert workers_for(1, 0.5, None, "my:f").gpus_per_trial == 0.5
    expected = 1.0 if torch.cuda.is_available() else 0.0
    assert workers_for(1, None, None, None).gpus_per_trial == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(2))
    with pytest.raises(UserError, match=r"`--gpus-per-trial 1` is more than the 0 GPUs .* Lower"):
        execute(study, accuracy, Workers(gpus_per_trial=1.0))
    assert study.num_finished == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_for_images_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"`--gpus-per-trial 1` is more than the 0 GPUs .* PyTorch"):
        workers_for(2, 1.0, None, None)


def test_trials_that_count_other_epochs_may_take_as_long() -> None:
    limited = Workers(seconds_per_epoch=12.0).limited_as(5, 60)
    assert limited.limit(60) == 60.0
    assert Workers().limited_as(5, 60).limit(60) is None


def test_threads_are_limited_in_the_process_too(tmp_path: Path) -> None:
    seen = []

    def noting(architecture: Architecture, *, epochs: int, seed: int) -> float:
        seen.append((torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]))
        return 0.5

    limit_threads(3)
    execute(fixed_study(tmp_path / "a.db", proposals(2)), noting, Workers())
    assert seen == [(1, "1")] * 2


def test_ctrl_c_marks_the_running_trial_and_goes_through(tmp_path: Path) -> None:
    def pressed(architecture: Architecture, *, epochs: int, seed: int) -> float:
        if architecture == proposals(2)[1].architecture:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        execute(fixed_study(tmp_path / "a.db", proposals(3)), pressed, Workers())
    study = fixed_study(tmp_path / "a.db", proposals(3))
    assert study.num_finished == 1
    execute(study, accuracy, Workers())
    assert [result.job.attempt for result in study.results] == [0, 0, 0]


def _finish(study: Study, evaluator: Any) -> None:
    execute(study, evaluator, TWO, probe=True)
    assert study.num_finished == study.num_trials


def test_a_cheap_evaluator_stays_in_the_process(tmp_path: Path) -> None:
    """A closure over this process's list would not come back from a worker."""
    pids = []

    def cheap(architecture: Architecture, *, epochs: int, seed: int) -> float:
        pids.append(os.getpid())
        return accuracy(architecture)

    _finish(fixed_study(tmp_path / "a.db", proposals(6)), cheap)
    assert pids == [os.getpid()] * 6


def test_failures_do_not_make_an_evaluator_cheap(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(7))

    def failing(architecture: Architecture, *, epochs: int, seed: int) -> float:
        raise RuntimeError("at once")

    with pytest.raises(UserError, match="5 trials in a row failed"):
        execute(study, failing, TWO, probe=True)
    assert study.measured_seconds is None


def test_ray_is_not_loaded_without_need(workplace: Path) -> None:
    program = (
        "import sys; from nas.run import main\n"
        "flags = '--evaluator my_module:accuracy --finalists 0 --trials 3'.split()\n"
        "assert main([*flags, '--run-dir', 'one', '--workers', '1']) == 0\n"
        "assert main([*flags, '--run-dir', 'two', '--workers', '2']) == 0\n"
        "assert 'ray' not in sys.modules\n"
    )
    command = _command(workplace, "")
    subprocess.run(**{**command, "args": [sys.executable, "-c", program]}, check=True)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_on_ray(workplace: Path) -> None:
    """One run that shows: the evaluator of the working directory is found, every slot ends once,
    a lost worker is retried, threads and GPUs are the worker's share, no cluster is joined, and
    nothing but Ray's own token is left in the home folder."""
    (workplace / "deadly").touch()
    done = _run(workplace, "dying_once", "--trials", "6", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    trials = _trials(workplace)
    ended = trials[trials.state == "COMPLETE"]
    assert sorted(ended.slot) == [0, 1, 2, 3, 4, 5]
    lost = trials[trials.state != "COMPLETE"]
    assert list(zip(lost.state, lost.reason, strict=True)) == [("FAIL", "worker-lost")]
    retried = ended.set_index("slot").loc[lost.slot.item()]
    assert (retried["attempt"], retried["digest"]) == (1, lost.digest.item())

    first, *others = calls(workplace)
    assert len(others) == 6  # five slots and one retry: the first was the probe
    assert first["pid"] not in {call["pid"] for call in others}
    assert len({call["pid"] for call in others}) >= 2
    assert {call["threads"] for call in others} == {TWO.threads}
    assert {call["OMP_NUM_THREADS"] for call in others} == {str(TWO.threads)}
    assert {call["CUDA_VISIBLE_DEVICES"] for call in others} == {""}
    left = {path.name for path in (workplace / "home").iterdir()}
    assert "ray_results" not in left
    assert not list(workplace.glob("ray*"))


@pytest.mark.ray
@pytest.mark.slow
def test_row_8_failures_on_ray_stop_with_the_user_s_own_traceback(workplace: Path) -> None:
    done = _run(workplace, "failing_later", "--trials", "20", "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 5 trials in a row failed; the first with:\n")
    assert 'KeyError: "the user\'s own mistake"' in done.stderr
    assert "site-packages/ray" not in done.stderr
    assert 5 <= (_trials(workplace).reason == "error").sum() <= 6
    assert "RUNNING" not in set(_trials(workplace).state)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_ray_does_not_have_is_refused(workplace: Path) -> None:
    flags = ["--workers", "2", "--gpus-per-trial", "0.5"]
    done = _run(workplace, "accuracy", *flags)
    assert done.returncode == 2
    assert "`--gpus-per-trial 0.5` is more than the 0 GPUs that Ray sees. Lower it" in done.stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_search_on_ray(number: signal.Signals, workplace: Path) -> None:
    flags = ["--trials", "12", "--workers", "2"]
    command = _command(workplace, "noting", *flags)
    with subprocess.Popen(
        **command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as driver:
        wait_for(lambda: len(calls(workplace)) >= 4, "four trials")
        # As a terminal does: Ctrl-C goes to every process of the group.
        (os.killpg if number == signal.SIGINT else os.kill)(driver.pid, number)
        out, _ = driver.communicate()
    assert driver.returncode == 128 + number
    assert "saved. Resume with: python -m nas.run" in out
    before = _trials(workplace)
    assert set(before.state) <= {"COMPLETE", "FAIL"}
    assert set(before.reason[before.state == "FAIL"]) == {"interrupted"}

    assert _run(workplace, "noting", *flags).returncode == 0
    _assert_nothing_was_repeated(workplace, before, 12)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_search_on_ray_goes_on(workplace: Path) -> None:
    flags = ["--trials", "12", "--workers", "2"]
    for enough in (3, 7):
        with subprocess.Popen(
            **_command(workplace, "noting", *flags),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as driver:
            wait_for(lambda enough=enough: len(calls(workplace)) >= enough, "trials")
            driver.kill()
    done = _run(workplace, "noting", *flags)
    assert done.returncode == 0, done.stderr
    trials = _trials(workplace)
    assert sorted(trials.slot[trials.state == "COMPLETE"]) == list(range(12))
    assert set(trials.reason) <= {"", "orphaned"}
    assert len(calls(workplace)) <= len(trials)


def _assert_nothing_was_repeated(workplace: Path, before: pd.DataFrame, slots: int) -> None:
    after = _trials(workplace)
    pd.testing.assert_frame_equal(after.head(len(before)), before, check_dtype=False)
    assert sorted(after.slot[after.state == "COMPLETE"]) == list(range(slots))
    assert len(calls(workplace)) <= len(after)
