"""The fit's verdicts, where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scaling_search.fit import Fit, coefficients_of
from scaling_search.shares import PUBLISHED, Shares
from tests.scaled import accuracies_of, candidates_at, fitted, lattice, peak

SHARES = lattice(5)
OPTIMUM = (0.2, 0.4, 0.4)


def _values(seed: int, seeds: int = 4, noise: float = 0.005, depth: float = 0.06) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = peak(OPTIMUM, depth)(SHARES)
    return truth[:, None] + rng.normal(0, noise, (len(SHARES), seeds))


def _covers(fit: Fit, optimum: tuple[float, float, float]) -> bool:
    assert fit.region is not None
    nearest = int(((fit.points - np.array(optimum)) ** 2).sum(1).argmin())
    return bool(fit.region[nearest])


@pytest.mark.slow
def test_the_region_holds_the_true_optimum_about_as_often_as_it_says() -> None:
    """40 fits; nine in ten are said, and fewer than 32 have a chance of .01 then."""
    fits = [fitted(_values(seed), SHARES) for seed in range(40)]
    assert sum(_covers(fit, OPTIMUM) for fit in fits) >= 32
    assert all(fit.resolved for fit in fits)
    assert np.mean([fit.region.mean() for fit in fits if fit.region is not None]) < 0.3


def test_the_optimum_is_found_and_the_more_seeds_the_smaller_the_region() -> None:
    few, many = fitted(_values(0, 2), SHARES), fitted(_values(0, 40), SHARES)
    assert many.optimum is not None
    assert many.optimum.values == pytest.approx(OPTIMUM, abs=0.06)
    assert few.region is not None
    assert many.region is not None
    assert many.region.sum() < few.region.sum()
    intervals = many.intervals()
    assert intervals is not None
    for (low, high), best in zip(intervals.values(), OPTIMUM, strict=True):
        assert low - 0.03 <= best <= high + 0.03
        assert low <= high


def test_equal_networks_are_rarely_called_different() -> None:
    rng = np.random.default_rng(0)
    fits = [fitted(rng.normal(0.5, 0.01, (len(SHARES), 2)), SHARES) for _ in range(100)]
    false_alarms = sum(fit.resolved for fit in fits)
    assert false_alarms <= 8  # P(more | 2.5 %) = .001
    assert stats.kstest([fit.p_value for fit in fits], "uniform").pvalue > 0.001


def test_where_noise_explains_all_the_region_is_everything() -> None:
    fit = fitted(_values(1, seeds=2, noise=0.05, depth=0.0), SHARES)
    assert not fit.resolved
    assert fit.region is not None
    assert fit.region.all()


def test_the_truly_best_is_best_or_tied() -> None:
    """In at least 95 % of grids; of 60, fewer than 53 have a chance of .01."""
    best = int(peak(OPTIMUM)(SHARES).argmax())
    kept = 0
    for seed in range(60):
        fit = fitted(_values(seed, seeds=2), SHARES)
        digest = candidates_at(SHARES)[best].architecture.digest
        kept += digest in {s.candidate.architecture.digest for s in (fit.best, *fit.tied)}
    assert kept >= 53


def test_standings_are_ordered_and_own_trainings_are_kept() -> None:
    values = _values(3)
    fit = fitted(values, SHARES)
    estimates = [s.estimate for s in fit.standings]
    assert estimates == sorted(estimates, reverse=True)
    assert len(fit.standings) == len(SHARES)
    own = {s.candidate.architecture.digest: s.mean for s in fit.standings}
    for candidate, row in zip(candidates_at(SHARES), values, strict=True):
        assert own[candidate.architecture.digest] == pytest.approx(row.mean())
    assert fit.standings[0].error == 0
    assert fit.standings[0].tied


def test_of_two_networks_a_tie_is_nearly_a_t_test() -> None:
    """Far apart on the triangle they share no strength but the prior's."""
    two = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    rng = np.random.default_rng(0)
    apart = fitted(np.array([0.9, 0.5])[:, None] + rng.normal(0, 0.01, (2, 4)), two)
    assert apart.tied == ()
    assert apart.resolved
    equal = fitted(rng.normal(0.5, 0.01, (2, 4)), two)
    assert len(equal.tied) == 1


