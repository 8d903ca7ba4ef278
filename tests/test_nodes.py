"""Several machines: what one that leaves was running is run again elsewhere, and what none has is
named. Rows 27 and 28 of the fault matrix."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from nas.trials.record import Record, outcome_of
from nas.workers import Workers
from tests.cluster import AWAITED, calls, command, machines
from tests.searching import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def _trials(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "run/trials.csv", keep_default_na=False)


def _assert_every_slot_ended_once(folder: Path, slots: int) -> None:
    trials, called = _trials(folder), calls(folder)
    assert sorted(trials.slot[trials.state == "COMPLETE"]) == list(range(slots))
    assert set(trials.state) <= {"COMPLETE", "FAIL"}
    # Nothing that finished was run again: further calls are those of attempts that failed.
    attempts, made = trials.digest.value_counts(), called.digest.value_counts()
    assert (attempts.sub(made, fill_value=0) >= 0).all()


def test_row_28_trials_of_a_machine_that_leaves_run_again(tmp_path: Path) -> None:
    """Three machines of one worker each; one leaves with a trial on it, and another comes."""
    slots = 12
    flags = ["--workers", "3", "--trials", str(slots)]
    cpus = Workers(count=3, ray_address="auto").threads
    with machines(cpus) as cluster:
        cluster.add("a", cpus=cpus)
        cluster.add("b", cpus=cpus)
        with subprocess.Popen(
            **command(tmp_path, cluster.address, *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as driver:
            wait_for(lambda: calls(tmp_path).node.nunique() == 4, "three machines and the driver")
            (tmp_path / AWAITED).write_text("5")
            cluster.remove("a")
            cluster.add("c", cpus=cpus)
            out, _ = driver.communicate()
        assert driver.returncode == 0, out
    _assert_every_slot_ended_once(tmp_path, slots)
    assert calls(tmp_path).node.nunique() == 5  # the new one took its share

    record = Record(tmp_path / "run/study.db", "search")
    outcomes = [outcome_of(trial) for trial in record.trials()]
    record.close()
    lost = [outcome for outcome in outcomes if outcome.reason]
    assert lost
    for outcome in lost:
        assert (outcome.reason, outcome.machine_lost) == ("worker-lost", True)
        assert outcome.detail.startswith("The machine that it ran on was lost: ")


def test_row_27_a_gpu_that_no_machine_has_any_more_is_named(tmp_path: Path) -> None:
    """In mid-search, at the next start, and until there is one again."""
    slots = 8
    flags = ["--gpus-per-trial", "1", "--trials", str(slots)]
    rule = "error: `--gpus-per-trial 1` is more than the 0 GPUs that Ray sees. Lower it"
    cpus = Workers(ray_address="auto").threads
    with machines(1) as cluster:
        cluster.add("a", cpus=cpus, gpus=1)
        arguments = command(tmp_path, cluster.address, *flags)
        with subprocess.Popen(
            **arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as driver:
            wait_for(lambda: len(calls(tmp_path)) >= 3, "three trials")
            cluster.remove("a")
            _, error = driver.communicate(timeout=60)
        assert driver.returncode == 2
        assert rule in error
        before = _trials(tmp_path)
        assert set(before.state) <= {"COMPLETE", "FAIL"}

        called = len(calls(tmp_path))
        refused = subprocess.run(**arguments, capture_output=True, timeout=60)
        assert refused.returncode == 2
        assert refused.stderr.startswith(rule)
        assert len(calls(tmp_path)) == called

        cluster.add("b", cpus=cpus, gpus=1)
        done = subprocess.run(**arguments, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
    after = _trials(tmp_path)
    ended = before[before.state == "COMPLETE"]
    assert after[after.number.isin(ended.number)].equals(ended)
    _assert_every_slot_ended_once(tmp_path, slots)
