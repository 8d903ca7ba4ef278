"""What a model believes of the objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import erfcx
from scipy.stats import norm

from nas.samplers.features import Features
from nas.samplers.history import Indices
from nas.samplers.surrogate import Surrogate

Array = np.ndarray
Score = Callable[[Array], Array]
"""Index vectors of n networks, (n, choices) -> a number each, (n,); more is better."""
Factor = Callable[[Array], Array]
"""Known costs of n networks, (n, costs) -> a positive number each, (n,)."""


@dataclass(frozen=True, kw_only=True)
class Belief:
    """The surrogate of accuracy, multiplied with what is known for certain."""

    features: Features
    surrogate: Surrogate
    measured: Array
    """(n, choices)"""
    factor: Factor
    """Objective / accuracy."""

    def mean(self, indices: Array) -> Array:
        """The expected objective, (n,)."""
        networks = self.features(indices)
        return self.surrogate.mean(networks) * self.factor(networks.costs)

    def mean_and_deviation(self, indices: Array) -> tuple[Array, Array]:
        """The expected objective and its standard deviation, noise aside."""
        networks = self.features(indices)
        mean, deviation = self.surrogate.mean_and_deviation(networks)
        factor = self.factor(networks.costs)
        return mean * factor, deviation * factor

    def covariance(self, a: Array, b: Array) -> Array:
        """Between the objectives of networks, noise aside, (networks of a, networks of b)."""
        left, right = self.features(a), self.features(b)
        factors = np.outer(self.factor(left.costs), self.factor(right.costs))
        return self.surrogate.covariance(left, right) * factors

    def noise_variance(self, indices: Array) -> Array:
        """Of a measurement of the objective, (n,)."""
        return self.surrogate.noise_variance * self.factor(self.features(indices).costs) ** 2

    def draw(self, rng: np.random.Generator) -> Score:
        """An objective drawn from the posterior."""
        function = self.surrogate.draw(rng)

        def score(indices: Array) -> Array:
            networks = self.features(indices)
            return function(networks) * self.factor(networks.costs)

        return score

    def within(self, budget: float) -> "Belief":
        """The same for one budget of the first cost, by MnasNet's hard reward: accuracy up to the
        budget, accuracy * budget / cost above (Tan et al. 2019, section 3)."""

        return replace(self, factor=lambda costs: np.minimum(1.0, budget / costs[:, 0]))


class Contest:
    """The best network against rivals, in what the model believes of their differences."""

    def __init__(self, belief: Belief, best: Array, rivals: Array) -> None:
        self._belief = belief
        self._all = np.concatenate([best[None], rivals])
        mean, deviation = belief.mean_and_deviation(self._all)
        self._ahead = mean[1:] - mean[0]
        shared = belief.covariance(best[None], rivals)[0]
        self._variances = deviation[1:] ** 2 + deviation[0] ** 2 - 2 * shared

    def chances(self) -> Array:
        """That a rival is the better one, (rivals,)."""
        return norm.cdf(self._ahead / self._deviation(self._variances))

    def left_by(self, networks: Array) -> Array:
        """What all rivals are expected to gain still after a measurement of a network, (n,)."""
        belief = self._belief
        across = belief.covariance(networks, self._all)
        told = across[:, 1:] - across[:, :1]
        deviation = belief.mean_and_deviation(networks)[1]
        measured = deviation**2 + belief.noise_variance(networks)
        left = self._deviation(self._variances - told**2 / measured[:, None])
        return np.exp(np.log(left) + log_improvement(self._ahead / left)).sum(1)

    def _deviation(self, variances: Array) -> Array:
        """Never zero, nor rounding errors alone."""
        least = max(1e-12 * self._variances.max(initial=0.0), 1e-100)
        return np.sqrt(np.maximum(variances, least))


def undominated(belief: Belief, networks: Sequence[Indices]) -> list[Indices]:
    """Those that no other is believed to beat in both accuracy and first cost, by cost."""
    if not networks:
        return []
    rows = distinct(np.array(networks))
    found = belief.features(rows)
    costs, accuracies = found.costs[:, 0], belief.surrogate.mean(found)
    kept, best = [], -np.inf
    for i in np.lexsort((-accuracies, costs)):
        if accuracies[i] > best:
            kept.append(tuple(rows[i].tolist()))
            best = accuracies[i]
    return kept


def distinct(rows: Array) -> Array:
    """Without repeats, in the order of first appearance."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def log_improvement(gain: Array) -> Array:
    """log(pdf(gain) + gain * cdf(gain)), far below zero too (Ament et al. 2023, equation 9)."""
    near, far = np.maximum(gain, -1.0), np.minimum(gain, -1.0)
    # What is left of 1 after Mills' ratio is 1 / gain² there, and below -1e4 rounding errors alone.
    rest = 1 + np.sqrt(np.pi / 2) * far * erfcx(-far / np.sqrt(2))
    log_rest = np.where(far > -1e4, np.log(np.maximum(rest, 1e-10)), -2 * np.log(-far))
    return np.where(
        gain > -1, np.log(norm.pdf(near) + near * norm.cdf(near)), norm.logpdf(far) + log_rest
    )
