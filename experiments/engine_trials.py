"""What trials cost beside their training: bookkeeping, its growth, memory, workers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from experiments.measuring import Clock, Row, in_turn, number_row, ratio_row
from nas.cores import limit_threads
from nas.costs.objective import AccuracyObjective
from nas.search.strategies import Problem, load_strategy
from nas.trials.evaluate import Evaluator
from nas.trials.execution import execute, run_job
from nas.trials.proposers import FixedProposer, SamplerProposer
from nas.trials.record import Record
from nas.trials.study import Study
from nas.trials.trial import Proposal, Result
from nas.workers import Workers
from search_spaces.architecture import Architecture
from search_spaces.spaces import mnasnet

_SPACE = mnasnet(resolution=32, num_classes=10, target_macs=5e6)
_EARLY = 50
"""The trial that late ones are compared with."""
_WINDOW = 50
"""Trials of a study that are timed, one by one in turn with those of the other."""


def at_once(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Some number in [0, 1) that depends on the network; the cheapest evaluator there is."""
    return int(architecture.digest, 16) % 9973 / 9973


def sampled_study(folder: Path, strategy: str, num_trials: int) -> Study:
    """A study in a fresh SQLite file of `folder` that fills itself from the MnasNet space."""
    objective = AccuracyObjective()
    sampler = load_strategy(strategy)(Problem(space=_SPACE, objective=objective, seed=0))
    proposer = SamplerProposer(sampler, _SPACE, epochs=1, seed=0)
    return Study(Record(folder / "study.db", "study"), proposer, objective, num_trials)


def step(study: Study) -> None:
    """Run the study's next trial in this process."""
    job = study.ask()
    assert job is not None, "another trial is left"
    run_job(study, job, at_once)


