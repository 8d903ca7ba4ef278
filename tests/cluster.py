"""Several machines of Ray on one host, in a process of their own, and an evaluator for them.

In the driver's process Ray's `Cluster` would end the driver with a machine.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from search_spaces.architecture import Architecture
from tests.searching import accuracy, wait_for

ROOT = Path(__file__).parents[1]
CALLS = "node_calls.jsonl"
AWAITED = "awaited"
"""A file with a number of machines, the driver's process included, that is waited for."""


class Machines:
    """A cluster whose head stays; the others have names."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address = self._answer()

    def add(self, name: str, *, cpus: int, gpus: int = 0) -> None:
        self._do(f"add {name} {cpus} {gpus}")

    def remove(self, name: str) -> None:
        """As if its power went: nothing of it says goodbye."""
        self._do(f"remove {name}")

    def _do(self, words: str) -> None:
        assert self._process.stdin is not None
        print(words, file=self._process.stdin, flush=True)
        assert self._answer() == words

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def machines(cpus: int) -> Iterator[Machines]:
    """A cluster whose head has so many CPUs."""
    # How soon a machine that is silent counts as lost.
    quick = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster", str(cpus)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **quick},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield Machines(process)
        assert process.stdin is not None
        process.stdin.close()


def command(folder: Path, address: str, *flags: str) -> dict[str, Any]:
    """Arguments of `subprocess` for `nas.run` on a cluster, with the evaluator below."""
    words = [sys.executable, "-m", "nas.run", "--ray-address", address, "--strategy", "random"]
    words += ["--evaluator", "tests.cluster:on_a_machine", "--space", "tests.searching:space"]
    words += ["--finalists", "0", "--run-dir", "run", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return {"args": words, "cwd": folder, "env": environment, "text": True}


def on_a_machine(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Notes where it is called, and takes a while: until the last of so many machines has begun
    one, if the test asks for that."""
    import ray

    place = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "driver"
    with Path(CALLS).open("a") as file:
        file.write(json.dumps({"digest": architecture.digest, "node": place}) + "\n")
    time.sleep(0.5)
    if Path(AWAITED).exists():
        number = int(Path(AWAITED).read_text())
        wait_for(lambda: calls(Path()).node.nunique() >= number, f"{number} machines")
    return accuracy(architecture)


def calls(folder: Path) -> pd.DataFrame:
    """What `on_a_machine` noted: digest and node."""
    file = folder / CALLS
    lines = file.read_text().splitlines() if file.exists() else []
    return pd.DataFrame(map(json.loads, lines), columns=["digest", "node"])


def _serve(cpus: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
    nodes = {}
    print(cluster.address, flush=True)
    for line in sys.stdin:
        verb, name, *numbers = line.split()
        if verb == "add":
            cpus, gpus = map(int, numbers)
            nodes[name] = cluster.add_node(num_cpus=cpus, num_gpus=gpus)
        else:
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        print(line.strip(), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
