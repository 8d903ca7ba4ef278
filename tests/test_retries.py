"""What is measured again, how often, and at half the batch: rows 1, 3, 4 and 5 of the fault matrix,
without Ray."""

import gc
import os
import random
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.search.report import trials_frame
from nas.trials.evaluate import Outcome
from nas.trials.execution import execute
from nas.trials.record import Record, outcome_of
from nas.trials.retries import MAX_LOST, MAX_MACHINES_LOST, MAX_OUT_OF_MEMORY
from nas.trials.trial import Job
from nas.workers import Workers
from search_spaces.architecture import Architecture
from tests.searching import accuracy, ask, drive, fixed_study, halved_study, proposals

ROOT = Path(__file__).parents[1]
GOOD = Outcome(accuracy=0.5, seconds=1.0)
LOST = Outcome(reason="worker-lost", detail="killed")
GONE = Outcome(reason="worker-lost", detail="its machine is gone", machine_lost=True)
OOM = Outcome(reason="oom", detail="killed for want of memory")


@dataclass
class _Hungry:
    """Needs the memory of so many images a step, for networks of one width."""

    width: int
    error: BaseException
    batch: int = 128
    enough: int = 64
    tried: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        self.tried.append((architecture.name, self.batch))
        if architecture.stages[0].width == self.width and self.batch > self.enough:
            raise self.error
        return accuracy(architecture)

    def at_half_batch(self) -> "_Hungry":
        return _Hungry(self.width, self.error, self.batch // 2, self.enough, self.tried)


def _trials(database: Path) -> list[tuple[int, int, str, bool]]:
    """Slot, attempt, reason and whether at half the batch, by number."""
    record = Record(database, "study")
    frame = trials_frame(record.trials())
    record.close()
    rows = frame[["slot", "attempt", "reason", "half_batch"]]
    return list(rows.itertuples(index=False, name=None))


def test_row_5_a_gpu_out_of_memory_is_tried_again_at_half_the_batch(tmp_path: Path) -> None:
    hungry = _Hungry(2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    study = fixed_study(tmp_path / "a.db", proposals(3))
    execute(study, hungry, Workers())
    assert hungry.tried == [("w1k3", 128), ("w2k3", 128), ("w2k3", 64), ("w3k3", 128)]
    assert _trials(tmp_path / "a.db") == [
        (0, 0, "", False),
        (1, 0, "oom", False),
        (1, 1, "", True),
        (2, 0, "", False),
    ]
    assert [r.value for r in study.results] == [accuracy(p.architecture) for p in proposals(3)]
    record = Record(tmp_path / "a.db", "study")
    failed = record.trials()[1]
    record.close()
    assert (failed.state.name, failed.values) == ("FAIL", None)
    assert "CUDA out of memory. Tried to allocate 2.00 GiB" in outcome_of(failed).detail


def test_row_4_a_host_out_of_memory_that_half_the_batch_does_not_help_fails(
    tmp_path: Path,
) -> None:
    class Greedy(_Hungry):
        def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
            if architecture.stages[0].width == self.width:
                self.tried.append((architecture.name, self.batch))
                np.ones((self.batch, 2**50))  # a MemoryError of the machine's own
            return accuracy(architecture)

        def at_half_batch(self) -> "Greedy":
            return Greedy(self.width, self.error, self.batch // 2, tried=self.tried)

    greedy = Greedy(1, MemoryError())
    study = fixed_study(tmp_path / "a.db", proposals(3))
    execute(study, greedy, Workers())
    assert greedy.tried == [("w1k3", 128), ("w1k3", 64)]
    assert _trials(tmp_path / "a.db") == [
        (0, 0, "oom", False),
        (0, 1, "oom", True),
        (1, 0, "", False),
        (2, 0, "", False),
    ]
    assert study.results[0].values is None


def test_an_evaluator_without_half_a_batch_is_tried_again_as_it_is(tmp_path: Path) -> None:
    calls = Counter[str]()

    def once(architecture: Architecture, *, epochs: int, seed: int) -> float:
        calls[architecture.name] += 1
        if calls[architecture.name] == 1:
            raise MemoryError
        return 0.5

    study = fixed_study(tmp_path / "a.db", proposals(1))
    execute(study, once, Workers())
    assert _trials(tmp_path / "a.db") == [(0, 0, "oom", False), (0, 1, "", False)]


def test_half_the_batch_holds_for_all_rungs(tmp_path: Path) -> None:
    hungry = _Hungry(1, torch.OutOfMemoryError("at the second rung"))

    class Later(_Hungry):
        def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
            if epochs == 1:
                self.tried.append(("early", self.batch))
                return 0.1
            return super().__call__(architecture, epochs=epochs, seed=seed)

        def at_half_batch(self) -> "Later":
            return Later(self.width, self.error, self.batch // 2, tried=self.tried)

    later = Later(1, hungry.error)
    study = halved_study(tmp_path / "a.db", 1)
    execute(study, later, Workers())
    (result,) = study.results
    assert result.outcome.half_batch
    assert [batch for _, batch in later.tried] == [128, 128, 64, 64, 64]
    assert set(result.curve) == {1, 2}


def test_row_5_what_a_failed_training_held_is_freed_before_the_next(tmp_path: Path) -> None:
    class Network:
        """Refers to itself, as a graph of autograd's functions may."""

        def __init__(self) -> None:
            self.itself = self

    held: list[weakref.ref[Network]] = []

    def holding(architecture: Architecture, *, epochs: int, seed: int) -> float:
        if held:
            return float(held[0]() is None)
        network = Network()
        held.append(weakref.ref(network))
        raise torch.OutOfMemoryError(f"with {network}")

    gc.disable()
    try:
        study = fixed_study(tmp_path / "a.db", proposals(1))
        execute(study, holding, Workers())
    finally:
        gc.enable()
    assert study.results[0].value == 1.0


@pytest.mark.gpu
def test_row_5_a_gpu_that_really_is_full(tmp_path: Path) -> None:
    reserved = []

    class Filling(_Hungry):
        def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
            reserved.append(torch.cuda.memory_reserved())
            _, total = torch.cuda.mem_get_info()
            activations = torch.empty(total // 256 * self.batch, dtype=torch.uint8, device="cuda")
            activations = torch.cat([activations, activations[: total // 3]])
            return 0.5

        def at_half_batch(self) -> "Filling":
            return Filling(self.width, self.error, self.batch // 2, tried=self.tried)

    study = fixed_study(tmp_path / "a.db", proposals(1))
    execute(study, Filling(1, MemoryError()), Workers())
    assert _trials(tmp_path / "a.db") == [(0, 0, "oom", False), (0, 1, "", True)]
    assert reserved == [0, 0]


def test_a_measurement_at_half_the_batch_is_reused_and_says_so(tmp_path: Path) -> None:
    one = proposals(1)[0]
    hungry = _Hungry(1, MemoryError())
    study = fixed_study(tmp_path / "a.db", [one, one])
    execute(study, hungry, Workers())
    assert len(hungry.tried) == 2
    first, second = study.results
    assert (first.outcome.half_batch, second.outcome.half_batch) == (True, True)
    assert second.outcome.reused_from == "study #1"


_PROGRAM = """
import os, signal, sys
from pathlib import Path
from nas.trials.execution import execute
from nas.workers import Workers
from tests.searching import fixed_study, proposals

class Evaluator:
    batch = 128
    def at_half_batch(self):
        half = Evaluator()
        half.batch = self.batch // 2
        return half
    def __call__(self, architecture, *, epochs, seed):
        with Path("calls").open("a") as file:
            file.write(f"{self.batch}\\n")
        if self.batch == 128 or sys.argv[1] == "fail":
            raise MemoryError
        os.kill(os.getpid(), signal.SIGKILL)

execute(fixed_study(Path("a.db"), proposals(1)), Evaluator(), Workers())
"""


@pytest.mark.slow
def test_row_4_memory_is_retried_once_whatever_dies_in_between(tmp_path: Path) -> None:
    def start(what: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", _PROGRAM, what]
        return subprocess.run(words, cwd=tmp_path, env=environment, check=False).returncode

    assert [start("die"), start("fail"), start("fail")] == [-9, 0, 0]
    assert (tmp_path / "calls").read_text().split() == ["128", "64", "64"]
    assert _trials(tmp_path / "a.db") == [
        (0, 0, "oom", False),
        (0, 1, "orphaned", False),
        (0, 2, "oom", True),
    ]


def test_row_28_machines_that_leave_cost_a_slot_none_of_its_other_retries(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(1))
    ends = [GONE] * MAX_MACHINES_LOST + [LOST] * MAX_LOST + [OOM] * MAX_OUT_OF_MEMORY
    random.Random(0).shuffle(ends)
    for attempt, end in enumerate(ends):
        study = fixed_study(tmp_path / "a.db", proposals(1)) if attempt % 3 == 0 else study
        job = ask(study)
        assert (job.slot, job.attempt) == (0, attempt)
        study.tell(job, end)
    study.tell(ask(study), GOOD)
    assert [r.value for r in study.results] == [0.5]


@pytest.mark.parametrize(
    ("end", "most"), [(GONE, MAX_MACHINES_LOST), (LOST, MAX_LOST), (OOM, MAX_OUT_OF_MEMORY)]
)
def test_what_is_lost_too_often_fails(end: Outcome, most: int, tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(1))
    for _ in range(most + 1):
        study.tell(ask(study), end)
    assert study.ask() is None
    assert [r.outcome.reason for r in study.results] == [end.reason]
    again = fixed_study(tmp_path / "a.db", proposals(1))
    assert (again.num_finished, again.ask()) == (1, None)


_EVENTS = {"good": GOOD, "bad": Outcome(reason="nan"), "lost": LOST, "gone": GONE, "oom": OOM}
_events = st.sampled_from(["start", "start", "crash", "interrupt", *_EVENTS])


@settings(max_examples=6)
@given(st.lists(_events, min_size=4, max_size=20), st.randoms(use_true_random=False))
def test_row_1_after_any_faults_every_slot_ends_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, events: list[str], rng: random.Random
) -> None:
    database = tmp_path_factory.mktemp("faults") / "study.db"
    items = proposals(4)
    study, running = fixed_study(database, items), list[Job]()
    for event in events:
        if event == "start":
            running += [job] if (job := study.ask()) else []
        elif event in ("crash", "interrupt"):
            if event == "interrupt":
                study.interrupt()
            study, running = fixed_study(database, items), []
        elif running:
            study.tell(running.pop(rng.randrange(len(running))), _EVENTS[event])
    study = fixed_study(database, items)
    drive(study)

    record = Record(database, "study")
    trials = record.trials()
    record.close()
    assert study.num_finished == len(items)
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
    for slot in range(len(items)):
        ends = [_kind(outcome_of(t)) for t in trials if t.user_attrs["slot"] == slot]
        *before, last = [kind for kind in ends if kind != "interrupted"]
        allowed = {"lost": MAX_LOST, "gone": MAX_MACHINES_LOST, "oom": MAX_OUT_OF_MEMORY}
        assert set(before) <= set(allowed)
        assert all(before.count(kind) <= most for kind, most in allowed.items())
        assert last not in allowed or before.count(last) == allowed[last]


def _kind(outcome: Outcome) -> str:
    if outcome.machine_lost:
        return "gone"
    return "lost" if outcome.reason in ("worker-lost", "orphaned") else outcome.reason
