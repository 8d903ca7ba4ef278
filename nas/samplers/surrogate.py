"""What a search believes of networks it has not measured: a Gaussian process over choices.

The covariance of two networks is a sum of parts, each for a way in which networks are alike: the
same options, nearby options, pairs of options, the same totals of a decision over the blocks, and
nearby costs, alone and in pairs. What is known of a network untrained says most: on the benchmark
of `experiments.search_benchmark` 60 measurements explain .79 of the variance of accuracy by options
alone, .92 with multiply-adds and parameters, .94 with its capacity too. How much each part and the
noise count is fitted by marginal likelihood (Rasmussen & Williams 2006, section 5.4.1), with a wide
prior on each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, get_lapack_funcs, solve_triangular
from scipy.optimize import minimize

from nas.samplers.features import Networks

Array = np.ndarray
Function = Callable[[Networks], Array]

_LOG_SCALE, _LOG_SCALE_SPREAD = -2.0, 1.5
"""Prior of the logarithm of a part's variance, where that of the measurements is 1."""
_LOG_NOISE, _LOG_NOISE_SPREAD = -3.0, 3.0
_MAX_STEPS = 40
_JITTER = 1e-8


class Part(Protocol):
    """A way in which networks are alike: a covariance, and functions drawn from it."""

    @property
    def columns(self) -> str:
        """Of `Networks`."""
        ...

    def covariance(self, a: Networks, b: Networks) -> Array:
        """(networks of a, networks of b), about 1 on the diagonal."""
        ...

    def variance(self, networks: Networks) -> Array:
        """The diagonal of `covariance(networks, networks)`."""
        ...

    def weighted(self, networks: Networks, weights: Array) -> Function:
        """a -> `covariance(a, networks) @ weights`, prepared to be asked often."""
        ...

    def draw(self, rng: np.random.Generator, networks: Networks) -> Function:
        """A function drawn from the prior; `networks` are any, to tell the width of columns."""
        ...


@dataclass(frozen=True)
class Linear:
    """Functions linear in the columns, or (`degree` 2) in products of two of them."""

    columns: str
    """Of `Networks`."""
    degree: int = 1

    def covariance(self, a: Networks, b: Networks) -> Array:
        return (a[self.columns] @ b[self.columns].T) ** self.degree

    def variance(self, networks: Networks) -> Array:
        return (networks[self.columns] ** 2).sum(1) ** self.degree

    def weighted(self, networks: Networks, weights: Array) -> Function:
        columns = networks[self.columns]
        if self.degree == 1:
            total = columns.T @ weights
            return lambda n: n[self.columns] @ total
        return self._of_pairs((columns.T * weights) @ columns)

    def draw(self, rng: np.random.Generator, networks: Networks) -> Function:
        width = networks[self.columns].shape[1]
        if self.degree == 1:
            weights = rng.standard_normal(width)
            return lambda n: n[self.columns] @ weights
        return self._of_pairs(rng.standard_normal((width, width)))

    def _of_pairs(self, pairs: Array) -> Function:
        assert self.degree == 2, "products of two columns"
        return lambda n: ((n[self.columns] @ pairs) * n[self.columns]).sum(1)


@dataclass(frozen=True)
class Radial:
    """Smooth functions of the columns: exp(-distance² / 2 length²)."""

    columns: str
    length: float = 1.0
    num_waves: int = 256
    """Of a drawn function (Rahimi & Recht 2007)."""

    def covariance(self, a: Networks, b: Networks) -> Array:
        return self._near(a[self.columns], b[self.columns])

    def _near(self, left: Array, right: Array) -> Array:
        # In place: this is where the time of a suggestion goes.
        squares = left @ (-2 * right.T)
        squares += (left**2).sum(1)[:, None]
        squares += (right**2).sum(1)
        np.maximum(squares, 0, out=squares)
        squares /= -2 * self.length**2
        return np.exp(squares, out=squares)

    def variance(self, networks: Networks) -> Array:
        return np.ones(len(networks))

    def weighted(self, networks: Networks, weights: Array) -> Function:
        columns = networks[self.columns]
        return lambda n: self._near(n[self.columns], columns) @ weights

    def draw(self, rng: np.random.Generator, networks: Networks) -> Function:
        width = networks[self.columns].shape[1]
        frequencies = rng.standard_normal((width, self.num_waves)) / self.length
        phases = rng.uniform(0, 2 * np.pi, self.num_waves)
        weights = rng.standard_normal(self.num_waves) * np.sqrt(2 / self.num_waves)
        return lambda n: np.cos(n[self.columns] @ frequencies + phases) @ weights


