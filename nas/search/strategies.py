"""Search strategies by name: each makes an Optuna sampler for a problem.

**A new strategy is added to `STRATEGIES`**; users bring theirs as ``--strategy my_module:factory``,
a function ``factory(seed: int) -> optuna.samplers.BaseSampler``, made anew for every trial.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from nas.cli import UserError, load_function
from nas.costs.latency import Latency
from nas.costs.metrics import Counted
from nas.costs.objective import Objective
from nas.costs.predicted import PredictedLatency
from nas.samplers.controller import ControllerSampler
from nas.samplers.evolution import RegularizedEvolutionSampler
from nas.samplers.guided import ModelGuidedSampler
from nas.samplers.seeding import OrderedNSGAIISampler, PerTrial
from search_spaces.cost import Cost
from search_spaces.counts import COUNTS, counts
from search_spaces.spaces import Space

TPE_STARTUP_TRIALS = 10


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a strategy may know beforehand."""

    space: Space
    objective: Objective
    seed: int


Strategy = Callable[[Problem], BaseSampler]


def tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator; its first ten trials are random."""
    return TPESampler(seed=seed, n_startup_trials=TPE_STARTUP_TRIALS)


def nsga2(seed: int) -> BaseSampler:
    """NSGA-II with a population of 20."""
    return OrderedNSGAIISampler(seed=seed, population_size=20)


def guided(problem: Problem) -> BaseSampler:
    """The model-guided sampler, which is told what a problem's networks cost."""
    objective = problem.objective

    def discount(costs: np.ndarray) -> np.ndarray:
        return np.array([objective(1.0, cost)[0] for cost in costs.tolist()])

    return ModelGuidedSampler(costs=known_costs(problem), discount=discount, seed=problem.seed)


def known_costs(
    problem: Problem,
) -> Callable[[Sequence[Mapping[str, Any]]], np.ndarray]:
    """The objective's cost first, then multiply-adds, parameters, and `Capacity`: what arithmetic
    tells of a network.

    A latency is measured on a few networks of the space, and predicted for the others.
    """
    space, metric = problem.space, problem.objective.metric
    others = ("macs", "params", "channels", "log_fan_in")
    columns = [COUNTS.index(name) for name in others if name != metric.name]
    counts_of = space.counts if isinstance(space, Counting) else partial(_counts_by_decoding, space)
    latency = PredictedLatency(space, metric, counts_of) if isinstance(metric, Latency) else None

    def costs(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        counted = counts_of(networks)
        if latency is not None:
            own = latency(networks)
        elif not isinstance(metric, Counted):
            own = [metric(space.decode(network)) for network in networks]
        elif metric.name in COUNTS:
            own = counted[:, COUNTS.index(metric.name)]
        else:
            own = [metric.of(Cost(*map(int, row[:3]))) for row in counted.tolist()]
        return np.column_stack([own, counted[:, columns]])

    return costs


def _counts_by_decoding(space: Space, networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return counts(map(space.decode, networks))


@runtime_checkable
class Counting(Protocol):
    """A space that counts networks without building them, as `FactorizedSpace` does."""

    def counts(self, networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """`COUNTS` of the networks that the choices name, (networks, 5)."""
        ...


def per_trial(factory: Callable[[int], BaseSampler]) -> Strategy:
    """A strategy that makes its sampler anew for every trial."""
    return lambda problem: PerTrial(factory, problem.seed)


STRATEGIES: dict[str, Strategy] = {
    "guided": guided,
    "random": per_trial(lambda seed: RandomSampler(seed=seed)),
    "tpe": per_trial(tpe),
    "nsga2": per_trial(nsga2),
    "evolution": lambda problem: RegularizedEvolutionSampler(seed=problem.seed),
    "controller": lambda problem: ControllerSampler(seed=problem.seed),
}


def load_strategy(name: str) -> Strategy:
    """A strategy of ours by name, or the user's as ``my_module:factory``.

    Raises:
        UserError: Neither.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" in name:
        return per_trial(load_function(name, "--strategy"))
    raise UserError(
        f"`--strategy` must be one of {', '.join(STRATEGIES)}, or my_module:factory; got {name!r}."
    )
