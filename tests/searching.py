"""Spaces, evaluators and loops that the tests of the search share; no training."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from nas.costs.objective import AccuracyObjective, Objective
from nas.samplers.seeding import OrderedNSGAIISampler
from nas.search.strategies import Problem, load_strategy
from nas.trials.evaluate import Evaluator, Outcome, stages
from nas.trials.execution import run_job
from nas.trials.halving import Halving
from nas.trials.proposers import FixedProposer, SamplerProposer
from nas.trials.record import Record
from nas.trials.study import Study
from nas.trials.trial import Job, Proposal
from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.builder import AnyNetwork
from search_spaces.ops import MBConv
from search_spaces.spaces import Choice, Space, mnasnet

History = list[tuple[int, Mapping[str, Any], tuple[float, ...] | None, int]]

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


class MediumSpace:
    """Four thousand networks by nine choices: as hierarchical as a real one, and quick."""

    name = "medium"

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        options = {"width": (4, 6, 8, 10), "kernel": (3, 5), "repeats": (1, 2)}
        return {f"{name}{i}": values for i in range(3) for name, values in options.items()}

    def decode(self, choices: Mapping[str, Any]) -> Architecture:
        stages = tuple(
            Stage(
                block=MBConv(kernel=choices[f"kernel{i}"], expansion=1),
                width=choices[f"width{i}"],
                repeats=choices[f"repeats{i}"],
                stride=1,
            )
            for i in range(3)
        )
        return replace(network(8), name="medium", stages=stages)

    def encode(self, architecture: Architecture) -> dict[str, Choice]:
        found: dict[str, Choice] = {}
        for i, stage in enumerate(architecture.stages):
            found[f"width{i}"], found[f"repeats{i}"] = stage.width, stage.repeats
            found[f"kernel{i}"] = stage.block.kernel
        return found


def nsga(seed: int) -> BaseSampler:
    """For `--strategy tests.searching:nsga`; a generation is four trials."""
    return OrderedNSGAIISampler(seed=seed, population_size=4)


def large_kernels(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Best where every block has a 5x5 kernel: the optimum of a toy is known."""
    return sum(stage.block.kernel == 5 for stage in architecture.stages) / len(architecture.stages)


def accuracy(architecture: AnyNetwork, *, epochs: int = 1, seed: int = 0) -> float:
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
    return Study(record, FixedProposer(items), AccuracyObjective(), len(items), **options)


def sampled_study(
    database: Path,
    num_trials: int,
    *,
    strategy: str = "tpe",
    space: Space = SPACE,
    seed: int = 0,
    epochs: int = 1,
    objective: Objective | None = None,
    **options: Any,
) -> Study:
    """A study of what a strategy proposes."""
    objective = objective or AccuracyObjective()
    problem = Problem(space=space, objective=objective, seed=seed)
    proposer = SamplerProposer(
        load_strategy(strategy)(problem),
        space,
        epochs=epochs,
        seed=seed,
        directions=objective.directions,
    )
    record = Record(database, "study", directions=objective.directions)
    return Study(record, proposer, objective, num_trials, **options)


HALVING = Halving(reduction=2)
"""Of four epochs: rungs at 1 and 2."""


def long_proposals(number: int) -> list[Proposal]:
    """Different networks, wider and wider, of four epochs."""
    return [Proposal(architecture=network(i + 1), epochs=4, seed=0) for i in range(number)]


def halved_study(database: Path, number: int = 6, **options: Any) -> Study:
    """A study of listed networks with halving."""
    return fixed_study(database, long_proposals(number), halving=HALVING, **options)


def halved_search(database: Path, trials: int = 16, **options: Any) -> Study:
    """A study of what TPE proposes, with halving."""
    return sampled_study(
        database, trials, space=MediumSpace(), epochs=4, halving=HALVING, **options
    )


def falling(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """The wider, the worse: of `long_proposals` all but the first are stopped."""
    return 1 / (1 + architecture.stages[0].width)


def ask(study: Study) -> Job:
    """A job that must be there."""
    job = study.ask()
    assert job is not None
    return job


def at(epochs: int, value: float) -> Outcome:
    """What a worker reports at a rung."""
    return Outcome(accuracy=value, epochs=epochs, seconds=1.0)


def drive(
    study: Study, evaluator: Evaluator = accuracy, *, stop: int | None = None, reports: int = 0
) -> Job | None:
    """Run a study in sequence; with `stop`, drop it with the job that follows so many, once that
    has made so many `reports`."""
    finished = 0
    while (job := study.ask()) is not None:
        if finished == stop:
            for outcome in islice(outcomes(job, evaluator), reports):
                if not outcome.reason:  # a failed one ends the trial, and reports nothing
                    study.report(job, outcome)
            return job
        run_job(study, job, evaluator)
        finished += 1
    return None


def outcomes(job: Job, evaluator: Evaluator = accuracy) -> Iterator[Outcome]:
    """What a job's rungs come to."""
    proposal = job.proposal
    return stages(
        evaluator,
        proposal.architecture,
        epochs=proposal.epochs,
        seed=proposal.seed,
        rungs=job.rungs,
    )


def history(study: Study) -> History:
    """What a study measured, slot by slot: choices, values and epochs."""
    ends = (
        (r.job.slot, dict(r.job.proposal.params), r.values, r.outcome.epochs) for r in study.results
    )
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


def deaf_once(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """As `noting`, but the first call after `deadly` was put there hangs as a call of C does: no
    signal reaches Python."""
    value = noting(architecture, epochs=epochs, seed=seed)
    if len(calls(Path())) > 1 and Path("deadly").exists():
        Path("deadly").unlink()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(600)
    return value


def deaf_to_ctrl_c(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Where `deadly` was put, takes the first Ctrl-C for nothing, and works on for ever."""
    if Path("deadly").exists():
        Path("deadly").unlink()
        try:
            Path("listening").touch()
            time.sleep(600)
        except KeyboardInterrupt:
            Path("heard").touch()
            time.sleep(600)
    return accuracy(architecture, epochs=epochs, seed=seed)


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
