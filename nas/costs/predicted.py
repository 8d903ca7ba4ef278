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
from search_spaces.counts import COUNTS
from search_spaces.spaces import Space, sample

NUM_MEASURED = 40
"""Networks of the space that are measured for the model, once a run folder."""
_COLUMNS = [COUNTS.index(name) for name in ("macs", "params", "activations")]


class PredictedLatency:
    """Choices of n networks -> expected latency in ms, (n,)."""

    def __init__(
        self,
        space: Space,
        latency: Latency,
        counts_of: Callable[[Sequence[Mapping[str, Any]]], np.ndarray],
    ) -> None:
        """`counts_of` gives the `COUNTS` of networks by their choices, fast: it is asked for every
        network."""
        self._space, self._latency, self._counts_of = space, latency, counts_of

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
        features = Features(choices, self._costs)
        rng = random.Random(0)
        drawn = [sample(space, rng) for _ in range(NUM_MEASURED)]
        measured = np.log([self._latency(space.decode(network)) for network in drawn])
        networks = features(np.array([choices.encode(network) for network in drawn]))
        parts, certain = parts_for(networks), np.zeros(len(measured))
        scales = fit(parts, networks, measured, certain)
        return choices, features, Surrogate(parts, scales, networks, measured, certain)

    def _costs(self, networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return self._counts_of(networks)[:, _COLUMNS]
