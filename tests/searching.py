"""Spaces, evaluators and loops that the tests of the search share; no training."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler, NSGAIISampler

from nas.search.evaluate import Evaluator, measure
from nas.search.record import Record
from nas.search.strategies import FixedProposer, SamplerProposer, load_strategy
from nas.search.study import Job, Proposal, Study
from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.ops import MBConv
from search_spaces.spaces import Choice, Space, mnasnet

History = list[tuple[int, Mapping[str, Any], float | None]]

SPACE = mnasnet(resolution=32, num_classes=10, target_macs=8e6)


def network(width: int, kernel: int = 3) -> Architecture:
    """A tiny network; widths and kernels tell them apart."""
    stage = Stage(block=MBConv(kernel=kernel, expansion=1), width=width, repeats=1, stride=1)
    return Architecture(
        name=f"w{width}k{kernel}",
        resolution=8,
        num_classes=2,
        stem=Stem(width=4),
        stages=(stage,),
        head_width=0,
    )


class SmallSpace:
    """Six networks, as a user writes a space: no more than `Space` asks for."""

    name = "small"

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        return {"width": (8, 16, 24), "kernel": (3, 5)}

    def decode(self, choices: Mapping[str, Any]) -> Architecture:
        return network(choices["width"], choices["kernel"])

    def encode(self, architecture: Architecture) -> dict[str, Choice]:
        stage = architecture.stages[0]
        return {"width": stage.width, "kernel": stage.block.kernel}


def small_space(**_: Any) -> SmallSpace:
    """For `--space tests.searching:small_space`."""
    return SmallSpace()


def space(resolution: int, num_classes: int, target_macs: float) -> Space:
    """For `--space tests.searching:space`: hardly any two of its networks are equal."""
    return SPACE


def nsga(seed: int) -> BaseSampler:
    """For `--strategy tests.searching:nsga`."""
    return NSGAIISampler(seed=seed)


def large_kernels(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Best where every block has a 5x5 kernel: the optimum of a toy is known."""
    return sum(stage.block.kernel == 5 for stage in architecture.stages) / len(architecture.stages)


def accuracy(architecture: Architecture, *, epochs: int = 1, seed: int = 0) -> float:
    """Some number in [0, 1) that depends on the network, the epochs and the seed."""
    return int(architecture.digest, 16) * (epochs + 31 * seed + 7) % 9973 / 9973


def proposals(number: int, *, first_width: int = 1) -> list[Proposal]:
    """Different networks."""
    return [
        Proposal(architecture=network(first_width + i), epochs=1, seed=0) for i in range(number)
    ]


def fixed_study(database: Path, items: list[Proposal], **options: Any) -> Study:
    """A study of listed networks whose value is their accuracy."""
    record = Record(database, "study")
    return Study(record, FixedProposer(items), lambda acc, macs: acc, len(items), **options)


def sampled_study(
    database: Path,
    num_trials: int,
    *,
    strategy: str = "tpe",
    space: Space = SPACE,
    seed: int = 0,
    **options: Any,
) -> Study:
    """A study of what a strategy proposes."""
    proposer = SamplerProposer(load_strategy(strategy), space, epochs=1, seed=seed)
    record = Record(database, "study")
    return Study(record, proposer, lambda acc, macs: acc, num_trials, **options)


def drive(study: Study, evaluator: Evaluator = accuracy, *, stop: int | None = None) -> Job | None:
    """Run a study in sequence; with `stop`, drop it with the job that follows so many."""
    finished = 0
    while (job := study.ask()) is not None:
        if finished == stop:
            return job
        study.tell(job, _measured(job, evaluator))
        finished += 1
    return None


def _measured(job: Job, evaluator: Evaluator) -> Any:
    proposal = job.proposal
    return measure(evaluator, proposal.architecture, epochs=proposal.epochs, seed=proposal.seed)


def history(study: Study) -> History:
    """What a study measured, slot by slot: choices and value."""
    ends = ((r.job.slot, dict(r.job.proposal.params), r.value) for r in study.results)
    return sorted(ends, key=lambda end: end[0])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    """Wait until `condition` holds; far longer than it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


CALLS = "calls.jsonl"
"""Where the evaluators below write down that they were called, in the working directory."""


def noting(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Notes its call, and takes so long that it can be killed in it."""
    import torch

    call = {
        "digest": architecture.digest,
        "epochs": epochs,
        "seed": seed,
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    with Path(CALLS).open("a") as file:
        file.write(json.dumps(call) + "\n")
    time.sleep(0.15)
    return accuracy(architecture, epochs=epochs, seed=seed)


def dying_once(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """As `noting`, but the first call after `deadly` was put there kills its process."""
    value = noting(architecture, epochs=epochs, seed=seed)
    if len(calls(Path())) > 1 and Path("deadly").exists():
        Path("deadly").unlink()
        os._exit(1)
    return value


def broken(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Always raises."""
    return 1 / 0


def failing_later(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Raises in every call but the first."""
    value = noting(architecture, epochs=epochs, seed=seed)
    if len(calls(Path())) > 1:
        raise KeyError("the user's own mistake")
    return value


def calls(folder: Path) -> list[dict[str, Any]]:
    """What `noting` wrote down."""
    file = folder / CALLS
    return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []
