"""`python -m experiments.search_benchmark`: strategies where the truth is known.

A strategy asks for networks, gets noisy accuracies, and is scored by the noiseless reward of the
network that it *returns*: what its model believes best if it has one, else the best observation.
Never judge without noise: what climbs fastest without it falls to near last with it.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from tabulate import tabulate

from experiments.benchmarks import Benchmark, load_benchmark
from nas.cli import OptionalNumber, UserError, command_line, format_duration
from nas.cli import main as cli_main
from nas.cores import limit_threads
from nas.costs.metrics import METRICS
from nas.costs.objective import RewardObjective
from nas.costs.reward import Reward
from nas.search.strategies import STRATEGIES, Problem, load_strategy
from nas.trials.proposers import Recommending
from search_spaces.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of the benchmark."""

    evaluator: str = "toy"
    """Where the true accuracies come from: `toy` (made up, over our space `mnasnet`), a file like
    anb_objective.py that defines `Objective` and `CHOICES`, or my_module:function as for nas.run,
    over `mnasnet`."""
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    """Which; all by default."""
    seeds: int = 10
    """Searches of each strategy."""
    first_seed: int = 0
    """Seed of the first; each has its own noise."""
    trials: tuple[int, ...] = (50, 100, 200)
    """Numbers of evaluations to report at; the last ends the search."""
    noise: float | None = None
    """Standard deviation of an accuracy from seed to seed, in the evaluator's unit; by default
    what the benchmark says was measured."""
    cost: Literal["macs", "params"] = "macs"
    """Cost in the reward."""
    target: OptionalNumber = None
    """T in the reward; by default the benchmark's own, or the median of the space."""
    w: float = -0.07
    """Exponent of the reward."""
    parallel: int = 1
    """Networks asked for before the first of them is told."""
    jobs: int = 1
    """Processes; for the seconds of a suggestion, no more than there are idle cores."""
    out: Path = Path("experiments/results")
    """Folder for the table, the numbers and the plot, dated."""
    name: str = "search-benchmark"
    """First part of the names of these files."""

    def __post_init__(self) -> None:
        for flag in ("seeds", "parallel", "jobs"):
            if getattr(self, flag) < 1:
                raise UserError(f"`--{flag}` must be at least 1, but got {getattr(self, flag)}.")
        if not self.trials or min(self.trials) < 1 or list(self.trials) != sorted(self.trials):
            raise UserError(f"`--trials` must be positive and rising, but got {self.trials}.")
        if unknown := set(self.strategies) - set(STRATEGIES):
            raise UserError(
                f"`--strategies` must be among {', '.join(STRATEGIES)}; got {', '.join(unknown)}."
            )


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one search had found after some evaluations."""

    strategy: str
    seed: int
    trials: int
    reward: float
    """Noiseless, of the network returned."""
    lucky: float
    """Noiseless, of the best observation."""
    seconds: float
    """Of a suggestion: mean of the last twenty."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One search; plain values, so that another process can run it."""

    settings: Settings
    strategy: str
    seed: int
    target: float
    noise: float


def run(settings: Settings) -> int:
    """Run all searches, print the table, write the files; the exit status."""
    benchmark = load_benchmark(settings.evaluator)
    metric = METRICS[settings.cost]
    target = settings.target
    if target is None:
        target = benchmark.target(settings.cost)
    noise = benchmark.noise if settings.noise is None else settings.noise
    conditions = (
        f"{benchmark.description}; T = {metric.format(target)}, w = {settings.w:g}, noise {noise:g}"
        f", {settings.parallel} at a time"
    )
    tasks = [
        Task(settings=settings, strategy=strategy, seed=seed, target=target, noise=noise)
        for strategy in settings.strategies
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds)
    ]
    print(f"data    {conditions}")
    print(f"plan    {len(tasks)} searches x {settings.trials[-1]} evaluations", flush=True)
    start, points = time.monotonic(), []
    for done in _all(tasks, settings.jobs):
        points += done
        last = done[-1]
        print(
            f"        {last.strategy:<11} seed {last.seed:<3} reward {last.reward:.4f}  "
            f"{last.seconds:.3f} s a suggestion",
            flush=True,
        )
    order = {strategy: i for i, strategy in enumerate(settings.strategies)}
    points.sort(key=lambda point: (order[point.strategy], point.seed, point.trials))
    frame = pd.DataFrame(points)
    table = summary(frame)
    print(f"done    {format_duration(time.monotonic() - start)}\n\n{table}\n")
    stem = settings.out / f"{date.today().isoformat()}-{settings.name}"
    settings.out.mkdir(parents=True, exist_ok=True)
    command = command_line("experiments.search_benchmark", settings)
    atomic_write(Path(f"{stem}.md"), f"{conditions}\n\n    {command}\n\n{table}\n")
    atomic_write(Path(f"{stem}.csv"), frame.to_csv(index=False))
    atomic_write(Path(f"{stem}.png"), plot(frame, conditions))
    print(f"wrote   {stem}.md, .csv, .png")
    return 0


