"""Row 1 of the fault matrix, and all that may stop a command at any moment: kill -9 of the driver,
of a worker, of everything; SIGINT, SIGTERM. The same command goes on, and ends as if undisturbed.

The short test of each command runs with the slow ones; the long one by `pytest -m ballistic`. The
seed of its moments is BALLISTIC_SEED, by default 0; a test that fails prints its shots.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import pandas as pd
import pytest
from torch import Tensor
from torch.utils.data import get_worker_info

from nas.train import main
from nas.training import augment
from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.files import exclusive
from search_spaces.ops import MBConv
from search_spaces.zoo import load_architecture
from tests.ballistic import ROOT, Command, Fire, Kind, Pace, draw
from tests.ballistic_checks import RecordChecks, TrainingChecks, ends
from tests.grid_evaluators import TINY, arguments

SEED = int(os.environ.get("BALLISTIC_SEED", "0"))
CALLS = "calls.txt"
MINI = Architecture(
    name="mini",
    resolution=8,
    num_classes=10,
    stem=Stem(width=8),
    stages=(Stage(block=MBConv(kernel=3, expansion=2), width=16, repeats=1, stride=2),),
    head_width=0,
)
RAY_PACE = Pace(start=8, step=0.5, end=1)
"""Of a search on workers, which is not run undisturbed, for there is nothing to compare."""


def slow_accuracy(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Notes its call, and takes so long that it can be killed in it."""
    from tests.searching import accuracy

    call = f"{architecture.digest} {epochs} {seed}"
    with Path(CALLS).open("a") as file:
        file.write(f"{call} {os.getpid()}\n")
    time.sleep(0.15)
    with Path("ended.txt").open("a") as file:
        file.write(f"{call}\n")
    return accuracy(architecture, epochs=epochs, seed=seed)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _search(cwd: Path, steps: int, workers: int, *flags: str) -> Command:
    """A search with a toy evaluator."""
    cwd.mkdir()

    def calls() -> list[str]:
        return [line.rpartition(" ")[0] for line in _lines(cwd / CALLS)]

    def worker(_: int) -> int | None:
        return next((int(line.split()[-1]) for line in reversed(_lines(cwd / CALLS))), None)

    def is_ending() -> bool:
        if workers == 1:
            return len(set(_lines(cwd / "ended.txt"))) >= steps
        ended = [line for line in _lines(cwd / "run/trials.csv") if ",COMPLETE," in line]
        return len(ended) >= steps  # what was measured before is not called

    checks = RecordChecks(calls, "{digest} {epochs} {seed}".format_map, workers)
    own = ["--evaluator", "tests.test_ballistic:slow_accuracy", "--space", "tests.searching:space"]
    return Command(
        words=["nas.run", *own, "--run-dir", "run", "--workers", str(workers), *flags],
        cwd=cwd,
        folder=cwd / "run",
        steps=steps,
        workers=workers,
        progress=lambda: len(calls()),
        is_ending=is_ending,
        check=checks,
        endangered=checks.endangered,
        worker=worker,
    )


def run(cwd: Path, shots: int) -> Command:
    """A search in the process, with its control and its finalists: three studies more."""
    trials = 4 + shots
    flags = ["--trials", str(trials), "--finalists", "1", "--finalist-seeds", "2", "--epochs", "1"]
    return _search(cwd, 2 * trials + 2 * 2 + 2, 1, *flags)


def run_on_workers(cwd: Path, shots: int) -> Command:
    """A search on two workers."""
    trials = 4 + 4 * shots
    return _search(cwd, trials, 2, "--trials", str(trials), "--finalists", "0")


def grid(cwd: Path, shots: int) -> Command:
    """A grid of nine small networks, all with two seeds."""
    cwd.mkdir()
    (cwd / "tiny.json").write_text(TINY.to_json())

    def calls() -> list[str]:
        return _lines(cwd / CALLS)

    checks = RecordChecks(calls, "{digest} {seed}".format_map)
    flags = arguments("tiny.json", Path("run"), "--full", "--seeds", "2")
    return Command(
        words=["scaling_search.grid", *flags],
        cwd=cwd,
        folder=cwd / "run",
        steps=18,
        progress=lambda: len(calls()),
        is_ending=lambda: len(set(calls())) >= 18,
        check=checks,
        endangered=checks.endangered,
        environment={"GRID_CALLS": CALLS, "GRID_NOISE": "0.01", "GRID_SECONDS": "0.15"},
    )


def train(cwd: Path, shots: int) -> Command:
    """A training of a tiny network on the digits, with a process that loads them."""
    epochs = 4 + shots
    cwd.mkdir()
    (cwd / "mini.json").write_text(MINI.to_json())

    def printed() -> list[int]:
        words = "\n".join(file.read_text() for file in cwd.glob("output-*.txt"))
        return [int(epoch) for epoch in re.findall(rf"^ *(\d+)/{epochs} +loss", words, re.M)]

    def is_ending() -> bool:
        resumed = f"after epoch {epochs} of {epochs}"
        outputs = [file.read_text() for file in cwd.glob("output-*.txt")]
        return epochs in printed() or any(resumed in output for output in outputs)

    def loader(driver: int) -> int | None:
        try:
            children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
        except OSError:  # it just ended
            return None
        return int(children[-1]) if children else None

    flags = ["--arch", "mini.json", "--data", "digits", "--out", "out", "--threads", "1"]
    flags += ["--loader-workers", "1"]
    return Command(
        words=["nas.train", *flags, "--epochs", str(epochs)],
        cwd=cwd,
        folder=cwd / "out",
        steps=epochs,
        progress=lambda: len(printed()),
        is_ending=is_ending,
        check=TrainingChecks(printed),
        worker=loader,
    )


