"""Search strategies by name: each makes an Optuna sampler for a problem.

**A new strategy is added to `STRATEGIES`**; users bring theirs as ``--strategy my_module:factory``,
a function ``factory(seed: int) -> optuna.samplers.BaseSampler``, made anew for every trial.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from search_spaces.cost import Cost, count
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
    """The objective's cost first, then multiply-adds and parameters: all that arithmetic gives.

    A latency is measured on a few networks of the space, and predicted for the others.
    """
    space, metric = problem.space, problem.objective.metric
    counted = [m for m in (METRICS["macs"], METRICS["params"]) if isinstance(m, Counted)]
    if isinstance(metric, Counted):
        counted = [metric, *(m for m in counted if m.name != metric.name)]
    cost_of = space.cost if isinstance(space, Costed) else lambda n: count(space.decode(n))
    latency = PredictedLatency(space, metric, cost_of) if isinstance(metric, Latency) else None

    def costs(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        found = [cost_of(network) for network in networks]
        columns = [[float(m.of(cost)) for cost in found] for m in counted]
        if latency is not None:
            columns.insert(0, latency(networks).tolist())
        elif not isinstance(metric, Counted):
            columns.insert(0, [metric(space.decode(network)) for network in networks])
        return np.array(columns).T

    return costs


@runtime_checkable
class Costed(Protocol):
    """A space that costs networks without building them, as `FactorizedSpace` does."""

    def cost(self, choices: Mapping[str, Any]) -> Cost:
        """`count` of the network that the choices name."""
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
