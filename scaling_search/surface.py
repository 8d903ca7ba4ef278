"""Accuracy as a surface over the shares of depth, width and resolution, with its uncertainty.

A mixed model, fitted to all trainings at once::

    accuracy(network, seed) = q(shares) + g(shares) + n(network) + s(seed) + noise

`q` is a quadratic (a constant where networks are few), `g` a Gaussian process that takes up what
is smooth and not quadratic, `n` what a network has of its own (rounding makes neighbours differ),
`s` what all trainings of one seed share, `noise` the rest. The scales of g, n and s come from
restricted maximum likelihood under weak priors. So every network is judged by its neighbours'
trainings too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import minimize

MIN_FOR_QUADRATIC = 9
"""Networks from which on `q` is a quadratic, which has six coefficients."""

# Mean and standard deviation of the normal priors of the logarithms; variances are in units of the
# noise variance, the length in units of the triangle's shares.
_PRIORS = {
    "smooth": (np.log(1.0), 1.5),
    "length": (np.log(0.35), 0.5),
    "network": (np.log(0.1), 1.2),
    "seed": (np.log(0.1), 2.5),
}
_MAX_SIGMAS = 4


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Trainings; all arrays have one entry a training."""

    network: np.ndarray
    """Index of the network."""
    seed: np.ndarray
    """Index of the seed."""
    accuracy: np.ndarray
    """In [0, 1]."""


