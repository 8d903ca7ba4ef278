"""The search for a baseline: proxy trials, then the best few longer and with several seeds.

Beside the search stand the two comparisons that it must be worth its cost against: random search
at the same number of trials, and stock EfficientNet-B0 at the chosen network's multiply-adds.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.search.console import TrialLines
from nas.search.evaluate import Evaluator
from nas.search.execution import execute
from nas.search.record import Record
from nas.search.reward import Reward
from nas.search.strategies import FixedProposer, SamplerProposer, load_strategy
from nas.search.study import Objective, Proposal, Proposer, Result, Study, known_measurements
from nas.search.workers import Workers
from search_spaces.adapt import adapt_resolution, fit_width, scale_widths
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.spaces import Space
from search_spaces.zoo import efficientnet_b0


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How the best networks are measured again."""

    finalists: int
    """How many; 0: none, and no comparison."""
    epochs: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network trained with several seeds."""

    architecture: Architecture
    origin: str
    """`search`, `random`, `both` (found by either) or `stock B0`."""
    macs: int
    params: int
    accuracies: tuple[float, ...]
    """One for each seed that did not fail."""
    rewards: tuple[float, ...]

    @property
    def reward(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.rewards))

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.accuracies))


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found, and what it is compared with."""

    search: tuple[Result, ...]
    control: tuple[Result, ...]
    """Trials of the random search; empty where none was asked for."""
    finalists: tuple[Measured, ...]
    """By reward, best first: those of the search, of the random search, and stock B0."""
    baseline: Architecture


class TrialRunner:
    """Runs named studies of one database with one evaluator; measurements are shared."""

    def __init__(
        self,
        database: Path,
        evaluator: Evaluator,
        objective: Objective,
        workers: Workers,
        *,
        probe: bool = False,
        label: str = "reward",
        describe: Callable[[Mapping[str, Any]], str] = lambda labels: "",
    ) -> None:
        self._database, self._evaluator, self._objective = database, evaluator, objective
        self._workers, self._probe = workers, probe
        self._label, self._describe = label, describe
        self._known = known_measurements(database)

    def run(self, name: str, proposer: Proposer, num_trials: int) -> Study:
        """Run a study to its end; it goes on where an earlier process stopped.

        Raises:
            UserError: Too many trials failed, or the workers cannot be had.
            KeyboardInterrupt: What is finished is kept.
        """
        record = Record(self._database, name)
        try:
            lines = TrialLines(self._label, self._describe)
            study = Study(
                record, proposer, self._objective, num_trials, known=self._known, on_result=lines
            )
            lines.follow(study)
            if 0 < study.num_finished < num_trials:
                print(f"resume  {name}: {study.num_finished} of {num_trials} trials are finished")
            execute(study, self._evaluator, self._workers, probe=self._probe)
            return study
        finally:
            record.close()

    def run_all(self, name: str, proposals: Sequence[Proposal]) -> Study:
        """Run a fixed list; another list under the same name is another study."""
        keys = hashlib.sha256(repr([p.key for p in proposals]).encode()).hexdigest()[:8]
        return self.run(f"{name}-{keys}", FixedProposer(list(proposals)), len(proposals))


