"""The mixed model, against the conditioning of one large normal distribution, and by hand."""

import numpy as np
import pytest

from scaling_search.surface import Runs, Surface
from tests.scaled import lattice, peak

SHARES = lattice(4)
TRUTH = peak((0.3, 0.2, 0.5))(SHARES)


def _runs(values: np.ndarray) -> Runs:
    """From `(networks, seeds)`, where NaN is no training."""
    network, seed = np.nonzero(~np.isnan(values))
    return Runs(network=network, seed=seed, accuracy=values[network, seed])


def _values(rng: np.random.Generator, seeds: int, noise: float = 0.005) -> np.ndarray:
    return TRUTH[:, None] + rng.normal(0, noise, (len(SHARES), seeds))


def _polynomial(shares: np.ndarray) -> np.ndarray:
    depth, width, _ = shares.T
    return np.column_stack([np.ones(len(shares)), depth, width, depth**2, width**2, depth * width])


def _conditioned(surface: Surface, runs: Runs, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of q + g at `points`: everything is jointly normal, the coefficients widely so."""
    scales, noise = surface.scales, surface.noise**2

    def smooth(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        squares = ((one[:, None] - other[None]) ** 2).sum(-1)
        kernel = scales["smooth"] * noise * np.exp(-squares / (2 * scales["length"] ** 2))
        return kernel + 10.0**4 * noise * _polynomial(one) @ _polynomial(other).T * 10

    at = SHARES[runs.network]
    covariance = smooth(at, at) + noise * (
        scales["network"] * (runs.network[:, None] == runs.network)
        + scales["seed"] * (runs.seed[:, None] == runs.seed)
        + np.eye(len(at))
    )
    gain = np.linalg.solve(covariance, smooth(at, points)).T
    return gain @ runs.accuracy, smooth(points, points) - gain @ smooth(at, points)


def test_equals_the_conditioning_of_a_joint_normal() -> None:
    values = _values(np.random.default_rng(0), 3)
    values[4:, 2] = np.nan  # as a race leaves it
    runs = _runs(values)
    surface = Surface(SHARES, runs)
    points = lattice(5)[3:9]
    mean, covariance = surface.predict(points)
    expected_mean, expected_covariance = _conditioned(surface, runs, points)
    assert mean == pytest.approx(expected_mean, abs=1e-4)
    assert covariance == pytest.approx(expected_covariance, abs=2e-7, rel=0.02)


def test_a_quadratic_without_noise_comes_back_everywhere() -> None:
    surface = Surface(SHARES, _runs(_values(np.random.default_rng(0), 2, noise=0)))
    points = lattice(10)
    assert surface.predict(points)[0] == pytest.approx(peak((0.3, 0.2, 0.5))(points), abs=1e-6)
    assert surface.noise < 1e-6


@pytest.mark.parametrize("noise", [0.002, 0.02])
def test_the_noise_is_found(noise: float) -> None:
    rng = np.random.default_rng(1)
    found = [Surface(SHARES, _runs(_values(rng, 4, noise))).noise for _ in range(10)]
    assert np.mean(found) == pytest.approx(noise, rel=0.15)


def test_what_a_seed_adds_to_all_is_no_noise() -> None:
    rng = np.random.default_rng(2)
    values = _values(rng, 5, 0.001)
    shifted = values + rng.normal(0, 0.03, 5)
    assert Surface(SHARES, _runs(shifted)).noise < 0.002


def test_neighbours_lend_strength() -> None:
    """The error of a network's mean is below that of its own two trainings."""
    surface = Surface(SHARES, _runs(_values(np.random.default_rng(3), 2)))
    _, covariance = surface.networks
    assert np.sqrt(np.diag(covariance)).mean() < 0.8 * surface.noise / np.sqrt(2)


def test_the_order_of_trainings_does_not_matter() -> None:
    runs = _runs(_values(np.random.default_rng(4), 2))
    order = np.random.default_rng(0).permutation(len(runs.accuracy))
    other = Runs(network=runs.network[order], seed=runs.seed[order], accuracy=runs.accuracy[order])
    one, two = Surface(SHARES, runs).networks, Surface(SHARES, other).networks
    assert one[0] == pytest.approx(two[0], abs=1e-5)
    assert one[1] == pytest.approx(two[1], abs=1e-7)


def test_a_covariate_is_corrected_for() -> None:
    """Accuracy that is nothing but cost leaves a flat surface at covariate 0."""
    cost = np.random.default_rng(5).normal(0, 0.3, len(SHARES))
    values = 0.5 + 0.1 * cost[:, None] + np.random.default_rng(6).normal(0, 1e-4, (len(SHARES), 3))
    mean, _ = Surface(SHARES, _runs(values), cost).networks
    assert mean == pytest.approx(np.full(len(SHARES), 0.5), abs=1e-3)


def test_draws_have_the_mean_and_covariance_of_what_is_believed() -> None:
    surface = Surface(SHARES, _runs(_values(np.random.default_rng(7), 4)))
    mean, covariance = surface.networks
    drawn = surface.draw(mean, covariance, 20_000, np.random.default_rng(0))
    widened = surface.freedom / (surface.freedom - 2)  # a t distribution's
    assert drawn.mean(0) == pytest.approx(mean, abs=1e-4)
    assert np.cov(drawn.T) == pytest.approx(covariance * widened, abs=0.1 * covariance.max())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_networks_on_a_line_are_no_obstacle(axis: int) -> None:
    """A base of one depth has no point of the triangle beside the opposite edge."""
    line = lattice(12)[np.isclose(lattice(12)[:, axis], 0)]
    truth = peak((1 / 3, 1 / 3, 1 / 3))(line)
    rng = np.random.default_rng(8)
    runs = _runs(truth[:, None] + rng.normal(0, 1e-4, (len(line), 2)))
    assert Surface(line, runs).networks[0] == pytest.approx(truth, abs=1e-3)


def test_few_networks_have_a_constant_instead_of_a_quadratic() -> None:
    few = SHARES[:5]
    surface = Surface(few, _runs(TRUTH[:5, None] + np.array([[0.001, -0.001, 0.0]])))
    assert not surface.quadratic
    assert Surface(SHARES, _runs(_values(np.random.default_rng(9), 1))).quadratic
    # Far from all trainings nothing but the constant is left.
    assert surface.predict(np.array([[1.0, 0.0, 0.0]]))[0] == pytest.approx(
        [TRUTH[:5].mean()], abs=0.02
    )
