"""What the guided sampler weighs, against the same by hand."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from nas.samplers.belief import Belief, Contest, distinct, log_improvement
from nas.samplers.candidates import Candidates
from nas.samplers.features import Features
from nas.samplers.history import Choices
from nas.samplers.surrogate import Surrogate, parts_for
from tests.sampling import Options, distributions, uneven

OPTIONS: Options = {f"block{i}.kernel": (3, 5, 7) for i in range(5)}
CHOICES = Choices(distributions(OPTIONS))
FEATURES = Features(CHOICES, lambda nets: np.array([[1 + uneven(dict(n))] for n in nets]))
ROWS = np.array([CHOICES.draw(np.random.default_rng(i)) for i in range(20)])


def _belief(noise: float = 0.3) -> Belief:
    values = 70 + ROWS @ np.linspace(1, 0.1, 5) + noise * np.random.default_rng(1).normal(size=20)
    networks = FEATURES(ROWS)
    parts = parts_for(networks)
    scales = np.array([0.2] * len(parts) + [noise**2])
    return Belief(
        features=FEATURES,
        surrogate=Surrogate(parts, scales, networks, values, np.zeros(20)),
        measured=ROWS,
        factor=lambda costs: costs[:, 0] ** -0.07,
    )


def _all() -> list[tuple[int, ...]]:
    return list(itertools.product(range(3), repeat=5))


def _gain_left(belief: Belief, best: np.ndarray, rivals: np.ndarray, network: np.ndarray) -> float:
    """By the joint covariance of all of them, conditioned on a measurement of `network`."""
    joint = np.concatenate([network[None], best[None], rivals])
    covariance = belief.covariance(joint, joint)
    gain = covariance[:, 0] / (covariance[0, 0] + belief.noise_variance(network[None])[0])
    after = (covariance - np.outer(gain, covariance[0]))[1:, 1:]
    ahead = belief.mean(rivals) - belief.mean(best[None])[0]
    deviation = np.sqrt(after[0, 0] + np.diag(after)[1:] - 2 * after[0, 1:])
    score = ahead / deviation
    return float((deviation * norm.pdf(score) + ahead * norm.cdf(score)).sum())


def test_what_a_measurement_leaves_to_gain_is_that_of_the_joint_belief() -> None:
    belief = _belief()
    best, rivals, others = ROWS[0], distinct(ROWS[1:9]), ROWS[5:]
    found = Contest(belief, best, rivals).left_by(others)
    assert found == pytest.approx([_gain_left(belief, best, rivals, n) for n in others], rel=1e-6)


def test_the_chance_of_a_rival_is_how_often_draws_prefer_it() -> None:
    belief, rng = _belief(), np.random.default_rng(0)
    best, rivals = ROWS[0], distinct(ROWS[1:9])
    draws = (belief.draw(rng) for _ in range(1500))
    won = np.mean([draw(rivals) > draw(best[None]) for draw in draws], axis=0)
    assert Contest(belief, best, rivals).chances() == pytest.approx(won, abs=0.06)


def test_the_most_telling_network_leaves_less_to_gain_than_others() -> None:
    belief = _belief()
    candidates = Candidates(CHOICES, belief, np.random.default_rng(0))
    (best,) = candidates.best(1, set())
    proposal = candidates.most_telling(set())
    assert proposal != best
    neighbours = np.array([row for row in _all() if sum(map(int.__ne__, row, best)) == 1])
    left = Contest(belief, np.array(best), neighbours).left_by(np.array(_all()))
    rank = sorted(left).index(left[_all().index(proposal)])
    assert rank < 0.1 * len(left)


def test_a_taken_network_is_not_proposed_again() -> None:
    belief, taken = _belief(), set()
    for _ in range(5):
        proposal = Candidates(CHOICES, belief, np.random.default_rng(0)).most_telling(taken)
        assert proposal not in taken
        taken.add(proposal)


@pytest.mark.parametrize("gain", [-1e3, -80.0, -5.01, -5.0, -4.99, -1.01, -1.0, -0.99, 0.0, 4.0])
def test_the_logarithm_of_an_improvement(gain: float) -> None:
    """Against its integral over a normal deviate, pdf(gain) taken out of it."""
    until = 40 * min(1.0, 1 / max(1e-9, -gain)) + max(0.0, gain)
    integral, _ = quad(lambda t: t * np.exp(t * gain - t**2 / 2), 0, until)
    expected = norm.logpdf(gain) + np.log(integral)
    assert log_improvement(np.array([gain])) == pytest.approx(expected, rel=1e-7)


def test_a_worse_network_never_promises_more() -> None:
    gains = np.concatenate([-np.geomspace(1e6, 1e-3, 4000), np.linspace(0, 8, 1000)])
    assert (np.diff(log_improvement(gains)) > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_climb_ends_where_no_other_option_of_a_choice_is_better(seed: int) -> None:
    candidates = Candidates(CHOICES, _belief(), np.random.default_rng(0))
    heights = np.random.default_rng(seed).normal(size=3**5)
    heights += 2 * np.indices((3,) * 5).sum(0).ravel()

    def score(rows: np.ndarray) -> np.ndarray:
        return heights[rows @ 3 ** np.arange(4, -1, -1)]

    start = np.array([0, 0, 0, 0, 0])
    end = candidates.climb(score, start)
    around = np.array([row for row in _all() if sum(map(int.__ne__, row, end.tolist())) == 1])
    assert score(end[None])[0] > max(score(around).max(), score(start[None])[0])