def test_one_training_or_one_network_decides_nothing() -> None:
    one = fitted(np.array([[0.5]]), SHARES[:1])
    assert (one.surface, one.tied, one.resolved) == (None, (), False)
    assert math.isnan(one.noise)
    assert one.chances() == {one.best.candidate.architecture.digest: 1.0}
    two = fitted(np.array([[0.5], [0.9]]), SHARES[:2])
    assert len(two.tied) == 1
    assert not two.resolved
    assert two.optimum is None
    assert two.intervals() is None


def test_few_networks_have_no_optimum_but_a_best() -> None:
    values = np.array([0.5, 0.6, 0.7])[:, None] + np.array([[0.0, 0.001, -0.001]])
    fit = fitted(values, SHARES[:3])
    assert fit.resolved
    assert fit.optimum is None
    assert fit.best.candidate.shares.values == pytest.approx(SHARES[2])


def test_accuracies_without_noise_are_certain() -> None:
    fit = fitted(_values(0, noise=0.0), SHARES)
    assert fit.resolved
    assert fit.tied == ()
    assert fit.optimum is not None
    assert fit.optimum.values == pytest.approx(OPTIMUM, abs=0.03)
    flat = fitted(np.full((len(SHARES), 2), 0.5), SHARES)
    assert not flat.resolved


def test_untrained_candidates_are_left_out_and_none_is_an_error() -> None:
    candidates = candidates_at(SHARES)
    values = _values(0)
    values[[2, 5]] = np.nan
    fit = Fit(candidates, accuracies_of(candidates, values), target=2.0, seed=0)
    assert len(fit.standings) == len(SHARES) - 2
    with pytest.raises(ValueError, match=r"Every trial of the grid failed; trials\.csv has"):
        Fit(candidates, {}, target=2.0, seed=0)


def test_the_dearer_networks_lead_is_corrected_for() -> None:
    """All are equal but for what their cost buys: nothing is resolved, unlike without a word on
    cost."""
    rng = np.random.default_rng(0)
    ratios = 2 * np.exp(0.5 * SHARES[:, 0] ** 2 + rng.normal(0, 0.05, len(SHARES)))
    values = 0.5 + 0.1 * np.log(ratios)[:, None] + rng.normal(0, 0.002, (len(SHARES), 4))
    assert not fitted(values, SHARES, ratios).resolved
    assert fitted(values, SHARES).resolved


def test_chances_sum_to_one_and_favour_the_best() -> None:
    fit = fitted(_values(0), SHARES)
    chances = fit.chances()
    assert sum(chances.values()) == pytest.approx(1)
    assert max(chances, key=lambda d: chances[d]) in {
        s.candidate.architecture.digest for s in fit.standings[:3]
    }


def test_the_same_trainings_give_the_same_fit() -> None:
    one, two = (fitted(_values(6), SHARES) for _ in range(2))
    assert one.optimum == two.optimum
    assert one.region is not None
    assert two.region is not None
    assert np.array_equal(one.region, two.region)
    assert one.chances() == two.chances()


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
@settings(max_examples=50)
def test_constants_double_the_cost(parts: list[float]) -> None:
    shares = Shares(*(part / sum(parts) for part in parts))
    assert coefficients_of(shares).product == pytest.approx(2, rel=4e-3)
    assert Shares.of(shares.coefficients()).values == pytest.approx(shares.values)


def test_published_shares() -> None:
    """Facts: .279, .292, .428."""
    assert PUBLISHED.values == pytest.approx((0.2794, 0.2922, 0.4284), abs=2e-4)


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_networks_without_a_pattern_are_said_to_have_none(noise: float) -> None:
    """Each network has an accuracy of its own: more seeds of it are no more networks."""
    patternless = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        own = 0.6 + rng.normal(0, 0.01, (len(SHARES), 1))
        patternless += fitted(own + rng.normal(0, noise, (len(SHARES), 6)), SHARES).patternless
    assert patternless >= 17


@pytest.mark.parametrize("off", [0.0, 0.003])
def test_networks_near_a_strong_quadratic_have_a_pattern(off: float) -> None:
    rng = np.random.default_rng(1)
    truth = peak(OPTIMUM)(SHARES) + rng.normal(0, off, len(SHARES))
    fit = fitted(truth[:, None] + rng.normal(0, 0.001, (len(SHARES), 6)), SHARES)
    assert fit.rough == (off > 0)
    assert fit.resolved
    assert not fit.patternless
