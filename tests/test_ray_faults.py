"""Faults on Ray: leftovers of a kill, workers that die, memory that runs out. Rows 2 to 5 of the
fault matrix."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory

from nas import doctor
from nas.trials.leftovers import leave_mark, leftovers
from nas.trials.losses import Losses
from nas.trials.retries import Retries
from search_spaces.files import exclusive
from tests.searching import wait_for

ROOT = Path(__file__).parents[1]
_EVALUATOR = '''
import os, signal, time
from pathlib import Path
from tests.searching import accuracy, space

class Evaluator:
    """By the network: of four, one needs more memory than there is for the whole batch, and one
    kills its process."""
    batch = 128

    def at_half_batch(self):
        half = Evaluator()
        half.batch = self.batch // 2
        return half

    def __call__(self, architecture, *, epochs, seed):
        kind = int(architecture.digest, 16) % 4
        with Path("calls").open("a") as file:
            file.write(f"{architecture.digest} {self.batch}\\n")
        time.sleep(0.2)
        if kind == 0 and self.batch == 128:
            self.eat(architecture.digest)
        if kind == 1 and "MEEK" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        return accuracy(architecture)

    def eat(self, digest):
        import torch
        if "GIGABYTES" not in os.environ:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        try:  # one trial of the search: what runs beside it is killed as well, if Ray so likes
            with Path("eater").open("x") as file:
                file.write(digest)
        except FileExistsError:
            return
        held = []
        for _ in range(4 * int(os.environ["GIGABYTES"])):
            held.append(torch.ones(25 * 10**7, dtype=torch.uint8))
        time.sleep(60)

mixed = Evaluator()
'''


def _command(folder: Path, trials: int, **variables: str) -> dict[str, Any]:
    (folder / "my_module.py").write_text(_EVALUATOR)
    words = [sys.executable, "-m", "nas.run", "--evaluator", "my_module:mixed"]
    words += ["--space", "my_module:space", "--strategy", "random", "--finalists", "0"]
    words += ["--workers", "2", "--trials", str(trials)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return {"args": words, "cwd": folder, "env": environment, "text": True}


def _trials(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "runs/search/trials.csv", keep_default_na=False)


def _calls(folder: Path) -> pd.DataFrame:
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return pd.DataFrame([line.split() for line in lines], columns=["digest", "batch"])


def _kind(digests: pd.Series) -> pd.Series:
    return digests.map(lambda digest: int(digest, 16) % 4)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of which some trials run out of memory, and some die."""
    folder = tmp_path_factory.mktemp("mixed")
    done = subprocess.run(**_command(folder, 12), capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    trials = _trials(folder)
    assert sorted(set(trials.slot)) == list(range(12))
    assert {0, 1} < set(_kind(trials.digest))
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_row_3_a_worker_that_is_killed_is_retried_twice(mixed: Path) -> None:
    trials, calls = _trials(mixed), _calls(mixed)
    deadly = trials[_kind(trials.digest) == 1]
    for _, attempts in deadly.groupby("slot"):
        assert list(attempts.reason) == ["worker-lost"] * 3
        assert list(attempts.attempt) == [0, 1, 2]
        assert (calls.digest == attempts.digest.iloc[0]).sum() == 3
    others = trials[_kind(trials.digest) > 1]
    assert set(others.state) == {"COMPLETE"}
    assert set(others.attempt) == {0}  # what runs beside is not hit


@pytest.mark.ray
@pytest.mark.slow
def test_row_5_a_gpu_out_of_memory_on_a_worker_is_tried_again_at_half_the_batch(
    mixed: Path,
) -> None:
    trials, calls = _trials(mixed), _calls(mixed)
    hungry = trials[_kind(trials.digest) == 0]
    for _, attempts in hungry.groupby("slot"):
        assert list(attempts.reason) == ["oom", ""]
        assert list(attempts.half_batch) == [False, True]
        assert list(attempts.state) == ["FAIL", "COMPLETE"]
        batches = calls.batch[calls.digest == attempts.digest.iloc[0]]
        assert list(batches) == ["128", "64"]
    assert set(trials.half_batch[_kind(trials.digest) != 0]) == {False}


@pytest.mark.ray
@pytest.mark.slow
def test_row_4_a_host_out_of_memory_trains_again_at_half_the_batch(tmp_path: Path) -> None:
    """Ray kills a worker in mid-training, when it has eaten most of what is left."""
    room = 5e9  # for two workers, what Ray itself takes, and others on this machine
    if get_system_memory() - get_used_memory() < 11e9:
        pytest.skip("needs 11 GB of free memory")
    threshold = (get_used_memory() + room) / get_system_memory()
    memory = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "GIGABYTES": "9"}
    done = subprocess.run(
        **_command(tmp_path, 12, MEEK="1", **memory), capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    trials, calls = _trials(tmp_path), _calls(tmp_path)
    eater = (tmp_path / "eater").read_text()
    attempts = trials[(trials.digest == eater) & (trials.reused_from == "")]
    # Beside the eater, Ray kills a worker that is free, and its retry may be given that one.
    assert (attempts.reason.iloc[0], attempts.reason.iloc[-1]) == ("oom", "")
    assert set(attempts.reason.iloc[1:-1]) <= {"worker-lost"}
    assert list(attempts.half_batch) == [False] + [True] * (len(attempts) - 1)
    assert list(calls.batch[calls.digest == eater]) == ["128", "64"]
    others = trials[trials.digest != eater]
    assert set(others.reason) <= {"", "oom"}
    assert "COMPLETE" in set(others.state)


@pytest.mark.ray
@pytest.mark.slow
def test_row_4_a_host_that_has_no_memory_at_all_fails_its_trials_by_that_name(
    tmp_path: Path,
) -> None:
    # Any use of memory is above the threshold: Ray kills every worker as it starts.
    memory = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    command = _command(tmp_path, 3, MEEK="1", **memory)
    done = subprocess.run(**command, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    trials = _trials(tmp_path)
    assert trials.state[trials.slot == 0].iloc[-1] == "COMPLETE"  # in the process, where none kills
    for slot in (1, 2):
        attempts = trials[trials.slot == slot]
        assert list(attempts.reason) == ["oom", "oom"]
        assert list(attempts.attempt) == [0, 1]
        assert list(attempts.half_batch) == [False, True]
    assert "The machine ran low on memory. Use fewer --workers" in done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_row_2_leftovers_of_a_killed_search_are_named_and_hold_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _command(tmp_path, 8, MEEK="1")
    before = set(leftovers())
    with subprocess.Popen(
        **command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        wait_for(lambda: len(_calls(tmp_path)) >= 4, "four trials")
        assert set(leftovers()) <= before  # it lives
        driver.kill()
    left = {pid: name for pid, name in leftovers().items() if pid not in before}
    try:
        assert any("Agent" in name for name in left.values()), left
        with exclusive(tmp_path / "runs/search", "--run-dir"):
            pass  # its lock is free at once
        wait_for(lambda: not any("Train" in name for name in leftovers().values()), "workers")

        assert doctor.main(["--run-dir", str(tmp_path)]) in (0, 1)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "left of a" in line]
        assert all(f"{pid} ({name})" in line for pid, name in leftovers().items() if pid in left)
        done = subprocess.run(**command, capture_output=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert "note    left of a command that was killed, and to end by itself: " in done.stdout
    finally:
        for pid in left:
            if pid in leftovers():
                os.kill(pid, signal.SIGKILL)
    assert sorted(_trials(tmp_path).slot[_trials(tmp_path).state == "COMPLETE"]) == list(range(8))


def test_row_2_who_has_files_of_a_dead_command_s_session_open_is_left_over(tmp_path: Path) -> None:
    session = tmp_path / "session_of_a_test"
    (session / "logs").mkdir(parents=True)
    log = session / "logs" / "agent.log"
    program = "import sys, time; file = open(sys.argv[1], 'w'); print(flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(log)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid not in leftovers()  # a session that is not ours
        leave_mark(session)
        assert process.pid not in leftovers()  # of a command that lives
        _mark_by_a_dead_process(session)
        assert process.pid in leftovers()
        process.kill()
    assert process.pid not in leftovers()


def _mark_by_a_dead_process(session: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nas.trials.leftovers import leave_mark\n"
        "leave_mark(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program, str(session)], check=True, env=environment)


def _killed(used: str) -> str:
    return f"""Failure # 1 (occurred at 2026-11-21_02-41-48)
2 worker(s) were killed due to the node running low on memory. Memory on the node was {used} used.
Ray killed 2 worker(s) based on the killing policy"""


def test_row_4_a_retry_on_a_worker_of_the_same_kill_is_no_attempt_at_half_the_batch() -> None:
    losses, retries = Losses(), Retries()
    reasons = []
    for slot, used in [(4, "5.1GB"), (4, "5.1GB"), (5, "5.1GB"), (4, "5.2GB")]:
        outcome = losses.outcome(slot, _killed(used), 0.1, None)
        reasons.append(outcome.reason)
        assert "Use fewer --workers" in outcome.detail
        if slot == 4 and len(reasons) < 4:
            retries = retries.after(outcome)
            assert retries is not None
            assert retries.half_batch
    assert reasons == ["oom", "worker-lost", "oom", "oom"]
    assert retries.after(outcome) is None  # a second kill is a second attempt


@pytest.mark.ray
@pytest.mark.slow
def test_row_4_a_worker_killed_for_memory_as_it_starts_is_one_that_died() -> None:
    """Tune asks a failed trial for its first result, and Ray says what killed the worker."""
    program = (
        "import ray; from ray.exceptions import OutOfMemoryError\n"
        "from ray.tune.experiment import Trial\n"
        "from nas.trials.ray_session import let_tune_survive_losses\n"
        "def killed(_): raise OutOfMemoryError('low on memory')\n"
        "let_tune_survive_losses()\n"
        "trial = Trial('stub', stub=True); trial._default_result_or_future = ray.ObjectRef.nil()\n"
        "ray.get = killed\n"
        "assert trial.last_result == {'trial_id': trial.trial_id}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
