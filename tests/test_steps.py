"""The walk near a cost, on staircases where the answer is plain."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling_search.compound import Coefficients, ScalingError
from scaling_search.steps import Index, find_steps, reach, thinned, walk
from search_spaces.rounding import Rounding
from search_spaces.zoo import efficientnet_b0

B0 = efficientnet_b0()

rises = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(rises, rises, rises, st.floats(0.5, 4), st.floats(0, 1))
def test_walk_finds_all_that_are_near(
    depth: list[float], width: list[float], resolution: list[float], low: float, length: float
) -> None:
    """Resolution rises; depth and width need not."""
    sums = list(itertools.accumulate(resolution))

    def cost(index: Index) -> float:
        return depth[index[0]] + width[index[1]] + sums[index[2]]

    sizes = len(depth), len(width), len(resolution)
    high = low + length
    everywhere = itertools.product(range(sizes[0]), range(sizes[1]), range(sizes[2]))
    expected = [index for index in everywhere if low <= cost(index) <= high]
    assert list(walk(cost, sizes, low, high)) == expected


def test_walk_asks_for_few() -> None:
    asked: set[Index] = set()

    def cost(index: Index) -> float:
        asked.add(index)
        return sum(index)

    assert len(list(walk(cost, (30, 30, 30), 29, 29))) == 465
    assert len(asked) < 3000  # of 27,000


@pytest.mark.parametrize(
    ("size", "number", "expected"), [(3, 3, [0, 1, 2]), (9, 3, [0, 4, 8]), (5, 9, [0, 1, 2, 3, 4])]
)
def test_thinned(size: int, number: int, expected: list[int]) -> None:
    assert list(thinned(range(size), number)) == expected


def test_steps_of_b0() -> None:
    steps = find_steps(B0, [[1.0, 1.05, 1.25, 1.3], [1.0, 1.1], [1.0, 1.15]], Rounding())
    assert [step.values for step in steps.axes[0]] == [(1.0,), (1.05, 1.25), (1.3,)]
    assert steps.axes[0][1].ratio == pytest.approx(1.4765, abs=1e-4)
    index = steps.index()(Coefficients(1.25, 1.1, 1.15))
    assert index == (1, 1, 1)
    assert steps.triples(index) == [Coefficients(1.05, 1.1, 1.15), Coefficients(1.25, 1.1, 1.15)]
    network = steps.network(index)
    assert (network.resolution, network.num_blocks) == (256, 23)
    shares = steps.shares(index)
    assert shares is not None
    assert str(shares) == "0.49/0.17/0.33"
    assert steps.shares((0, 0, 0)) is None


def test_steps_are_cheapest_first() -> None:
    """225 px * 1.01 rounds to 224, below the base."""
    values = [[1.0], [1.0], [1.0, 1.01, 1.1]]
    steps = find_steps(replace(B0, resolution=225), values, Rounding())
    assert [step.values for step in steps.axes[2]] == [(1.01,), (1.0,), (1.1,)]


def test_reach_goes_on_where_the_formula_s_bound_is_not_enough() -> None:
    def linear(coefficients: Coefficients) -> float:
        return 0.3 + 0.7 * coefficients.alpha

    def nothing(coefficients: Coefficients) -> float:
        return 1.0

    def too_deep(coefficients: Coefficients) -> float:
        raise ScalingError("blocks")

    assert reach(linear, "depth", 2.0, 1.6) == 2.0
    assert reach(linear, "depth", 2.0, 2.0) == 2**1.5
    assert reach(nothing, "depth", 2.0, 2.0) == 2.0
    assert reach(too_deep, "depth", 2.0, 2.0) == 2.0
    assert reach(linear, "depth", 0.5, 2.0) == 0.5
