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
from nas.costs.metrics import METRICS, Counted
from nas.costs.objective import Objective
from nas.costs.predicted import PredictedLatency
from nas.samplers.controller import ControllerSampler
from nas.samplers.evolution import RegularizedEvolutionSampler
from nas.samplers.guided import ModelGuidedSampler
from nas.samplers.seeding import OrderedNSGAIISampler, PerTrial
from search_spaces.capacity import capacity
from search_spaces.cost import count
from search_spaces.spaces import Counts, Space

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
    counted = [m for m in (METRICS["macs"], METRICS["params"]) if isinstance(m, Counted)]
    if isinstance(metric, Counted):
        counted = [metric, *(m for m in counted if m.name != metric.name)]
    counts_of = space.counts if isinstance(space, Counting) else partial(_counts_by_decoding, space)
    latency = None
    if isinstance(metric, Latency):
        latency = PredictedLatency(space, metric, lambda network: counts_of(network).cost)

    def costs(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        found = [counts_of(network) for network in networks]
        columns = [[float(m.of(cost)) for cost, _ in found] for m in counted]
        columns.append([float(shape.channels) for _, shape in found])
        columns.append([shape.log_fan_in for _, shape in found])
        if latency is not None:
            columns.insert(0, latency(networks).tolist())
        elif not isinstance(metric, Counted):
            columns.insert(0, [metric(space.decode(network)) for network in networks])
        return np.array(columns).T

    return costs


def _counts_by_decoding(space: Space, choices: Mapping[str, Any]) -> Counts:
    network = space.decode(choices)
    return Counts(count(network), capacity(network))


@runtime_checkable
class Counting(Protocol):
    """A space that counts networks without building them, as `FactorizedSpace` does."""

    def counts(self, choices: Mapping[str, Any]) -> Counts:
        """`count` and `capacity` of the network that the choices name."""
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
