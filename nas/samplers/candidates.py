"""Networks that what a model believes makes worth a trial."""

import itertools

import numpy as np

from nas.samplers.belief import Belief, Contest, Score, distinct, log_improvement
from nas.samplers.history import Choices, Indices

Array = np.ndarray

_PARENTS, _CLIMBS, _MUTANTS, _MUTATIONS, _MAX_STEPS = 8, 2, 250, 5, 30
_DRAWS, _MIXTURES = 4, 200


class Candidates:
    """Looks for networks with a high score, by climbing from what is believed good."""

    def __init__(self, choices: Choices, belief: Belief, rng: np.random.Generator) -> None:
        self._belief, self._rng, self._sizes = belief, rng, np.array(choices.sizes)
        self._places = np.repeat(np.arange(len(self._sizes)), self._sizes)
        self._options = np.concatenate([np.arange(size) for size in self._sizes])
        believed = belief.mean(belief.measured)
        self._top = distinct(belief.measured[np.argsort(-believed, kind="stable")])[:_PARENTS]
        starts = [*self._top[:_CLIMBS], self._any_measured()]
        self._climbed = distinct(np.array([self.climb(belief.mean, s) for s in starts]))

    def of_greatest_improvement(self, taken: set[Indices]) -> Indices:
        """The candidate not `taken` of greatest expected improvement on the best mean.

        Expected improvement over a believed best, not over a noisy measurement.
        """
        pool = _free(self._pool(), taken)
        best = self._belief.mean(np.concatenate([self._top, self._climbed])).max()
        mean, deviation = self._belief.mean_and_deviation(pool)
        gain = (mean - best) / deviation
        improvement = np.log(deviation) + log_improvement(gain)
        return tuple(pool[int(np.argmax(improvement))].tolist())

    def most_telling(self, taken: set[Indices]) -> Indices:
        """The candidate not `taken` (any, where all are) that leaves the least to be gained by
        another answer than the best believed.

        What a rival may gain is its expected improvement on the best, which a measurement leaves
        the less of, the more it says of their difference, whatever it turns out to be. Rivals are
        the best's neighbours, what else is believed good, and where objectives drawn from the
        posterior are best; candidates are mixtures of them. Ours; measured in experiments/LOG.md.
        """
        climbed = self._climbed
        best = climbed[int(np.argmax(self._belief.mean(climbed)))]
        neighbours, drawn = self._neighbours(best), self._best_of_draws(best)
        rivals = distinct(np.concatenate([neighbours, drawn, climbed, self._top]))
        rivals = rivals[(rivals != best).any(1)]
        contest = Contest(self._belief, best, rivals)
        mixtures = self._mixtures(best, neighbours, contest.chances()[: len(neighbours)])
        pool = _free(distinct(np.concatenate([drawn, mixtures])), taken)
        return tuple(pool[int(np.argmin(contest.left_by(pool)))].tolist())

    def _best_of_draws(self, best: Array) -> Array:
        """Where each of some objectives drawn from the posterior is best."""
        starts = itertools.islice(itertools.cycle([best, *self._top]), _DRAWS)
        return np.array([self.climb(self._belief.draw(self._rng), start) for start in starts])

    def _mixtures(self, best: Array, neighbours: Array, chances: Array) -> Array:
        """Networks whose options are drawn by the chance that they are better than the best's;
        half of them keep a share of the best's."""
        mixtures = np.repeat(best[None], _MIXTURES, axis=0)
        places = np.argmax(neighbours != best, axis=1)
        for place in np.unique(places):
            here = places == place
            options = np.append(neighbours[here, place], best[place])
            weights = np.append(chances[here], max(0.5, 1 - chances[here].max()))
            drawn = self._rng.choice(options, size=_MIXTURES, p=weights / weights.sum())
            mixtures[:, place] = drawn
        half = _MIXTURES // 2
        kept = self._rng.random((half, len(best))) < self._rng.random((half, 1))
        mixtures[:half] = np.where(kept, best, mixtures[:half])
        return mixtures

    def best(self, number: int, besides: set[Indices]) -> list[Indices]:
        """The candidates of highest mean but for some, best first, measured or not."""
        pool = distinct(np.concatenate([self._belief.measured, self._pool()]))
        order = np.argsort(-self._belief.mean(pool), kind="stable")
        ranked = map(tuple, pool[order].tolist())
        return [indices for indices in ranked if indices not in besides][:number]

    def climb(self, score: Score, start: Array) -> Array:
        """The end of steepest ascent over single choices, or of its first `_MAX_STEPS` steps."""
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
        return distinct(np.concatenate([parents, self._neighbours(best), self._mutants(parents)]))

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


def _free(pool: Array, taken: set[Indices]) -> Array:
    """Those not `taken`; the whole pool where none is free."""
    free = np.array([tuple(row) not in taken for row in pool.tolist()])
    return pool[free] if free.any() else pool
