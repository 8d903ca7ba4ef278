"""Which networks of a search are measured again, and which of these is the baseline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from nas.cli import UserError
from nas.costs.objective import ParetoObjective
from nas.search.pareto import spread_over
from nas.trials.front import front
from nas.trials.trial import Proposer, Result
from search_spaces.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network trained with several seeds."""

    architecture: Architecture
    origin: str
    """`search`, `random`, `both` (found by either) or `stock B0`."""
    macs: int
    params: int
    cost: float
    """By the search's metric."""
    accuracies: tuple[float, ...]
    """One for each seed that did not fail."""
    rewards: tuple[float, ...]
    """First value of the objective for each: the accuracy again where there is no reward."""

    @property
    def reward(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.rewards))

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.accuracies))


@runtime_checkable
class Recommender(Protocol):
    """A proposer that has a belief of its own about what is best."""

    def recommend(self, number: int) -> list[Architecture] | None:
        """At most `number` networks, best first, measured or not; None: no belief (yet).

        With two objectives they stand for the front.
        """
        ...


def finalists_of(proposer: Proposer, results: Iterable[Result], number: int) -> list[Architecture]:
    """The `number` networks to measure again, best first.

    What the proposer believes in, where it has a belief: the best single observation of many is
    mostly the luckiest. Else the best observed, each network once.
    """
    if isinstance(proposer, Recommender) and (believed := proposer.recommend(number)):
        return _distinct(believed)[:number]
    ranked = sorted(_completed(results), key=lambda r: -(r.value or 0))
    return _distinct(_networks(ranked))[:number]


class Selection(Protocol):
    """Chooses among the networks of a search."""

    def finalists(
        self, proposer: Proposer, results: Sequence[Result], number: int
    ) -> list[Architecture]:
        """The networks to measure again."""
        ...

    def pick(self, measured: Sequence[Measured]) -> Measured:
        """The baseline among networks that were measured again; at least one."""
        ...

    def best(self, proposer: Proposer, results: Sequence[Result]) -> Architecture:
        """The baseline if nothing is measured again.

        Raises:
            UserError: None of the networks will do.
        """
        ...


class BestReward:
    """What has the best reward."""

    def finalists(
        self, proposer: Proposer, results: Sequence[Result], number: int
    ) -> list[Architecture]:
        return finalists_of(proposer, results, number)

    def pick(self, measured: Sequence[Measured]) -> Measured:
        return max(measured, key=lambda m: m.reward)

    def best(self, proposer: Proposer, results: Sequence[Result]) -> Architecture:
        return self.finalists(proposer, results, 1)[0]


@dataclass(frozen=True, kw_only=True)
class WithinBudget:
    """The most accurate network of the Pareto front that costs at most `target`."""

    objective: ParetoObjective
    target: float
    """In the unit of the objective's metric."""
    is_given: bool
    """Whether somebody asked for this target. If not, finalists spread over the front, and the
    cheapest network will do where none is within."""

    def finalists(
        self, proposer: Proposer, results: Sequence[Result], number: int
    ) -> list[Architecture]:
        networks = self._front(proposer, results)
        if not self.is_given:
            return [networks[i] for i in spread_over(number, len(networks))]
        return self._within(networks)[-number:]

    def pick(self, measured: Sequence[Measured]) -> Measured:
        within = [m for m in measured if m.cost <= self.target]
        if within:
            return max(within, key=lambda m: m.accuracy)
        return min(measured, key=lambda m: m.cost)

    def best(self, proposer: Proposer, results: Sequence[Result]) -> Architecture:
        networks, metric = self._front(proposer, results), self.objective.metric
        if within := self._within(networks):
            return within[-1]
        if self.is_given:
            flag = "--target-flops" if metric.name == "macs" else "--target-cost"
            raise UserError(
                f"`{flag}` asks for at most {metric.format(self.target)}, but the cheapest network "
                f"on the front costs {metric.format(metric(networks[0]))}. Raise it, or search a "
                "smaller space in a new --run-dir."
            )
        return networks[0]

    def _within(self, networks: list[Architecture]) -> list[Architecture]:
        return [a for a in networks if self.objective.metric(a) <= self.target]

    def _front(self, proposer: Proposer, results: Sequence[Result]) -> list[Architecture]:
        """By cost, with which accuracy rises along a front."""
        networks = None
        if isinstance(proposer, Recommender):
            networks = proposer.recommend(len(results))
        if not networks:
            unbeaten = front(results, self.objective.directions)
            networks = _networks(unbeaten)
        return sorted(_distinct(networks), key=self.objective.metric)


def _completed(results: Iterable[Result]) -> list[Result]:
    """Those that have a value, by slot."""
    return sorted((r for r in results if r.value is not None), key=lambda r: r.job.slot)


def _networks(results: Iterable[Result]) -> list[Architecture]:
    networks = [result.job.proposal.architecture for result in results]
    # A search space describes its networks; only scaling has those of a user's builder.
    return [network for network in networks if isinstance(network, Architecture)]


def _distinct(networks: Iterable[Architecture]) -> list[Architecture]:
    """Each network once, where it stands first."""
    first: dict[str, Architecture] = {}
    for network in networks:
        first.setdefault(network.digest, network)
    return list(first.values())