def growth(strategy: str, late: int, most: int, rounds: int, clock: Clock) -> list[Row]:
    """Trial `late` of a study against trial 50 of another, and memory and size after `most`.

    To be run in a process of its own, for its memory is what is measured.
    """
    limit_threads(1)
    with TemporaryDirectory() as folder:
        old = _fresh(Path(folder, "old"), strategy)
        _advance(old, late - rounds * _WINDOW // 2)
        ratios, early, later = [], [], []
        for i in range(rounds):
            new = _fresh(Path(folder, f"new{i}"), strategy)
            _advance(new, _EARLY - _WINDOW // 2)
            pair = {"late": lambda: step(old), "early": lambda new=new: step(new)}
            seconds = {
                k: np.median(v) for k, v in in_turn(pair, _WINDOW, clock=clock, warm=0).items()
            }
            early.append(seconds["early"])
            later.append(seconds["late"])
            ratios.append(seconds["late"] / seconds["early"])
        how = f"{rounds} x {_WINDOW} in turn, {strategy}, SQLite, {clock} clock"
        rows = [
            number_row(
                f"cost of trial {late:,} over trial {_EARLY}",
                np.array(ratios),
                target="<= 1.1",
                detail=f"{how}; {1e3 * np.median(early):.1f} and {1e3 * np.median(later):.1f} ms",
            )
        ]
        if most > late:
            _advance(old, most)
            rows.append(_memory(old))
    return rows


def _memory(study: Study) -> Row:
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    number = study.num_finished
    return Row(
        what=f"memory at {number:,} trials",
        value=peak,
        low=peak,
        high=peak,
        unit=" GB",
        target="< 2 GB",
        detail="peak of the process, imports included",
    )


def _fresh(folder: Path, strategy: str) -> Study:
    folder.mkdir()
    return sampled_study(folder, strategy, 10**6)


def _advance(study: Study, until: int) -> None:
    """Run trials until so many have ended; a repeated network ends beside the one that runs."""
    while study.num_finished < until:
        step(study)


def empty_trial(trials: int, clock: Clock) -> Row:
    """All that an in-process trial costs if its evaluator costs nothing."""
    with TemporaryDirectory() as folder:
        study = sampled_study(Path(folder), "random", trials + 20)
        seconds = in_turn({"trial": lambda: step(study)}, trials, clock=clock, warm=20)["trial"]
    return number_row(
        "an empty trial, in the process",
        1e3 * seconds,
        unit=" ms",
        target="< 50 ms",
        detail=f"n = {trials}, random, SQLite, {clock} clock",
    )


def empty_trial_on_ray(trials: int, workers: int) -> Row:
    """The same on warm workers of Ray Tune, all of them together."""
    seconds = 1e3 * workers * np.diff(endings(at_once, _listed(trials), Workers(count=workers)))
    return number_row(
        f"an empty trial, on each of {workers} workers of Ray Tune",
        seconds[2 * workers :],
        unit=" ms",
        target="< 50 ms",
        detail=f"n = {len(seconds) - 2 * workers}, after those that start the workers",
    )


def real_trial(evaluator: Evaluator, network: Architecture, epochs: int, rounds: int) -> list[Row]:
    """The share of a proxy trial that is not spent in its training epochs."""
    limit_threads(1)
    whole, outside, judging = [], [], []
    for seed in range(rounds + 1):
        proposal = Proposal(architecture=network, epochs=epochs, seed=seed)
        with TemporaryDirectory() as folder, _epochs_timed() as spent:
            record = Record(Path(folder) / "study.db", "study")
            study = Study(record, FixedProposer([proposal]), AccuracyObjective(), 1)
            start = time.perf_counter()
            job = study.ask()
            assert job is not None
            run_job(study, job, evaluator)
            seconds = time.perf_counter() - start
        if seed:  # the first resizes the images and warms the allocator
            whole.append(seconds)
            judging.append(spent["judging"])
            outside.append(seconds - spent["training"] - spent["judging"])
    how = f"n = {rounds}; trials of {np.median(whole):.1f} s in the process"
    return [
        number_row(
            "data, start and bookkeeping of a real trial",
            100 * np.array(outside) / np.array(whole),
            unit=" %",
            target="< 10 % at 5 s",
            detail=how,
        ),
        number_row(
            "batch-norm estimate and validation of a real trial",
            100 * np.array(judging) / np.array(whole),
            unit=" %",
            detail=how,
        ),
    ]


@contextmanager
def _epochs_timed() -> Iterator[dict[str, float]]:
    """Seconds that trials of this process spend in `Trainer`'s epochs, and in judging."""
    from nas.training import proxy

    spent = {"training": 0.0, "judging": 0.0}

    def timed(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    patches = [
        (proxy.Trainer, "run_epoch", "training"),
        (proxy.Trainer, "evaluable", "judging"),
        (proxy, "accuracy", "judging"),
    ]
    originals = [getattr(owner, attribute) for owner, attribute, _ in patches]
    for (owner, attribute, name), original in zip(patches, originals, strict=True):
        setattr(owner, attribute, timed(name, original))
    try:
        yield spent
    finally:
        for (owner, attribute, _), original in zip(patches, originals, strict=True):
            setattr(owner, attribute, original)


def two_workers(evaluator: Evaluator, network: Architecture, trials: int, rounds: int) -> Row:
    """Trials an hour of two workers over those of one, in turn."""
    one, two = [], []
    for i in range(rounds):
        for workers, seconds in ((Workers(), one), (Workers(count=2), two)):
            proposals = [
                Proposal(architecture=network, epochs=1, seed=i * trials + k) for k in range(trials)
            ]
            seconds.append(seconds_a_trial(endings(evaluator, proposals, workers), workers.count))
    return ratio_row(
        "trials of two workers over those of one",
        np.array(one),
        np.array(two),
        target=">= 1.8",
        detail=f"{rounds} x {trials} trials in turn, {np.median(one):.1f} s each alone; "
        "true of free cores only",
    )


def endings(evaluator: Evaluator, proposals: list[Proposal], workers: Workers) -> np.ndarray:
    """Seconds at which the trials of a study ended."""
    ends: list[float] = []

    def note(result: Result) -> None:
        if result.outcome.reason:
            raise RuntimeError(result.outcome.detail)
        ends.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        record = Record(Path(folder) / "study.db", "study")
        proposer = FixedProposer(proposals)
        study = Study(record, proposer, AccuracyObjective(), len(proposals), on_result=note)
        execute(study, evaluator, workers)
        record.close()
    return np.array(ends)


def seconds_a_trial(ends: np.ndarray, workers: int) -> float:
    """Between two endings, from when every worker has ended a trial, which also started it.

    Workers in step end their trials together: counted from the first of such a group, the trials of
    the rest would take no time.

    Args:
        ends: Seconds, rising.
        workers: At work, each for as many trials.
    """
    return float(ends[-1] - ends[workers - 1]) / (len(ends) - workers)


def _listed(number: int) -> list[Proposal]:
    """Different networks of the space."""
    rng = np.random.default_rng(0)
    choices = _SPACE.choices.items()
    networks = (
        _SPACE.decode({name: options[rng.integers(len(options))] for name, options in choices})
        for _ in range(number)
    )
    return [Proposal(architecture=network, epochs=1, seed=0) for network in networks]
