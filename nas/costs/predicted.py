"""Latency of networks that nobody measured, predicted from a few that were.

A search weighs thousands of networks for every one that it tries, and a measurement takes up to a
second. The model is the surrogate of the guided sampler, on the logarithm of the latency.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from nas.costs.latency import Latency
from nas.samplers.features import Features
from nas.samplers.history import Choices
from nas.samplers.surrogate import Surrogate, fit, parts_for
from search_spaces.cost import Cost
from search_spaces.spaces import Space, sample

NUM_MEASURED = 40
"""Networks of the space that are measured for the model, once a run folder."""


class PredictedLatency:
    """Choices of n networks -> expected latency in ms, (n,)."""

    def __init__(
        self, space: Space, latency: Latency, cost_of: Callable[[Mapping[str, Any]], Cost]
    ) -> None:
        """`cost_of` counts the network that choices name, fast: it is asked for every network."""
        self._space, self._latency, self._cost_of = space, latency, cost_of

    def __call__(self, networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        choices, features, surrogate = self._model
        rows = np.array([choices.encode(network) for network in networks])
        return np.exp(surrogate.mean(features(rows)))

    @cached_property
    def _model(self) -> tuple[Choices, Features, Surrogate]:
        space = self._space
        choices = Choices(
            {name: CategoricalDistribution(options) for name, options in space.choices.items()}
        )
        features = Features(choices, self._counts)
        rng = random.Random(0)
        drawn = [sample(space, rng) for _ in range(NUM_MEASURED)]
        measured = np.log([self._latency(space.decode(network)) for network in drawn])
        networks = features(np.array([choices.encode(network) for network in drawn]))
        parts, certain = parts_for(networks), np.zeros(len(measured))
        scales = fit(parts, networks, measured, certain)
        return choices, features, Surrogate(parts, scales, networks, measured, certain)

    def _counts(self, networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        costs = [self._cost_of(network) for network in networks]
        return np.array([[cost.macs, cost.params, cost.activations] for cost in costs], float)