def search(
    runner: TrialRunner,
    space: Space,
    reward: Reward,
    *,
    strategy: str,
    trials: int,
    epochs: int,
    seed: int,
    fidelity: Fidelity,
    announce: Callable[[str], None],
) -> SearchResult:
    """Search `space` with `strategy`, compare, and choose a baseline.

    The baseline is the best, by mean reward over fresh seeds, of the search's finalists; without
    finalists the best single trial.

    Raises:
        UserError: No trial succeeded, or too many failed in a row.
    """
    announce(f"search  {strategy}, {trials} trials")
    proposer = SamplerProposer(load_strategy(strategy), space, epochs=epochs, seed=seed)
    found = runner.run("search", proposer, trials)
    if found.best is None:
        raise ValueError("Every trial failed; trials.csv has the reasons.")
    if fidelity.finalists == 0:
        best = found.best.job.proposal.architecture
        return SearchResult(search=tuple(found.results), control=(), finalists=(), baseline=best)

    control: tuple[Result, ...] = ()
    if strategy != "random":
        announce(f"compare random search, {trials} trials")
        proposer = SamplerProposer(load_strategy("random"), space, epochs=epochs, seed=seed)
        control = tuple(runner.run("random", proposer, trials).results)

    origins = {a.digest: ("search", a) for a in _best(found.results, fidelity.finalists)}
    for a in _best(control, fidelity.finalists):
        origins[a.digest] = ("both" if a.digest in origins else "random", a)
    announce(f"final   {len(origins)} networks x {fidelity.seeds} seeds x {fidelity.epochs} epochs")
    measured = _measure(runner, reward, "final", origins.values(), fidelity, seed)
    own = [m for m in measured if m.origin in ("search", "both")]
    if not own:
        raise ValueError("Every finalist of the search failed, for the reasons above.")
    baseline = max(own, key=lambda m: m.reward)

    try:
        stock = stock_b0(baseline.architecture, baseline.macs)
    except ValueError as error:  # a space of the user's own may be far from any B0
        announce(f"note    no comparison with stock EfficientNet-B0: {error}")
    else:
        announce("compare stock EfficientNet-B0 at the baseline's multiply-adds")
        measured += _measure(runner, reward, "stock", [("stock B0", stock)], fidelity, seed)
    return SearchResult(
        search=tuple(found.results),
        control=control,
        finalists=tuple(sorted(measured, key=lambda m: -m.reward)),
        baseline=baseline.architecture,
    )


def stock_b0(like: Architecture, macs: int) -> Architecture:
    """EfficientNet-B0 for the resolution and classes of `like`, its width fitted to `macs`."""
    stock = replace(efficientnet_b0(), num_classes=like.num_classes, in_channels=like.in_channels)
    stock = adapt_resolution(stock, like.resolution)
    divisor = Rounding.for_base(like.resolution, like.widths).width_divisor
    stock = scale_widths(stock, fit_width(stock, macs, divisor), divisor)
    return replace(stock, name="efficientnet-b0-stock")


def _best(results: Iterable[Result], number: int) -> list[Architecture]:
    """The `number` best different networks, by value."""
    best: dict[str, Architecture] = {}
    completed = [r for r in results if r.value is not None]
    for result in sorted(completed, key=lambda r: -(r.value or 0)):
        architecture = result.job.proposal.architecture
        best.setdefault(architecture.digest, architecture)
    return list(best.values())[:number]


def _measure(
    runner: TrialRunner,
    reward: Reward,
    name: str,
    networks: Iterable[tuple[str, Architecture]],
    fidelity: Fidelity,
    seed: int,
) -> list[Measured]:
    """Train each network with fresh seeds, so that a lucky proxy seed does not carry over."""
    networks = list(networks)
    proposals = [
        Proposal(
            architecture=architecture,
            epochs=fidelity.epochs,
            seed=seed + 1 + s,
            labels={"origin": origin},
        )
        for s in range(fidelity.seeds)
        for origin, architecture in networks
    ]
    results = runner.run_all(name, proposals).results
    return [m for o, a in networks if (m := measured(o, a, results, reward)) is not None]


def measured(
    origin: str, architecture: Architecture, results: Iterable[Result], objective: Objective
) -> Measured | None:
    """The results of one network gathered over seeds; None if all failed."""
    cost = count(architecture)
    own = sorted(
        (r for r in results if r.job.proposal.architecture.digest == architecture.digest),
        key=lambda r: r.job.proposal.seed,
    )
    accuracies = tuple(r.outcome.accuracy for r in own if r.outcome.accuracy is not None)
    if not accuracies:
        return None
    return Measured(
        architecture=architecture,
        origin=origin,
        macs=cost.macs,
        params=cost.params,
        accuracies=accuracies,
        rewards=tuple(objective(accuracy, cost.macs) for accuracy in accuracies),
    )
