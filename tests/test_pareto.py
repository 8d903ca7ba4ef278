"""Fronts and hypervolumes of points in the plane."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.pareto import Point, hypervolume, pareto_front, spread_over

_points = st.lists(st.tuples(st.integers(1, 50).map(float), st.sampled_from([0.1, 0.2, 0.5, 0.9])))


@given(_points)
def test_the_front_is_what_nothing_beats(points: list[Point]) -> None:
    front = pareto_front(points)
    unbeaten = {
        (cost, value)
        for cost, value in points
        if not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
    }
    assert set(front) == unbeaten
    assert front == sorted(front)


def test_hypervolume_by_hand() -> None:
    # From 1 to 10 nothing, to 100 accuracy 0.5, to 1000 accuracy 0.9: a third of the box each.
    points = [(10.0, 0.5), (100.0, 0.9), (500.0, 0.7)]
    assert hypervolume(points, 1, 1000) == pytest.approx((0.5 + 0.9) / 3)


def test_the_ends_of_the_box() -> None:
    assert hypervolume([], 1, 10) == 0
    assert hypervolume([(1.0, 1.0)], 1, 10) == pytest.approx(1)
    assert hypervolume([(10.0, 1.0)], 1, 10) == 0
    assert hypervolume([(11.0, 1.0)], 1, 10) == 0
    assert hypervolume([(0.5, 1.0)], 1, 10) == pytest.approx(1)


@given(_points)
def test_it_is_what_a_budget_buys_on_average(points: list[Point]) -> None:
    budgets = [math.exp(math.log(60) * (i + 0.5) / 4000) for i in range(4000)]
    bought = [max((a for c, a in points if c <= budget), default=0.0) for budget in budgets]
    assert hypervolume(points, 1, 60) == pytest.approx(sum(bought) / 4000, abs=1e-3)


@given(_points, _points)
def test_more_points_never_lower_it(some: list[Point], more: list[Point]) -> None:
    assert hypervolume([*some, *more], 1, 60) >= hypervolume(some, 1, 60) - 1e-12


@given(st.integers(1, 20), st.integers(0, 40))
def test_spreading_is_even(number: int, length: int) -> None:
    indices = spread_over(number, length)
    assert len(set(indices)) == len(indices) == min(number, length)
    assert indices == sorted(indices)
    assert all(0 <= index < length for index in indices)
    if 1 < number <= length:
        assert (indices[0], indices[-1]) == (0, length - 1)
        gaps = [b - a for a, b in itertools.pairwise(indices)]
        assert max(gaps) - min(gaps) <= 1