class Surface:
    """The fitted model.

    Args:
        shares: Of the networks, `(networks, 3)`.
        runs: At least two trainings more than the model has coefficients.
        covariate: Something of each network to correct for, `(networks,)`, such as the logarithm of
            its cost over the target; predictions are at 0. None: nothing.
    """

    def __init__(self, shares: np.ndarray, runs: Runs, covariate: np.ndarray | None = None) -> None:
        self._shares, self._runs = shares, runs
        self.quadratic = num_terms(shares) > 1
        self._covariate = np.zeros((len(shares), 0))
        if covariate is not None:
            self._covariate = covariate[:, None]
        self._kept = _independent(_polynomial(shares)) if self.quadratic else [0]
        self._design = np.hstack([self._terms(shares), self._covariate])[runs.network]
        rows, columns = self._design.shape
        self.freedom = rows - columns
        """Degrees of freedom of the noise."""
        assert self.freedom >= 1, "too few trainings for a surface"
        self.scales: Mapping[str, float] = self._fit_scales()
        """Variances of g, n and s over the noise's, and the length of g in shares."""
        self._solve()

    @property
    def design(self) -> tuple[np.ndarray, np.ndarray]:
        """Terms of q `(networks, terms)`, a constant first, and the covariate, of the networks."""
        return self._terms(self._shares), self._covariate

    @property
    def noise(self) -> float:
        """Standard deviation between trainings of one network, seeds' common part left out."""
        return float(np.sqrt(self._variance))

    def predict(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean `(points,)` and covariance of q + g at `shares`, `(points, 3)`, at covariate 0."""
        terms = np.hstack([self._terms(shares), np.zeros((len(shares), self._covariate.shape[1]))])
        to_networks = _smooth(self.scales, shares, self._shares)
        return self._posterior(terms, to_networks, _smooth(self.scales, shares, shares))

    @cached_property
    def networks(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of q + g + n of the networks themselves, at covariate 0."""
        own = self.scales["network"] * np.eye(len(self._shares))
        smooth = _smooth(self.scales, self._shares, self._shares) + own
        terms = np.hstack([self._terms(self._shares), np.zeros_like(self._covariate)])
        return self._posterior(terms, smooth, smooth)

    def draw(
        self, mean: np.ndarray, covariance: np.ndarray, number: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draws from what is believed, `(number, points)`, the noise's own uncertainty included."""
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        scale = np.sqrt(self.freedom / rng.chisquare(self.freedom, (number, 1)))
        return mean + scale * (rng.standard_normal((number, len(mean))) @ root.T)

    def _terms(self, shares: np.ndarray) -> np.ndarray:
        return _polynomial(shares)[:, self._kept]

    def _correlation(self, scales: Mapping[str, float]) -> np.ndarray:
        """Covariance of the trainings over the noise variance."""
        network, seed = self._runs.network, self._runs.seed
        return (
            _smooth(scales, self._shares, self._shares)[np.ix_(network, network)]
            + scales["network"] * (network[:, None] == network)
            + scales["seed"] * (seed[:, None] == seed)
            + np.eye(len(network))
        )

    def _fit_scales(self) -> dict[str, float]:
        names = list(_PRIORS)
        means, sigmas = np.array([_PRIORS[name] for name in names]).T

        def loss(logs: np.ndarray) -> float:
            correlation = self._correlation(dict(zip(names, np.exp(logs), strict=True)))
            prior = 0.5 * (((logs - means) / sigmas) ** 2).sum()
            return float(prior - self._restricted_likelihood(correlation))

        bounds = list(zip(means - _MAX_SIGMAS * sigmas, means + _MAX_SIGMAS * sigmas, strict=True))
        found = minimize(loss, means, method="L-BFGS-B", bounds=bounds, options={"maxiter": 50})
        return dict(zip(names, np.exp(found.x), strict=True))

    def _restricted_likelihood(self, correlation: np.ndarray) -> float:
        """Its logarithm, up to a constant, with the best noise variance for this correlation."""
        lower = np.linalg.cholesky(correlation)
        design = np.linalg.solve(lower, self._design)
        accuracy = np.linalg.solve(lower, self._runs.accuracy)
        q, r = np.linalg.qr(design)
        squares = max(float(((accuracy - q @ (q.T @ accuracy)) ** 2).sum()), 1e-20)
        determinants = np.log(np.diag(lower)).sum() + np.log(np.abs(np.diag(r))).sum()
        return -determinants - 0.5 * self.freedom * np.log(squares)

    def _solve(self) -> None:
        """Generalised least squares: the coefficients, what is left, and the noise variance."""
        inverse = np.linalg.inv(self._correlation(self.scales))
        self._gain = inverse @ self._design
        self._spread = np.linalg.inv(self._design.T @ self._gain)
        self._coefficients = self._spread @ (self._gain.T @ self._runs.accuracy)
        left = self._runs.accuracy - self._design @ self._coefficients
        self._inverse, self._weights = inverse, inverse @ left
        self._variance = max(float(left @ self._weights), 1e-20) / self.freedom

    def _posterior(
        self, terms: np.ndarray, to_networks: np.ndarray, own: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        to_runs = to_networks[:, self._runs.network]
        mean = terms @ self._coefficients + to_runs @ self._weights
        left = terms - to_runs @ self._gain
        covariance = own - to_runs @ self._inverse @ to_runs.T + left @ self._spread @ left.T
        return mean, self._variance * covariance


def num_terms(shares: np.ndarray) -> int:
    """Terms of q for networks of these shares: six of a quadratic, or the constant alone."""
    distinct = len(np.unique(shares.round(6), axis=0))
    return 6 if distinct >= MIN_FOR_QUADRATIC else 1


def _smooth(scales: Mapping[str, float], shares: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Covariance of g between points, over the noise variance."""
    squares = ((shares[:, None] - others[None]) ** 2).sum(-1)
    return scales["smooth"] * np.exp(-squares / (2 * scales["length"] ** 2))


def _polynomial(shares: np.ndarray) -> np.ndarray:
    """The six terms of a quadratic over the triangle, `(points, 6)`, the constant first."""
    depth, width, resolution = (shares - 1 / 3).T
    # Orthogonal coordinates of the triangle.
    u, v = (depth - resolution) / np.sqrt(2), (2 * width - depth - resolution) / np.sqrt(6)
    return np.column_stack([np.ones(len(shares)), u, v, u * u, v * v, u * v])


def _independent(columns: np.ndarray) -> list[int]:
    """Indices of the columns that are no combination of earlier ones; networks of one depth, say,
    lie on a line of the triangle."""
    kept: list[int] = []
    for i in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, i]], tol=1e-4) > len(kept):
            kept.append(i)
    return kept