def search(task: Task, benchmark: Benchmark) -> list[Point]:
    """One search, looked at after each of the asked numbers of evaluations."""
    settings, space = task.settings, benchmark.space
    metric = METRICS[settings.cost]
    objective = RewardObjective(Reward(task.target, settings.w), metric)
    sampler = load_strategy(task.strategy)(
        Problem(space=space, objective=objective, seed=task.seed)
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {n: CategoricalDistribution(o) for n, o in space.choices.items()}
    rng = np.random.default_rng([task.seed, 1])

    def reward(params: Mapping[str, Any], noise: float = 0.0) -> float:
        cost = getattr(benchmark.cost(params), settings.cost)
        return objective(benchmark.accuracy(params) + noise, cost)[0]

    points, seconds, finished = [], [], 0
    for trials in settings.trials:
        while finished < trials:
            asked = []
            for _ in range(min(settings.parallel, trials - finished)):
                start = time.perf_counter()
                asked.append(study.ask(dict(distributions)))
                seconds.append(time.perf_counter() - start)
            for trial in asked:
                study.tell(trial, reward(trial.params, task.noise * rng.standard_normal()))
            finished += len(asked)
        lucky = study.best_params
        recommended = sampler.recommend(study, 1) if isinstance(sampler, Recommending) else []
        points.append(
            Point(
                strategy=task.strategy,
                seed=task.seed,
                trials=trials,
                reward=reward(recommended[0] if recommended else lucky),
                lucky=reward(lucky),
                seconds=float(np.mean(seconds[-20:])),
            )
        )
    return points


def summary(frame: pd.DataFrame) -> str:
    """Markdown: median and quartiles of the true reward over seeds, seconds of a suggestion."""
    rows = []
    for strategy, own in frame.groupby("strategy", sort=False):
        row: dict[str, Any] = {"strategy": strategy, "seeds": own["seed"].nunique()}
        for trials, at in own.groupby("trials"):
            low, middle, high = map(_short, np.quantile(at["reward"], (0.25, 0.5, 0.75)))
            row[f"{trials}"] = f"**{middle}** ({low}–{high})"
        last = own[own["trials"] == own["trials"].max()]
        row[f"s/ask at {own['trials'].max()}"] = f"{last['seconds'].mean():.3f}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def plot(frame: pd.DataFrame, title: str) -> bytes:
    """PNG of median and quartiles against evaluations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for strategy, own in frame.groupby("strategy", sort=False):
        at = own.groupby("trials")["reward"]
        axes.plot(at.median().index, at.median(), marker="o", label=str(strategy))
        axes.fill_between(at.median().index, at.quantile(0.25), at.quantile(0.75), alpha=0.15)
    axes.set(xlabel="noisy evaluations", ylabel="true reward of the network returned", xscale="log")
    axes.set_title(title, fontsize=7, wrap=True)
    axes.legend(fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _all(tasks: Sequence[Task], jobs: int) -> Iterator[list[Point]]:
    if jobs == 1:
        yield from map(_search_here, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_search_here, task) for task in tasks]):
            yield future.result()


def _search_here(task: Task) -> list[Point]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    limit_threads(1)
    return search(task, _benchmark(task.settings.evaluator))


@lru_cache(maxsize=1)
def _benchmark(reference: str) -> Benchmark:
    return load_benchmark(reference)


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    prog = "python -m experiments.search_benchmark"
    return cli_main(run, Settings, argv, prog=prog, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
