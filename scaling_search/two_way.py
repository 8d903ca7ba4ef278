"""Networks by seeds: differences between networks, their noise, and the seeds to see them; pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""That all intervals hold at once."""
POWER = 0.8
"""Chance of telling two networks apart with the number of seeds that is named."""
MAX_SEEDS = 1000
_FLOAT_GUARD = 1e-9
"""Below it a difference of accuracies is one of floats."""

Accuracies = Mapping[int, float]
"""Of one network, by seed."""


@dataclass(frozen=True, kw_only=True)
class TwoWay:
    """Accuracy as what the network gives plus what the seed adds to all, by least squares.

    So networks are compared seed by seed, where a seed is missing too; what is left is the noise,
    taken as one for all networks.
    """

    effects: np.ndarray
    """Of networks, then of seeds but the first."""
    covariance: np.ndarray
    """Of `effects`, over the variance of the noise."""
    estimable: np.ndarray
    """A contrast that this matrix changes cannot be estimated."""
    networks: int
    noise: float
    """Standard deviation between seeds of one network, without what a seed adds to all; NaN where
    nothing is left to tell it."""
    freedom: int
    """Degrees of freedom of `noise`."""
    compared: int
    """Comparisons that share the error."""

    @classmethod
    def fit(cls, groups: Sequence[Accuracies], compared: int) -> Self:
        """Fit the accuracies of each network, none without any."""
        seeds = sorted({seed for group in groups for seed in group})
        cells = [(i, seeds.index(s), group[s]) for i, group in enumerate(groups) for s in group]
        design = np.zeros((len(cells), len(groups) + len(seeds)))
        for row, (network, seed, _) in enumerate(cells):
            design[row, [network, len(groups) + seed]] = 1
        design = np.delete(design, len(groups), axis=1)  # of the first seed: else they all float
        values = np.array([value for *_, value in cells])
        inverse = np.linalg.pinv(design)
        effects = inverse @ values
        freedom = len(cells) - int(np.linalg.matrix_rank(design))
        squares = float(((values - design @ effects) ** 2).sum())
        return cls(
            effects=effects,
            covariance=inverse @ inverse.T,
            estimable=inverse @ design,
            networks=len(groups),
            noise=math.sqrt(squares / freedom) if freedom else math.nan,
            freedom=freedom,
            compared=compared,
        )

    def difference(self, index: int) -> tuple[float, float]:
        """Network 0 less another, and half the width of its two-sided interval.

        By Student's t; all intervals hold at once with probability `CONFIDENCE` (Bonferroni). The
        width is infinite without seeds to tell the noise, or if the two networks share none.
        """
        weights = np.zeros(len(self.effects))
        weights[0], weights[index] = 1, -1
        difference = float(weights @ self.effects)
        if self.freedom == 0 or not np.allclose(weights @ self.estimable, weights):
            return difference, math.inf
        error = self.noise * math.sqrt(weights @ self.covariance @ weights)
        return difference, max(_FLOAT_GUARD, self._quantile(self.freedom) * error)

    def seeds_needed(self, effect: float) -> int | None:
        """Seeds of each network that show a true difference of `effect` with probability `POWER`.

        By the noncentral t distribution, with the noise as it is; None: no number up to
        `MAX_SEEDS`, or the noise is not known.
        """
        if abs(effect) < _FLOAT_GUARD or not self.noise > _FLOAT_GUARD:
            return None

        def suffices(seeds: int) -> bool:
            freedom = (self.networks - 1) * (seeds - 1)
            centre = abs(effect) / (self.noise * math.sqrt(2 / seeds))
            return bool(stats.nct.sf(self._quantile(freedom), freedom, centre) >= POWER)

        low, high = 1, MAX_SEEDS
        if not suffices(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(middle) else (middle, high)
        return high

    def _quantile(self, freedom: int) -> float:
        return float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * self.compared), freedom))