def parts_for(networks: Networks) -> list[Part]:
    """The parts of the covariance that the columns of `networks` allow."""
    parts: list[Part] = [
        Linear("constant"),
        Linear("options"),
        Linear("levels"),
        Linear("levels", degree=2),
        Linear("decisions"),
        # exp(-(choices that differ) / (all choices)): with a shorter length a single choice is
        # believed to matter more uncertainly than it does, and trials go where nothing is to gain.
        Radial("one-hot", length=np.sqrt(max(1.0, networks.num_choices))),
        Linear("costs"),
        Linear("costs", degree=2),
        Radial("costs"),
    ]
    return [part for part in parts if part.columns in networks]


class Surrogate:
    """The posterior after some measurements."""

    def __init__(
        self,
        parts: Sequence[Part],
        scales: Array,
        networks: Networks,
        values: Array,
        extra_variance: Array,
        centre: tuple[float, float] | None = None,
    ) -> None:
        """
        Args:
            parts: Of the covariance.
            scales: From `fit`: the variance of each part and, last, of the noise, where the
                variance of the measurements is 1.
            networks: What was measured.
            values: The measurements, (n,).
            extra_variance: Of each measurement beyond the noise, in squared units of `values`.
            centre: Mean and unit of the values; None: as they are.
        """
        self._parts, self._scales, self._networks = parts, scales, networks
        self.centre = _centre(values) if centre is None else centre
        self._mean, self._unit = self.centre
        self._residual = (values - self._mean) / self._unit
        self._variances = scales[-1] + _JITTER + extra_variance / self._unit**2
        covariance = self._covariance(networks, networks)
        covariance[np.diag_indices(len(values))] += self._variances
        self._factor = _cholesky(covariance)
        self._correction = self._corrected_by(self._residual)

    def mean(self, networks: Networks) -> Array:
        """The expected value of each network, noise aside."""
        return self._correction(networks) * self._unit + self._mean

    def mean_and_deviation(self, networks: Networks) -> tuple[Array, Array]:
        """Expected values and their standard deviations, noise aside."""
        across = self._covariance(networks, self._networks)
        shares = solve_triangular(self._factor[0], across.T, lower=True, check_finite=False)
        pairs = zip(self._scales, self._parts, strict=False)
        prior = sum((s * part.variance(networks) for s, part in pairs), np.zeros(len(networks)))
        deviations = np.sqrt(np.maximum(prior - (shares**2).sum(0), 1e-12))
        return self.mean(networks), deviations * self._unit

    def covariance(self, a: Networks, b: Networks) -> Array:
        """Between the values of networks, noise aside, (networks of a, networks of b)."""
        shares = [
            solve_triangular(
                self._factor[0],
                self._covariance(self._networks, networks),
                lower=True,
                check_finite=False,
            )
            for networks in (a, b)
        ]
        return (self._covariance(a, b) - shares[0].T @ shares[1]) * self._unit**2

    @property
    def noise_variance(self) -> float:
        """Of a measurement, in squared units of the values."""
        return float(self._scales[-1]) * self._unit**2

    def draw(self, rng: np.random.Generator) -> Function:
        """A function that the measurements leave possible, drawn from the posterior.

        Prior draw plus correction (Matheron's rule; Wilson et al. 2020, equation 12).
        """
        priors = [part.draw(rng, self._networks) for part in self._parts]

        def prior(networks: Networks) -> Array:
            pairs = zip(self._scales, priors, strict=False)
            return sum((np.sqrt(s) * f(networks) for s, f in pairs), np.zeros(len(networks)))

        noise = rng.standard_normal(len(self._residual)) * np.sqrt(self._variances)
        correction = self._corrected_by(self._residual - prior(self._networks) - noise)
        return lambda n: (prior(n) + correction(n)) * self._unit + self._mean

    def _corrected_by(self, gap: Array) -> Function:
        """What leads through `gap` at the measured networks, as far as noise allows."""
        weights = cho_solve(self._factor, gap, check_finite=False)
        pairs = zip(self._scales, self._parts, strict=False)
        functions = [part.weighted(self._networks, scale * weights) for scale, part in pairs]
        return lambda n: sum((f(n) for f in functions), np.zeros(len(n)))

    def _covariance(self, a: Networks, b: Networks) -> Array:
        total = np.zeros((len(a), len(b)))
        for scale, part in zip(self._scales, self._parts, strict=False):
            total += scale * part.covariance(a, b)
        return total


