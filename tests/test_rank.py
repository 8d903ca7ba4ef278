"""The statistics of rankings: published numbers, simulations, properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.proxies.rank import (
    bootstrap_interval,
    correlation_of_tau,
    kendall,
    seed_agreement,
    seed_noise,
    selection_gain,
    single_trial_tau,
    tau_interval,
    tau_of_correlation,
)

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]],
    dtype=float,
)
"""Shrout & Fleiss 1979, table 2: 6 targets, 4 judges; ICC(1, 1) = .17."""

ROWS = st.lists(st.integers(-50, 50), min_size=6, max_size=20)


def related(rng: np.random.Generator, correlation: float, *shape: int) -> tuple[np.ndarray, ...]:
    """Truth `(n,)` and trials `(n, seeds)` with a known correlation."""
    truth = rng.normal(size=shape[0])
    noise = rng.normal(size=shape)
    return truth, correlation * truth[:, None] + math.sqrt(1 - correlation**2) * noise


def test_kendall_with_ties() -> None:
    # 6 pairs: 4 concordant, 1 discordant, 1 tied in x; tau-b = 3 / sqrt(5 * 6).
    assert kendall(np.array([1, 2, 2, 3]), np.array([1, 2, 4, 3])) == pytest.approx(3 / 30**0.5)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=20))
def test_kendall_is_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    expected = stats.kendalltau(x, y)[0] if np.ptp(x) and np.ptp(y) else 0.0
    assert kendall(x, y) == pytest.approx(expected)


@given(ROWS)
def test_kendall_knows_order_alone(row: list[int]) -> None:
    x = np.array(row, dtype=float)
    same = 1.0 if len(set(row)) > 1 else 0.0
    assert kendall(x, np.exp(x / 10)) == pytest.approx(same)
    assert kendall(x, -x) == pytest.approx(-same)


def test_a_constant_ranks_nothing() -> None:
    assert kendall(np.zeros(8), np.arange(8)) == 0.0


def test_single_trials_rank_worse_than_their_mean() -> None:
    truth, luck = np.arange(6.0), np.array([3.0, 0, 0, 0, 0, -3])
    trials = np.stack([truth + luck, truth - luck], axis=1)
    assert kendall(trials.mean(axis=1), truth) == pytest.approx(1)
    assert single_trial_tau(trials, truth) < 0.9


def test_the_interval_is_that_of_fieller_hartley_and_pearson() -> None:
    # atanh(.6) = .6931; 1.95996 * sqrt(.437 / 8) = .4581.
    assert tau_interval(0.6, 12) == pytest.approx((0.2309, 0.8181), abs=2e-4)


@given(st.floats(-1, 1), st.integers(6, 100))
def test_the_interval_holds_tau_and_narrows_with_n(tau: float, n: int) -> None:
    low, high = tau_interval(tau, n)
    assert -1 < low < high < 1
    assert low <= tau <= high or abs(tau) > 1 - 2 / (n * (n - 1))
    wider = tau_interval(tau, n + 10)
    assert wider[1] - wider[0] < high - low or abs(tau) > 0.9


@pytest.mark.parametrize(("n", "correlation"), [(6, 0.0), (12, 0.5), (12, 0.8)])
def test_the_interval_covers_the_true_tau(n: int, correlation: float) -> None:
    rng = np.random.default_rng(n)
    true, covered = tau_of_correlation(correlation), 0
    for _ in range(400):
        truth, trials = related(rng, correlation, n, 1)
        low, high = tau_interval(single_trial_tau(trials, truth), n)
        covered += low <= true <= high
    assert covered / 400 > 0.9


def test_chance_rarely_passes_for_a_ranking() -> None:
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(400):
        truth, trials = related(rng, 0.0, 12, 2)
        passed += tau_interval(single_trial_tau(trials, truth), 12)[0] > 0
    assert passed / 400 < 0.05


def test_noise_by_hand() -> None:
    noise = seed_noise(np.array([[1.0, 3.0], [5.0, 7.0]]))
    assert noise.within == pytest.approx(math.sqrt(2))
    assert noise.between == pytest.approx(math.sqrt(7))
    assert noise.reliability == pytest.approx(7 / 9)


def test_reliability_is_the_published_icc() -> None:
    noise = seed_noise(SHROUT_FLEISS)
    assert noise.reliability == pytest.approx(0.166, abs=5e-4)
    assert noise.interval == pytest.approx((0.0, 0.72), abs=5e-3)  # -0.13 to 0.72, cut at 0


@pytest.mark.parametrize(("spread", "reliability"), [(0.0, 0.0), (1.0, 1.0)])
def test_noise_of_trials_without_noise(spread: float, reliability: float) -> None:
    noise = seed_noise(np.repeat(spread * np.arange(6.0)[:, None], 2, axis=1))
    assert noise.reliability == reliability
    assert noise.permitted_tau == pytest.approx(reliability)


@pytest.mark.parametrize("reliability", [0.2, 0.5, 0.9])
def test_noise_permits_the_tau_that_it_says(reliability: float) -> None:
    truth, trials = related(np.random.default_rng(1), math.sqrt(reliability), 3000, 2)
    noise = seed_noise(trials)
    assert noise.reliability == pytest.approx(reliability, abs=0.03)
    assert single_trial_tau(trials, truth) == pytest.approx(noise.permitted_tau, abs=0.03)
    expected = tau_of_correlation(noise.reliability)
    assert seed_agreement(trials) == pytest.approx(expected, abs=0.03)


@given(st.floats(-1, 1))
def test_tau_and_correlation_are_inverse(correlation: float) -> None:
    assert correlation_of_tau(tau_of_correlation(correlation)) == pytest.approx(correlation)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (10, 1.53875), (50, 2.24907), (1000, 3.24144)],
)
def test_the_gain_of_a_perfect_proxy_is_the_expected_maximum(trials: int, expected: float) -> None:
    assert selection_gain(1.0, trials) == pytest.approx(expected, abs=1e-4)


def test_the_gain_is_what_choosing_the_best_looking_network_gives() -> None:
    rng = np.random.default_rng(2)
    won = []
    for _ in range(4000):
        truth, trials = related(rng, 0.6, 20, 1)
        won.append(truth[trials[:, 0].argmax()])
    expected = selection_gain(tau_of_correlation(0.6), 20)
    assert np.mean(won) == pytest.approx(expected, abs=4 / math.sqrt(4000))


def test_the_bootstrap_of_a_mean_is_its_normal_interval() -> None:
    values = np.random.default_rng(3).normal(size=200)
    low, high = bootstrap_interval(lambda rows: float(values[rows].mean()), 200, seed=0)
    margin = 1.96 * values.std() / math.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.02)
    assert (low, high) == bootstrap_interval(lambda rows: float(values[rows].mean()), 200, seed=0)
