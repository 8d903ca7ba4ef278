"""What a model believes of the objective, and the networks that this makes worth a trial."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from nas.samplers.features import Features
from nas.samplers.history import Choices, Indices
from nas.samplers.surrogate import Surrogate

Array = np.ndarray
Score = Callable[[Array], Array]
"""Index vectors of n networks, (n, choices) -> a number each, (n,); more is better."""
Factor = Callable[[Array], Array]
"""Known costs of n networks, (n, costs) -> a positive number each, (n,)."""

_PARENTS, _CLIMBS, _MUTANTS, _MUTATIONS, _MAX_STEPS = 8, 2, 250, 5, 30


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


class Candidates:
    """Looks for networks with a high score, by climbing from what is believed good."""

    def __init__(self, choices: Choices, belief: Belief, rng: np.random.Generator) -> None:
        self._belief, self._rng, self._sizes = belief, rng, np.array(choices.sizes)
        self._places = np.repeat(np.arange(len(self._sizes)), self._sizes)
        self._options = np.concatenate([np.arange(size) for size in self._sizes])
        believed = belief.mean(belief.measured)
        self._top = _distinct(belief.measured[np.argsort(-believed, kind="stable")])[:_PARENTS]
        starts = [*self._top[:_CLIMBS], self._any_measured()]
        self._climbed = _distinct(np.array([self.climb(belief.mean, s) for s in starts]))

    def of_greatest_improvement(self, taken: set[Indices]) -> Indices:
        """The candidate not `taken` of greatest expected improvement on the best mean.

        Expected improvement over a believed best, not over a noisy measurement.
        """
        pool = self._pool()
        free = np.array([tuple(row) not in taken for row in pool.tolist()])
        if not free.any():
            return tuple(pool[0].tolist())
        pool = pool[free]
        best = self._belief.mean(np.concatenate([self._top, self._climbed])).max()
        mean, deviation = self._belief.mean_and_deviation(pool)
        gain = (mean - best) / deviation
        improvement = np.log(deviation) + _log_improvement(gain)
        return tuple(pool[int(np.argmax(improvement))].tolist())

    def best_of_a_draw(self) -> Indices:
        """Where an objective drawn from the posterior is best (Thompson sampling)."""
        score = self._belief.draw(self._rng)
        starts = [*self._top[:_CLIMBS], *self._climbed[:1], self._any_measured()]
        ends = np.array([self.climb(score, start) for start in starts])
        return tuple(ends[int(np.argmax(score(ends)))].tolist())

    def best(self, number: int, besides: set[Indices]) -> list[Indices]:
        """The candidates of highest mean but for some, best first, measured or not."""
        pool = _distinct(np.concatenate([self._belief.measured, self._pool()]))
        order = np.argsort(-self._belief.mean(pool), kind="stable")
        ranked = map(tuple, pool[order].tolist())
        return [indices for indices in ranked if indices not in besides][:number]

    def climb(self, score: Score, start: Array) -> Array:
        """The end of steepest ascent over single choices."""
        here, height = start, score(start[None])[0]
        for _ in range(_MAX_STEPS):
            around = self._neighbours(here)
            if not len(around):
                return here
            heights = score(around)
            best = int(np.argmax(heights))
            if heights[best] <= height:
                return here
            here, height = around[best], heights[best]
        return here

    def _pool(self) -> Array:
        """Good networks, their neighbours, and mutants of them."""
        parents = np.concatenate([self._climbed, self._top])
        best = parents[int(np.argmax(self._belief.mean(parents)))]
        return _distinct(np.concatenate([parents, self._neighbours(best), self._mutants(parents)]))

    def _mutants(self, parents: Array) -> Array:
        rng, sizes = self._rng, self._sizes
        mutants = parents[rng.integers(len(parents), size=_MUTANTS)]
        for mutant in mutants:
            number = min(len(sizes), int(rng.integers(1, _MUTATIONS + 1)))
            places = rng.choice(len(sizes), number, replace=False)
            mutant[places] = rng.integers(sizes[places])
        return mutants

    def _neighbours(self, indices: Array) -> Array:
        """Those that differ in one choice, (n, choices)."""
        others = self._options != indices[self._places]
        rows = np.repeat(indices[None], others.sum(), axis=0)
        rows[np.arange(len(rows)), self._places[others]] = self._options[others]
        return rows

    def _any_measured(self) -> Array:
        measured = self._belief.measured
        return measured[int(self._rng.integers(len(measured)))]


def undominated(belief: Belief, networks: Sequence[Indices]) -> list[Indices]:
    """Those that no other is believed to beat in both accuracy and first cost, by cost."""
    if not networks:
        return []
    rows = _distinct(np.array(networks))
    found = belief.features(rows)
    costs, accuracies = found.costs[:, 0], belief.surrogate.mean(found)
    kept, best = [], -np.inf
    for i in np.lexsort((-accuracies, costs)):
        if accuracies[i] > best:
            kept.append(tuple(rows[i].tolist()))
            best = accuracies[i]
    return kept


def _distinct(rows: Array) -> Array:
    """Without repeats, in the order of first appearance."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def _log_improvement(gain: Array) -> Array:
    """log(pdf(gain) + gain * cdf(gain)); by its asymptote where that would underflow."""
    plain = norm.pdf(gain) + gain * norm.cdf(gain)
    far = norm.logpdf(gain) - 2 * np.log(np.maximum(-gain, 1.0))
    return np.where(gain > -5, np.log(np.maximum(plain, 1e-300)), far)