def fit(parts: Sequence[Part], networks: Networks, values: Array, extra_variance: Array) -> Array:
    """The variances of the parts and of the noise that make the measurements most likely."""
    loss = misfit(parts, networks, values, extra_variance)
    bounds = [(-10.0, 5.0)] * len(parts) + [(-9.0, 2.0)]
    options, start = {"maxiter": _MAX_STEPS}, _prior_of_logs(len(parts))
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.exp(solution.x)


def misfit(
    parts: Sequence[Part], networks: Networks, values: Array, extra_variance: Array
) -> Callable[[Array], tuple[float, Array]]:
    """Logarithms of the variances that `fit` seeks -> how unlikely they are, and the gradient.

    -log(likelihood * prior) but for a constant (Rasmussen & Williams 2006, equations 5.8, 5.9).
    """
    matrices = np.stack([part.covariance(networks, networks) for part in parts])
    num_values, flat = len(values), matrices.reshape(len(parts), -1)
    mean, unit = _centre(values)
    residual = (values - mean) / unit
    known = _JITTER + extra_variance / unit**2
    (dpotri,) = get_lapack_funcs(("potri",), (matrices,))
    prior = _prior_of_logs(len(parts))
    spread = np.array([_LOG_SCALE_SPREAD] * len(parts) + [_LOG_NOISE_SPREAD])

    def loss(logs: Array) -> tuple[float, Array]:
        scales = np.exp(logs)
        covariance = (scales[:-1] @ flat).reshape(num_values, num_values)
        covariance[np.diag_indices(num_values)] += scales[-1] + known
        factor = _cholesky(covariance)
        solved = cho_solve(factor, residual, check_finite=False)
        half = dpotri(factor[0], lower=1)[0]
        inverse = np.tril(half) + np.tril(half, -1).T
        slope = np.outer(solved, solved) - inverse
        gradient = 0.5 * np.append(flat @ slope.ravel(), np.trace(slope)) * scales
        away = (logs - prior) / spread
        likelihood = -0.5 * residual @ solved - np.log(np.diag(factor[0])).sum()
        return 0.5 * away @ away - likelihood, away / spread - gradient

    return loss


def _prior_of_logs(num_parts: int) -> Array:
    return np.array([_LOG_SCALE] * num_parts + [_LOG_NOISE])


def _cholesky(covariance: Array) -> tuple[Array, bool]:
    """Its Cholesky factor, for `cho_solve`; with more jitter where rounding asks for it."""
    jitter, size = 0.0, float(np.diag(covariance).mean())
    while True:
        try:
            raised = covariance + jitter * np.eye(len(covariance)) if jitter else covariance
            return cho_factor(raised, lower=True, check_finite=False)
        except LinAlgError:
            jitter = max(1e-10 * size, 10 * jitter)
            if not jitter < size:
                raise


def _centre(values: Array) -> tuple[float, float]:
    """Mean and a unit, which is never zero, nor rounding errors alone."""
    mean, unit = float(values.mean()), float(values.std())
    return mean, unit if unit > 1e-12 * float(np.abs(values).max()) else 1.0
