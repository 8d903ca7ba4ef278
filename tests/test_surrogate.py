"""The surrogate against scikit-learn's Gaussian process, closed forms and its own draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Kernel

from nas.samplers.features import Features, Networks
from nas.samplers.history import Choices
from nas.samplers.surrogate import Linear, Part, Radial, Surrogate, fit, misfit, parts_for
from tests.sampling import Options, distributions, uneven

OPTIONS: Options = {
    "block1.op": ("conv", "mbconv", "none"),
    "block2.op": ("conv", "mbconv", "none"),
    "block1.kernel": (3, 5, 7),
    "block2.kernel": (3, 5, 7),
    "only": (True,),
}
CHOICES = Choices(distributions(OPTIONS))
FEATURES = Features(
    CHOICES, lambda networks: np.array([[1 + uneven(dict(n)), 5.0] for n in networks])
)
JITTER = 1e-8
PRIOR_MEAN, PRIOR_SPREAD = np.array([-2.0, -3.0]), np.array([1.5, 3.0])
"""Of the logarithms of a part's variance and of the noise's."""

ALONE: dict[str, tuple[Part, Callable[[float], Kernel]]] = {
    "linear": (Linear("levels"), lambda s: ConstantKernel(s) * DotProduct(1e-9)),
    "pairs": (
        Linear("levels", degree=2),
        lambda s: ConstantKernel(s) * DotProduct(1e-9) ** 2,
    ),
    "radial": (Radial("one-hot", length=1.3), lambda s: ConstantKernel(s) * RBF(1.3)),
}
alone = pytest.mark.parametrize(("part", "kernel"), ALONE.values(), ids=ALONE)


def _drawn(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([CHOICES.draw(rng) for _ in range(number)])


def _values(rows: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    """Additive, with noise; far from zero in mean and unit."""
    rng = np.random.default_rng(seed)
    weights = np.linspace(1, 2, rows.shape[1])
    return 70 + 0.1 * (rows @ weights + noise * rng.standard_normal(len(rows)))


def _scikit_learn_s(kernel: Kernel, variances: np.ndarray) -> GaussianProcessRegressor:
    given: dict[str, Any] = {"alpha": variances, "optimizer": None}
    return GaussianProcessRegressor(kernel, normalize_y=True, **given)


@alone
def test_the_posterior_is_scikit_learn_s(part: Part, kernel: Callable[[float], Kernel]) -> None:
    rows, scale, noise = _drawn(25), 0.7, 0.05
    values, extra = _values(rows, 0.3), np.linspace(0, 0.01, 25)
    networks, others = FEATURES(rows), FEATURES(_drawn(12, seed=5))
    ours = Surrogate([part], np.array([scale, noise]), networks, values, extra)
    theirs = _scikit_learn_s(kernel(scale), noise + JITTER + extra / values.var())
    theirs.fit(networks[part.columns], values)
    mean, deviation = theirs.predict(others[part.columns], return_std=True)
    covariance: Any = theirs.predict(others[part.columns], return_cov=True)[1]
    assert ours.mean(others) == pytest.approx(mean, rel=1e-9)
    assert ours.mean_and_deviation(others)[0] == pytest.approx(mean, rel=1e-9)
    assert ours.mean_and_deviation(others)[1] == pytest.approx(deviation, rel=1e-5)
    first, second = FEATURES(_drawn(12, seed=5)[:4]), FEATURES(_drawn(12, seed=5)[4:])
    assert ours.covariance(first, second) == pytest.approx(covariance[:4, 4:], rel=1e-5, abs=1e-9)
    assert ours.noise_variance == pytest.approx(noise * values.var())


@alone
def test_the_likelihood_is_scikit_learn_s(part: Part, kernel: Callable[[float], Kernel]) -> None:
    rows = _drawn(25)
    values, networks = _values(rows, 0.3), FEATURES(rows)
    loss = misfit([part], networks, values, np.zeros(25))

    def theirs(scale: float, noise: float) -> float:
        model = _scikit_learn_s(kernel(scale), np.full(25, noise + JITTER))
        likelihood = model.fit(networks[part.columns], values).log_marginal_likelihood()
        away = (np.log([scale, noise]) - PRIOR_MEAN) / PRIOR_SPREAD
        return float(0.5 * away @ away - likelihood)

    difference = loss(np.log([0.7, 0.05]))[0] - loss(np.log([2.0, 0.3]))[0]
    assert difference == pytest.approx(theirs(0.7, 0.05) - theirs(2.0, 0.3), rel=1e-6)


def test_the_sum_of_all_parts_follows_the_closed_form() -> None:
    rows = _drawn(30)
    networks, others = FEATURES(rows), FEATURES(_drawn(10, seed=5))
    values, parts = _values(rows, 0.5), parts_for(networks)
    assert len(parts) == 9
    scales = np.linspace(0.1, 1.0, 10)
    within, across, prior = (
        np.sum([s * p.covariance(a, b) for s, p in zip(scales, parts, strict=False)], axis=0)
        for a, b in ((networks, networks), (others, networks), (others, others))
    )
    inverse = np.linalg.inv(within + (scales[-1] + JITTER) * np.eye(30))
    mean = values.mean() + across @ inverse @ (values - values.mean())
    variance = np.diag(prior - across @ inverse @ across.T) * values.var()
    ours = Surrogate(parts, scales, networks, values, np.zeros(30)).mean_and_deviation(others)
    assert ours[0] == pytest.approx(mean, rel=1e-9)
    assert ours[1] == pytest.approx(np.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize("part", parts_for(FEATURES(_drawn(2))), ids=repr)
def test_a_part_s_forms_agree(part: Part) -> None:
    a, b, weights = FEATURES(_drawn(9)), FEATURES(_drawn(7, seed=5)), np.linspace(-1, 2, 7)
    covariance = part.covariance(a, b)
    assert part.weighted(b, weights)(a) == pytest.approx(covariance @ weights, rel=1e-9)
    assert part.variance(a) == pytest.approx(np.diag(part.covariance(a, a)), rel=1e-9)
    rng = np.random.default_rng(0)
    drawn = np.array([part.draw(rng, a)(a) for _ in range(4000)])
    own = part.covariance(a, a)
    assert np.abs(drawn.mean(0)).max() < 5 * np.sqrt(own.max() / 4000)
    assert np.abs(drawn.T @ drawn / 4000 - own).max() < 0.15 * own.max()


def test_the_gradient_of_the_likelihood_is_right() -> None:
    rows = _drawn(20)
    networks = FEATURES(rows)
    parts = parts_for(networks)
    loss = misfit(parts, networks, _values(rows, 0.5), np.linspace(0, 0.02, 20))
    for seed in range(3):
        logs = np.random.default_rng(seed).normal(-2, 1.5, len(parts) + 1)
        numerical = approx_fprime(logs, lambda at: loss(at)[0], 1e-6)
        assert loss(logs)[1] == pytest.approx(numerical, rel=1e-3, abs=1e-4)


def test_fit_ends_where_no_step_makes_the_measurements_likelier() -> None:
    rows = _drawn(60)
    networks = FEATURES(rows)
    parts, values = parts_for(networks), _values(rows, 1.0)
    logs = np.log(fit(parts, networks, values, np.zeros(60)))
    loss = misfit(parts, networks, values, np.zeros(60))
    for i in range(len(logs)):
        for step in (-0.5, 0.5):
            assert loss(logs + step * np.eye(len(logs))[i])[0] > loss(logs)[0] - 0.05


def test_noise_is_told_from_what_repeats() -> None:
    rows = _drawn(150)
    networks = FEATURES(rows)
    parts, clean = parts_for(networks), _values(rows, 0.0)
    shares = []
    for noise in (0.0, 0.05, 0.5):
        values = clean + noise * np.random.default_rng(0).standard_normal(150)
        shares.append(np.sqrt(fit(parts, networks, values, np.zeros(150))[-1]) * values.std())
    assert shares[0] < 0.005
    assert shares[1:] == pytest.approx([0.05, 0.5], rel=0.2)


def test_draws_have_the_posterior_s_mean_and_deviation() -> None:
    rows = _drawn(15)
    networks, others = FEATURES(rows), FEATURES(np.concatenate([rows[:3], _drawn(6, seed=5)]))
    parts, values = parts_for(networks), _values(rows, 0.5)
    scales = fit(parts, networks, values, np.zeros(15))
    surrogate = Surrogate(parts, scales, networks, values, np.linspace(0, 0.005, 15))
    mean, deviation = surrogate.mean_and_deviation(others)
    rng = np.random.default_rng(0)
    drawn = np.array([surrogate.draw(rng)(others) for _ in range(3000)])
    assert np.all(np.abs(drawn.mean(0) - mean) < 4.5 * deviation / np.sqrt(3000))
    assert drawn.std(0) == pytest.approx(deviation, rel=0.08)


def test_a_draw_is_one_function() -> None:
    networks = FEATURES(_drawn(10))
    parts = parts_for(networks)
    values = _values(_drawn(10), 0.5)
    surrogate = Surrogate(parts, np.ones(len(parts) + 1), networks, values, np.zeros(10))
    function = surrogate.draw(np.random.default_rng(0))
    assert np.array_equal(function(networks), function(networks))
    assert function(FEATURES(_drawn(10)[4:6])) == pytest.approx(function(networks)[4:6])


def test_nothing_is_uncertain_where_it_was_measured_without_noise() -> None:
    rows = np.unique(_drawn(20), axis=0)
    networks, values = FEATURES(rows), _values(rows, 1.0)
    parts = parts_for(networks)
    scales = np.array([0.3] * len(parts) + [0.0])
    surrogate = Surrogate(parts, scales, networks, values, np.zeros(len(rows)))
    mean, deviation = surrogate.mean_and_deviation(networks)
    assert mean == pytest.approx(values, rel=1e-6)
    assert deviation.max() < 1e-3 * values.std()
    assert surrogate.mean_and_deviation(FEATURES(_drawn(50, seed=5)))[1].max() > 0.1 * values.std()


def test_a_less_certain_measurement_counts_less() -> None:
    rows = np.zeros((2, 5), int)
    networks, values = FEATURES(rows), np.array([1.0, 3.0])
    parts = parts_for(networks)
    scales = np.array([1.0] * len(parts) + [0.1])
    alike, first = (
        float(Surrogate(parts, scales, networks, values, np.array(extra)).mean(networks)[0])
        for extra in ([0.0, 0.0], [0.0, 100.0])
    )
    assert alike == pytest.approx(2)
    assert first < 1.2


@pytest.mark.parametrize("value", [0.0, 0.1, -3e-7, 1e9])
def test_equal_values_are_believed_everywhere(value: float) -> None:
    rows = _drawn(30)
    networks, values = FEATURES(rows), np.full(30, value)
    parts = parts_for(networks)
    extra = np.linspace(0, 1e-4, 30)
    surrogate = Surrogate(parts, fit(parts, networks, values, extra), networks, values, extra)
    mean, deviation = surrogate.mean_and_deviation(FEATURES(_drawn(10, seed=5)))
    assert mean == pytest.approx(np.full(10, value))
    assert np.all(np.isfinite(deviation) & (deviation > 0))


@pytest.mark.parametrize("number", [1, 2, 200])
def test_a_network_measured_again_and_again(number: int) -> None:
    rows = np.zeros((number, 5), int)
    networks, values = FEATURES(rows), 1 + 1e-9 * np.arange(number)
    parts = parts_for(networks)
    scales = fit(parts, networks, values, np.zeros(number))
    surrogate = Surrogate(parts, scales, networks, values, np.zeros(number))
    assert surrogate.mean(FEATURES(_drawn(10))) == pytest.approx(np.ones(10))


def test_rounding_errors_do_not_end_a_search() -> None:
    """Here the covariance is no longer positive definite by what floats can hold."""
    networks = FEATURES(np.zeros((100, 5), int))
    values = np.sin(np.arange(100))
    surrogate = Surrogate(
        [Linear("constant")], np.array([1e12, 0.0]), networks, values, np.zeros(100)
    )
    assert surrogate.mean(networks) == pytest.approx(np.full(100, values.mean()), abs=0.05)


def test_only_the_columns_that_are_there_have_parts() -> None:
    def columns(features: Features, width: int) -> set[str]:
        networks: Networks = features(np.zeros((1, width), int))
        return {part.columns for part in parts_for(networks)}

    flat = Choices(distributions({"kernel": (3, 5), "width": (8, 16)}))
    assert columns(FEATURES, 5) - columns(Features(CHOICES, None), 5) == {"costs"}
    assert columns(Features(CHOICES, None), 5) - columns(Features(flat, None), 2) == {"decisions"}


def test_what_is_expected_changes_neither_means_nor_noise() -> None:
    """Of measurements that are still to come."""
    rows, others = _drawn(30), _drawn(12, seed=5)
    networks, values = FEATURES(rows), _values(rows, 0.3)
    parts = parts_for(networks)
    scales = fit(parts, networks, values, np.zeros(30))
    before = Surrogate(parts, scales, networks, values, np.zeros(30))
    expected = np.append(values, before.mean(FEATURES(others)))
    both = FEATURES(np.concatenate([rows, others]))
    after = Surrogate(parts, scales, both, expected, np.zeros(42), before.centre)
    asked = FEATURES(_drawn(20, seed=6))
    assert after.noise_variance == before.noise_variance
    assert after.mean(asked) == pytest.approx(before.mean(asked))
    assert (after.mean_and_deviation(asked)[1] <= before.mean_and_deviation(asked)[1] + 1e-9).all()