def same_search(one: Path, other: Path) -> None:
    """Trial by trial, and in all that is reported of them."""
    assert ends(one) == ends(other)
    for name in ("finalists.csv", "report.md"):
        assert (one / name).read_text() == (other / name).read_text()
    first, second = (load_architecture(folder / "baseline.json") for folder in (one, other))
    assert first == second


def same_grid(one: Path, other: Path) -> None:
    assert ends(one) == ends(other)
    for name in ("constants.json", "grid.csv", "baseline.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def same_training(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "model.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    histories = [pd.read_csv(folder / "history.csv") for folder in (one, other)]
    first, second = (history.drop(columns="seconds") for history in histories)
    pd.testing.assert_frame_equal(first, second)


KILLS: dict[Kind, int] = {"driver": 6, "group": 2, "SIGINT": 1, "SIGTERM": 1, "pre-emption": 1}


class Case(NamedTuple):
    """A command that is shot at."""

    command: Callable[[Path, int], Command]
    """Made in a new folder, with work for so many shots."""
    assert_same: Callable[[Path, Path], None] | None
    """Compares two run folders; None on workers, where no run is like another."""
    short: Mapping[Kind, int]
    long: Mapping[Kind, int] = KILLS


CASES = {
    "run": Case(run, same_search, {"driver": 1, "group": 1, "SIGTERM": 1}),
    "run on workers": Case(
        run_on_workers, None, {"driver": 1, "worker": 1}, {**KILLS, "worker": 3}
    ),
    "grid": Case(grid, same_grid, {"driver": 1, "pre-emption": 1}),
    "train": Case(train, same_training, {"driver": 1, "worker": 1}, {**KILLS, "worker": 1}),
}

cases = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.ray if "workers" in name else ()) for name in CASES],
)


def _bombard(name: str, kinds: Mapping[Kind, int], place: Path) -> None:
    case, rng, pace = CASES[name], random.Random(f"{SEED} {name}"), RAY_PACE
    shots = draw(rng, kinds)
    whole = case.command(place / "whole", len(shots))
    if case.assert_same is not None:
        with Fire(whole, rng) as undisturbed:
            pace = undisturbed.measure()
        assert whole.progress() == whole.steps
    print(f"seed {SEED}, {pace}", *shots, sep="\n")
    target = case.command(place / "shot at", len(shots))
    with Fire(target, rng) as fire:
        fire.shoot(shots, pace)
        fire.finish()
    print(f"{fire.starts} starts, hits {dict(fire.hits)}")
    assert fire.hits.total() == len(shots)
    assert not list(target.folder.rglob(".*.tmp"))
    if case.assert_same is not None:
        case.assert_same(target.folder, whole.folder)


@pytest.mark.slow
@cases
def test_row_1_a_command_that_is_killed_goes_on(name: str, tmp_path: Path) -> None:
    _bombard(name, CASES[name].short, tmp_path)


@pytest.mark.ballistic
@pytest.mark.timeout(1800)
@cases
def test_row_1_a_command_that_is_killed_again_and_again_goes_on(name: str, tmp_path: Path) -> None:
    _bombard(name, CASES[name].long, tmp_path)


def test_row_20_a_forked_process_does_not_keep_the_folder_of_a_killed_one(tmp_path: Path) -> None:
    """As one that loads images does, which lives on for some seconds."""
    program = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from search_spaces.files import exclusive\n"
        "with exclusive(Path('run'), '--out'):\n"
        "    runs, tells = os.pipe()\n"
        "    if (child := os.fork()) == 0:\n"
        "        os.write(tells, b'x')\n"
        "        time.sleep(600)\n"
        "    print(child, flush=True)\n"
        "    os.read(runs, 1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        try:
            driver.wait()
            os.kill(child, 0)  # it lives
            with exclusive(tmp_path / "run", "--out"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


class Lost(list[Tensor]):
    """A batch that a process sent before it was killed: to read it takes asking it again."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def __reduce__(self) -> tuple[Callable[[type[Exception]], None], tuple[type[Exception]]]:
        return _fail, (self.error,)


def _fail(error: type[Exception]) -> None:
    raise error


@pytest.mark.slow
@pytest.mark.parametrize("first", [None, ConnectionResetError, EOFError])
def test_row_3_loader_processes_that_always_die_end_a_training_in_one_line(
    first: type[Exception] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`first`: what reading its batches raises while the process is not yet gone."""
    (tmp_path / "mini.json").write_text(MINI.to_json())
    flags = ["--data", "digits", "--threads", "1", "--epochs", "2", "--loader-workers", "1"]
    command = [*flags, "--arch", str(tmp_path / "mini.json"), "--out", str(tmp_path / "out")]
    load = augment._Augmented.__getitems__
    deaths = tmp_path / "deaths"

    def die(self: augment._Augmented, keys: list[tuple[int, int, int]]) -> object:
        if keys[0][0] > 0 and get_worker_info() is not None:  # in the second epoch
            with deaths.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if first is not None:
                Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
                return Lost(first)
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, keys)

    with monkeypatch.context() as patch:
        patch.setattr(augment._Augmented, "__getitems__", die)
        assert main(command) == 2
    out, error = capsys.readouterr()
    assert len(set(deaths.read_text().split())) == 3
    assert error.startswith("error: A loader process died 3 times: DataLoader worker (pid")
    assert error.count("\n") == 1
    assert out.count("note    a loader process died, and its epoch starts again") == 2
    assert out.count(" 1/2   loss") == 1
    assert main(command) == 0
    assert " 2/2   loss" in capsys.readouterr().out
