"""Rows 4 and 27 of the fault matrix on Ray: memory that runs out has its name, and what no machine
has is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests import searching

ROOT = Path(__file__).parents[1]


def _python(program: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        text=True,
        capture_output=True,
        timeout=240,
    )


@pytest.mark.slow
def test_4_a_host_out_of_memory_fails_its_trials_by_that_name(tmp_path: Path) -> None:
    shutil.copy(searching.__file__, tmp_path / "my_module.py")
    program = (
        "from nas.run import main\n"
        "words = '--evaluator my_module:noting --space my_module:space --finalists 0 '\n"
        "raise SystemExit(main([*words.split(), *'--trials 3 --workers 2'.split()]))\n"
    )
    # Any use of memory is above the threshold: Ray kills every worker.
    memory = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    done = _python(program, tmp_path, **memory)
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(tmp_path / "runs/search/trials.csv", keep_default_na=False)
    assert list(trials.reason[trials.slot == 0]) == [""]  # in the process, to see if it is cheap
    for slot in (1, 2):  # retried once
        assert list(trials.reason[trials.slot == slot]) == ["oom", "oom"]
        assert sorted(trials.attempt[trials.slot == slot]) == [0, 1]
    assert "The machine ran low on memory. Use fewer --workers" in done.stdout


_CLUSTER = """
import sys
from pathlib import Path
from ray.cluster_utils import Cluster
from nas.cli import UserError
from nas.search import ray_tune
from nas.search.execution import execute
from nas.search.workers import Workers
from tests.searching import accuracy, fixed_study, proposals

threads = Workers(ray_address="auto").threads
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
# While there is no other, for on one host a driver connects to any, and ends when it leaves.
cluster.connect()
nodes = [cluster.add_node(num_cpus=threads, num_gpus=1), cluster.add_node(num_cpus=threads)]
cluster.wait_for_nodes()
workers = Workers(ray_address=cluster.address, gpus_per_trial=float(sys.argv[1]))
ray_tune._ray._current = workers
gone = []

def leave(result):
    if not gone:
        gone.append(nodes[0])
        cluster.remove_node(nodes[0])

study = fixed_study(Path("study.db"), proposals(12), on_result=leave)
try:
    execute(study, accuracy, workers)
except UserError as error:
    print("refused:", error)
print(study.num_finished, study.num_running)
"""


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_27_what_no_machine_has_any_more_is_named(gpus: int, tmp_path: Path) -> None:
    """Of two machines the one with the GPU leaves after the first trial."""
    program = _CLUSTER.replace("sys.argv[1]", str(gpus))
    done = _python(program, tmp_path)  # its status is Ray's, which misses a machine at the end
    assert done.stdout, done.stderr
    *lines, last = done.stdout.splitlines()
    refused = [line for line in lines if line.startswith("refused:")]
    finished, running = map(int, last.split())
    assert running == 0
    if gpus == 0:  # the other machine does it all
        assert not refused
        assert finished == 12
        return
    seen = {1: 0, 2: 1}[gpus]  # of 2 GPUs there never was a machine
    rule = f"`--gpus-per-trial {gpus}` is more than the {seen} GPUs that Ray sees. Lower it"
    assert rule in refused[0]
    assert (finished == 0) == (gpus == 2)
    assert finished < 12
