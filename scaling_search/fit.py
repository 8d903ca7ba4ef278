"""From the grid's trainings to constants: the optimum, its confidence region, and what is tied.

All trainings are fitted at once (`scaling_search.surface`). The region is found by a parametric
bootstrap: surfaces are drawn from what the trainings leave possible, noise of seeds included, and
it is the part of the triangle around the optimum that holds nine in ten of their optima.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.spatial import Delaunay, QhullError

from scaling_search.candidates import Candidate
from scaling_search.compound import Coefficients
from scaling_search.f_test import FTest, f_test
from scaling_search.shares import AXES, Shares
from scaling_search.surface import Runs, Surface, num_terms

if TYPE_CHECKING:
    from nas.trials.trial import Result

CONFIDENCE = 0.90
"""Of the region and the intervals."""
ERROR = 0.05
"""That the truly best network is called worse, shared by all rivals."""
MARK = 0.025
"""Of the p value. A race trains the lucky ones again, so the test is a little liberal: of 800 races
of equal networks 4.5 % have a p value below this (experiments/LOG.md)."""
DRAWS = 1000
STEP = 1 / 40
"""Distance of the triangle's points at which the surface is looked at."""
MAX_COST_SPREAD = 0.12
"""Range of ln(cost / target) from which on accuracies are corrected for cost."""

Accuracies = Mapping[str, Mapping[int, float]]
"""By the network's digest and by seed."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A candidate, what its trainings gave, and what all trainings together say of it."""

    candidate: Candidate
    accuracies: Mapping[int, float]
    """By seed."""
    estimate: float
    """Accuracy by the model: its own trainings and those of its neighbours, at the target cost."""
    error: float
    """Standard error of its distance to the best."""
    tied: bool
    """Whether it is the best, or cannot be told apart from it."""

    @property
    def mean(self) -> float:
        """Of its own trainings."""
        return float(np.mean(list(self.accuracies.values())))


