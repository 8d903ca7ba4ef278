"""The reward: published values, and what must hold for all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cli import UserError
from nas.costs.reward import Reward

accuracies = st.floats(0.001, 1)
costs = st.integers(1, 10**12)
targets = st.floats(1e3, 1e12)
exponents = st.floats(-2, -0.001)


@pytest.mark.parametrize(
    ("macs", "hard", "expected"),
    [
        (800_000_000, False, 0.71447),
        (400_000_000, False, 0.75),
        (800_000_000, True, 0.375),
        (200_000_000, True, 0.75),
    ],
)
def test_golden_values(macs: int, hard: bool, expected: float) -> None:
    assert Reward(400e6, hard=hard)(0.75, macs) == pytest.approx(expected, abs=1e-5)


def test_twice_the_cost_is_worth_five_percent_of_accuracy() -> None:
    reward = Reward(400e6)
    assert reward(0.75 * 1.05, 800_000_000) == pytest.approx(reward(0.75, 400_000_000), rel=3e-3)


@given(accuracies, accuracies, costs, targets, exponents, st.booleans())
def test_more_accuracy_is_better(
    one: float, other: float, macs: int, target: float, w: float, hard: bool
) -> None:
    reward = Reward(target, w, hard)
    low, high = sorted([one, other])
    assert reward(low, macs) <= reward(high, macs)


@given(accuracies, costs, costs, targets, exponents, st.booleans())
def test_more_cost_is_never_better(
    accuracy: float, one: int, other: int, target: float, w: float, hard: bool
) -> None:
    reward = Reward(target, w, hard)
    low, high = sorted([one, other])
    assert reward(accuracy, low) >= reward(accuracy, high)


@given(accuracies, costs, targets)
def test_the_hard_variant_is_flat_up_to_the_target(
    accuracy: float, macs: int, target: float
) -> None:
    expected = accuracy if macs <= target else accuracy * target / macs
    assert Reward(target, hard=True)(accuracy, macs) == pytest.approx(expected)


@given(accuracies, costs, targets)
def test_without_an_exponent_cost_does_not_count(accuracy: float, macs: int, target: float) -> None:
    assert Reward(target, w=0)(accuracy, macs) == accuracy


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
def test_a_target_is_a_positive_number(target: float) -> None:
    with pytest.raises(UserError, match=r"T of the reward must be positive, but got"):
        Reward(target)


@pytest.mark.parametrize("w", [0.07, math.nan, -math.inf, -1e308])
def test_cost_is_never_paid_for(w: float) -> None:
    with pytest.raises(UserError, match=r"--w` must be 0 or negative, .* got"):
        Reward(400e6, w)
