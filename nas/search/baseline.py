"""The search for a baseline: proxy trials, then the best few longer and with several seeds.

Beside the search stand the two comparisons that it must be worth its cost against: random search
at the same number of trials, and stock EfficientNet-B0 at the chosen network's multiply-adds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from nas.cli import plural
from nas.costs.objective import Objective
from nas.search.finalists import Measured, Selection
from nas.search.strategies import Problem, load_strategy
from nas.trials.halving import Halving
from nas.trials.proposers import SamplerProposer
from nas.trials.runner import TrialRunner
from nas.trials.trial import Proposal, Result
from search_spaces.adapt import adapt_resolution, fit_width, scale_widths
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.spaces import Space
from search_spaces.zoo import efficientnet_b0


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How networks are tried."""

    number: int
    epochs: int
    seed: int
    """Of the search and of every training."""
    halving: Halving | None = None
    """None: every training goes to its end."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How the best networks are measured again."""

    finalists: int
    """How many; 0: none, and no comparison."""
    epochs: int
    seeds: int

    def describe(self) -> str:
        """For people: the trainings of a network."""
        return f"{plural(self.seeds, 'seed')} x {plural(self.epochs, 'epoch')}"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found, and what it is compared with."""

    search: tuple[Result, ...]
    control: tuple[Result, ...]
    """Trials of the random search; empty where none was asked for."""
    finalists: tuple[Measured, ...]
    """By reward, best first: those of the search, of the random search, and stock B0."""
    baseline: Architecture
    epochs_spent: int = 0
    """Of the trials of both searches."""
    epochs_saved: int = 0
    """That halving left out of them."""


def search(
    runner: TrialRunner,
    space: Space,
    objective: Objective,
    selection: Selection,
    *,
    strategy: str,
    trials: Trials,
    fidelity: Fidelity,
    announce: Callable[[str], None],
    trainings: TrialRunner | None = None,
) -> SearchResult:
    """Search `space` with `strategy`, compare, and choose a baseline.

    The baseline is what `selection` picks among the search's finalists, trained with fresh seeds;
    without finalists what it deems best. Finalists are measured by `trainings`, where the trials'
    `runner` measures in another way.

    Raises:
        UserError: No trial succeeded, too many failed in a row, or no network suits the selection.
    """
    loop = _Loop(runner, space, objective, trials, announce)
    announce(f"search  {strategy}, {plural(trials.number, 'trial')}")
    proposer, found = loop.run("search", strategy)
    if not any(r.value is not None for r in found):
        raise ValueError("Every trial failed; trials.csv has the reasons.")
    best = selection.best(proposer, found)
    if fidelity.finalists == 0:
        return loop.result(search=found, control=(), finalists=(), baseline=best)

    origins = {
        a.digest: ("search", a) for a in selection.finalists(proposer, found, fidelity.finalists)
    }
    control: tuple[Result, ...] = ()
    if strategy != "random":
        announce(f"compare random search, {plural(trials.number, 'trial')}")
        proposer, control = loop.run("random", "random")
        for a in selection.finalists(proposer, control, fidelity.finalists):
            origins[a.digest] = ("both" if a.digest in origins else "random", a)
    announce(f"final   {plural(len(origins), 'network')} x {fidelity.describe()}")
    trainings = trainings or runner
    measured = _measure(trainings, objective, "final", origins.values(), fidelity, trials.seed)
    own = [m for m in measured if m.origin in ("search", "both")]
    if not own:
        raise ValueError("Every finalist of the search failed, for the reasons above.")
    baseline = selection.pick(own)

    try:
        stock = stock_b0(baseline.architecture, baseline.macs)
    except ValueError as error:  # a space of the user's own may be far from any B0
        announce(f"note    no comparison with stock EfficientNet-B0: {error}")
    else:
        announce("compare stock EfficientNet-B0 at the baseline's multiply-adds")
        networks = [("stock B0", stock)]
        measured += _measure(trainings, objective, "stock", networks, fidelity, trials.seed)
    return loop.result(
        search=found,
        control=control,
        finalists=tuple(sorted(measured, key=lambda m: -m.reward)),
        baseline=baseline.architecture,
    )


class _Loop:
    """Runs strategies over one space at like cost, and counts the epochs."""

    def __init__(
        self,
        runner: TrialRunner,
        space: Space,
        objective: Objective,
        trials: Trials,
        announce: Callable[[str], None],
    ) -> None:
        self._runner, self._space, self._objective = runner, space, objective
        self._trials, self._announce = trials, announce
        self._spent = self._saved = 0

    def run(self, name: str, strategy: str) -> tuple[SamplerProposer, tuple[Result, ...]]:
        """Run a strategy as the study `name`."""
        trials = self._trials
        problem = Problem(space=self._space, objective=self._objective, seed=trials.seed)
        proposer = SamplerProposer(
            load_strategy(strategy)(problem),
            self._space,
            directions=self._objective.directions,
            epochs=trials.epochs,
            seed=trials.seed,
        )
        study = self._runner.run(name, proposer, trials.number, halving=trials.halving)
        self._spent += study.epochs_spent
        self._saved += study.epochs_saved
        if study.epochs_saved:
            total = study.epochs_spent + study.epochs_saved
            self._announce(f"halving saved {study.epochs_saved} of {total} epochs of {name}")
        return proposer, tuple(study.results)

    def result(self, **fields: Any) -> SearchResult:
        return SearchResult(epochs_spent=self._spent, epochs_saved=self._saved, **fields)


def stock_b0(like: Architecture, macs: int) -> Architecture:
    """EfficientNet-B0 for the resolution and classes of `like`, its width fitted to `macs`."""
    stock = replace(efficientnet_b0(), num_classes=like.num_classes, in_channels=like.in_channels)
    stock = adapt_resolution(stock, like.resolution)
    divisor = Rounding.for_base(like.resolution, like.widths).width_divisor
    stock = scale_widths(stock, fit_width(stock, macs, divisor), divisor)
    return replace(stock, name="efficientnet-b0-stock")


def _measure(
    runner: TrialRunner,
    objective: Objective,
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
    return [m for o, a in networks if (m := measured(o, a, results, objective)) is not None]


def measured(
    origin: str, architecture: Architecture, results: Iterable[Result], objective: Objective
) -> Measured | None:
    """The results of one network gathered over seeds; None if all failed."""
    own = sorted(
        (r for r in results if r.job.proposal.architecture.digest == architecture.digest),
        key=lambda r: r.job.proposal.seed,
    )
    accuracies = tuple(r.outcome.accuracy for r in own if r.outcome.accuracy is not None)
    if not accuracies:
        return None
    counts, cost = count(architecture), objective.metric(architecture)
    return Measured(
        architecture=architecture,
        origin=origin,
        macs=counts.macs,
        params=counts.params,
        cost=cost,
        accuracies=accuracies,
        rewards=tuple(objective(accuracy, cost)[0] for accuracy in accuracies),
    )