class Fit:
    """What the trainings of a grid say.

    Args:
        candidates: The networks.
        accuracies: Those of networks without any, and of other networks, are left out.
        target: Cost that networks are compared at, as a multiple of the base's.
        seed: Of the bootstrap.

    Raises:
        ValueError: No candidate has an accuracy.
    """

    def __init__(
        self, candidates: Sequence[Candidate], accuracies: Accuracies, *, target: float, seed: int
    ) -> None:
        trained = [c for c in candidates if accuracies.get(c.architecture.digest)]
        if not trained:
            raise ValueError("Every trial of the grid failed; trials.csv has the reasons.")
        self._candidates, self._seed = trained, seed
        self._accuracies = [dict(accuracies[c.architecture.digest]) for c in trained]
        self._shares = np.array([c.shares.values for c in trained])
        self._costs = np.log([c.ratio / target for c in trained])
        self._runs = _runs(self._accuracies)

    @cached_property
    def surface(self) -> Surface | None:
        """None where there are too few trainings for one."""
        corrected = np.ptp(self._costs) > MAX_COST_SPREAD
        if len(self._runs.accuracy) < num_terms(self._shares) + int(corrected) + 2:
            return None
        return Surface(self._shares, self._runs, self._costs if corrected else None)

    @property
    def noise(self) -> float:
        """Standard deviation between seeds of one network; NaN if unknown."""
        return math.nan if self.surface is None else self.surface.noise

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The candidates by estimate, best first; of equals the cheaper."""
        means = np.array([np.mean(list(a.values())) for a in self._accuracies])
        covariance = np.full((len(means), len(means)), np.nan)
        if self.surface is not None:
            means, covariance = self.surface.networks
        order = sorted(range(len(means)), key=lambda i: (-means[i], self._candidates[i].ratio))
        best = order[0]
        errors = _errors(covariance, best)
        tied = ~(means[best] - means > self._quantile * errors)  # without errors, all are tied
        return tuple(
            Standing(
                candidate=self._candidates[i],
                accuracies=self._accuracies[i],
                estimate=float(means[i]),
                error=float(errors[i]),
                tied=bool(tied[i]) or i == best,
            )
            for i in order
        )

    @property
    def best(self) -> Standing:
        return self.standings[0]

    @property
    def tied(self) -> tuple[Standing, ...]:
        """Those that cannot be told apart from the best, without the best itself."""
        return tuple(standing for standing in self.standings[1:] if standing.tied)

    def chances(self) -> dict[str, float]:
        """How probable it is that a network is the best, by digest."""
        if self.surface is None:
            return {c.architecture.digest: 1 / len(self._candidates) for c in self._candidates}
        drawn = self.surface.draw(*self.surface.networks, DRAWS, self._rng())
        counts = np.bincount(drawn.argmax(1), minlength=len(self._candidates))
        return {
            c.architecture.digest: float(n) / DRAWS
            for c, n in zip(self._candidates, counts, strict=True)
        }

    @cached_property
    def test(self) -> FTest | None:
        """Of networks that differ against networks that are all equal but for cost.

        They differ by the quadratic over the triangle, or, too few for one, each by itself. None:
        too few trainings, or nothing to explain.
        """
        if self.surface is None:
            return None
        terms, covariate = self.surface.design
        null, own = np.hstack([terms[:, :1], covariate]), np.eye(len(terms))
        full = np.hstack([terms, covariate]) if self.surface.quadratic else np.hstack([null, own])
        return self._compared(null, full)

    @property
    def p_value(self) -> float:
        """How often noise alone would make the networks differ so much; 1 if that is unknown."""
        return 1.0 if self.test is None else self.test.p_value

    @property
    def resolved(self) -> bool:
        """Whether the networks differ by more than noise explains."""
        return self.p_value <= MARK

    @property
    def rough(self) -> bool:
        """Whether networks differ beyond noise by what the quadratic over the triangle leaves."""
        return self._lack_of_fit is not None and self._lack_of_fit.p_value <= MARK

    @property
    def patternless(self) -> bool:
        """Whether what networks have of their own explains the quadratic too.

        Then networks count and not trainings, for seeds do not average that out: what networks have
        beside the quadratic is the measure of it.
        """
        if self.test is None or self._lack_of_fit is None or not self.rough:
            return False
        return self.test.against(self._lack_of_fit).p_value > MARK

    @cached_property
    def points(self) -> np.ndarray:
        """The part of the triangle that the networks span, `(points, 3)`."""
        return _within(_triangle(), self._shares)

    @cached_property
    def heights(self) -> np.ndarray | None:
        """Accuracy of the surface at `points`, `(points,)`; None without a quadratic surface."""
        return None if self._at_points is None else self._at_points[0]

    @cached_property
    def region(self) -> np.ndarray | None:
        """Which of `points` the 90 % region of the optimum holds; None without a surface."""
        if self.surface is None or self._at_points is None:
            return None
        mean, covariance = self._at_points
        if not self.resolved:
            return np.ones(len(mean), dtype=bool)
        optima = self.surface.draw(mean, covariance, DRAWS, self._rng()).argmax(1)
        below = mean.max() - mean
        return below <= np.quantile(below[optima], CONFIDENCE) + 1e-12

    @cached_property
    def optimum(self) -> Shares | None:
        """Where the surface is highest within what the networks span."""
        if self.heights is None:
            return None
        return Shares(*self.points[int(self.heights.argmax())].tolist())

    def intervals(self) -> dict[str, tuple[float, float]] | None:
        """90 % intervals of the shares, by axis: what the region reaches over."""
        if self.region is None:
            return None
        inside = self.points[self.region]
        return {
            axis: (float(inside[:, i].min()), float(inside[:, i].max()))
            for i, axis in enumerate(AXES)
        }

    def estimate(self, shares: Shares) -> tuple[float, float] | None:
        """By how much the optimum is ahead of another point, and the standard error of that."""
        if self.surface is None or self.optimum is None:
            return None
        mean, covariance = self.surface.predict(np.array([self.optimum.values, shares.values]))
        return float(mean[0] - mean[1]), float(_errors(covariance, 0)[1])

    @cached_property
    def _at_points(self) -> tuple[np.ndarray, np.ndarray] | None:
        if self.surface is None or not self.surface.quadratic:
            return None
        return self.surface.predict(self.points)

    @cached_property
    def _lack_of_fit(self) -> FTest | None:
        """Of what networks have beside the quadratic; None without one, or without repeats."""
        if self.surface is None or not self.surface.quadratic:
            return None
        quadratic = np.hstack(self.surface.design)
        return self._compared(quadratic, np.hstack([quadratic, np.eye(len(quadratic))]))

    def _compared(self, null: np.ndarray, full: np.ndarray) -> FTest | None:
        """Of designs `(networks, columns)`, after what seeds share was taken out."""
        assert self.surface is not None
        runs = self._runs
        shared = self.surface.scales["seed"] * (runs.seed[:, None] == runs.seed)
        lower = np.linalg.cholesky(np.eye(len(shared)) + shared)
        columns = (null[runs.network], full[runs.network], runs.accuracy)
        return f_test(*(np.linalg.solve(lower, of_runs) for of_runs in columns))

    @property
    def _quantile(self) -> float:
        """One-sided t quantile; the error is shared by the rivals (Bonferroni; Gupta 1965)."""
        if self.surface is None:
            return math.inf
        error = ERROR / max(1, len(self._candidates) - 1)
        return float(stats.t.ppf(1 - error, self.surface.freedom))

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, len(self._runs.accuracy)])


def accuracies_by_seed(results: Iterable["Result"], first: int = 0) -> dict[str, dict[int, float]]:
    """Accuracies of completed results, by the network's digest and by seed, less `first`."""
    gathered: dict[str, dict[int, float]] = {}
    for result in results:
        if result.values is not None and result.outcome.accuracy is not None:
            proposal = result.job.proposal
            of_one = gathered.setdefault(proposal.architecture.digest, {})
            of_one[proposal.seed - first] = result.outcome.accuracy
    return gathered


def coefficients_of(shares: Shares) -> Coefficients:
    """Growth for every doubling of multiply-adds, to four digits."""
    return Coefficients(*(float(f"{value:.4g}") for value in shares.coefficients(2.0).values))


def _runs(accuracies: Sequence[Mapping[int, float]]) -> Runs:
    seeds = sorted({seed for of_one in accuracies for seed in of_one})
    rows = [
        (i, seeds.index(seed), of_one[seed])
        for i, of_one in enumerate(accuracies)
        for seed in sorted(of_one)
    ]
    network, seed, accuracy = (np.array(column) for column in zip(*rows, strict=True))
    return Runs(network=network, seed=seed, accuracy=accuracy)


def _errors(covariance: np.ndarray, reference: int) -> np.ndarray:
    """Standard errors of the distances to the network at index `reference`."""
    variances = np.diag(covariance)
    squares = variances + variances[reference] - 2 * covariance[reference]
    return np.sqrt(np.maximum(squares, 0))


def _triangle() -> np.ndarray:
    n = round(1 / STEP)
    return np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n


def _within(points: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Those of `points` in the convex hull of `shares`, and `shares` themselves."""
    try:
        inside = Delaunay(shares[:, :2]).find_simplex(points[:, :2]) >= 0
    except QhullError:  # all on one line, or too few
        inside = np.zeros(len(points), dtype=bool)
    return np.unique(np.vstack([points[inside], shares]).round(9), axis=0)
