"""The grid: how many triples, how many distinct networks, and what each costs."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_search.candidates import Candidate, Grid, candidates_table, find_candidates, spread
from scaling_search.compound import Coefficients, ScalingError, scale
from scaling_search.shares import PUBLISHED, Shares
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0
from tests.grid_evaluators import TINY
from tests.strategies import architectures

PAPER = Coefficients(1.2, 1.1, 1.15)
GRID = Grid(selection="formula", alpha=(1.0, 2.0), beta=(1.0, 1.45), gamma=(1.0, 1.45))
"""The grid that the published counts are of."""
FORMULA = Grid(selection="formula")
B0 = efficientnet_b0()


def _near(candidates: tuple[Candidate, ...]) -> int:
    return sum(1.9 <= candidate.ratio <= 2.1 for candidate in candidates)


@pytest.mark.parametrize(
    ("tolerance", "triples"), [(0.02, 40), (0.04, 84), (0.05, 109), (0.1, 217)]
)
def test_number_of_triples(tolerance: float, triples: int) -> None:
    assert len(list(replace(GRID, tolerance=tolerance).triples())) == triples


@pytest.mark.parametrize(("depth", "networks", "near"), [("ceil", 65, 5), ("round", 77, 31)])
def test_number_of_distinct_networks(
    depth: Literal["ceil", "round"], networks: int, near: int
) -> None:
    rounding = Rounding(depth=depth, resolution_divisor=8)
    candidates = find_candidates(efficientnet_b0(), GRID, rounding)
    assert sum(len(candidate.triples) for candidate in candidates) == 109
    assert (len(candidates), _near(candidates)) == (networks, near)


def test_the_default_rounding_of_b0_is_the_published_one() -> None:
    explicit = find_candidates(efficientnet_b0(), GRID, Rounding(depth="ceil"))
    assert find_candidates(efficientnet_b0(), GRID) == explicit


def test_measured_ratios_span_the_published_range() -> None:
    ratios = [candidate.ratio for candidate in find_candidates(efficientnet_b0(), GRID)]
    assert (f"{min(ratios):.2f}", f"{max(ratios):.2f}") == ("1.89", "3.25")


def test_the_paper_s_triple_is_admitted_by_default_and_by_four_percent_only() -> None:
    assert PAPER in list(FORMULA.triples())
    assert PAPER in list(replace(FORMULA, tolerance=0.04).triples())
    assert PAPER not in list(replace(FORMULA, tolerance=0.039).triples())


def test_triples_of_one_network_are_one_candidate() -> None:
    (found,) = (c for c in find_candidates(efficientnet_b0(), GRID) if PAPER in c.triples)
    assert [triple.alpha for triple in found.triples] == [1.2, 1.25]
    assert {(triple.beta, triple.gamma) for triple in found.triples} == {(1.1, 1.15)}
    assert found.coefficients == Coefficients(1.25, 1.1, 1.15)  # product 2.0003
    assert found.product == pytest.approx(2.000281)
    assert found.architecture.name == "efficientnet-b0-a1.25-b1.1-g1.15"
    assert (found.architecture.resolution, f"{found.ratio:.2f}") == (256, "2.23")


def test_the_ends_of_the_tolerance_belong_to_it() -> None:
    """1.2 * 1.25^2 = 1.875 is 6.25 % below 2."""
    grid = replace(FORMULA, gamma=(1, 1), tolerance=0.0625)
    assert Coefficients(1.2, 1.25, 1.0) in list(grid.triples())
    assert Coefficients(1.2, 1.25, 1.0) not in list(replace(grid, tolerance=0.0624).triples())


def test_grid_values_are_the_decimals_that_people_write() -> None:
    triples = list(replace(FORMULA, tolerance=0.5).triples())
    assert {triple.alpha for triple in triples} <= {float(f"{i / 100:.2f}") for i in range(301)}
    assert triples == sorted(triples)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    step=st.sampled_from([0.05, 0.1, 0.07, 0.2]),
    low=st.sampled_from([0.9, 1.0, 1.03]),
    tolerance=st.sampled_from([0.0, 0.03, 0.05, 0.2]),
    target=st.sampled_from([0.5, 1.5, 2.0, 4.0]),
)
def test_triples_equal_brute_force(
    step: float, low: float, tolerance: float, target: float
) -> None:
    bounds = {"alpha": (low, 1.6), "beta": (1, 1.5), "gamma": (1, 1.5)}
    grid = replace(FORMULA, step=step, tolerance=tolerance, target=target, **bounds)

    def points(start: str, end: str) -> list[Fraction]:
        values = (Fraction(start) + i * Fraction(str(step)) for i in range(100))
        return [value for value in values if value <= Fraction(end)]

    expected = [
        Coefficients(float(a), float(b), float(c))
        for a in points(str(low), "1.6")
        for b in points("1", "1.5")
        for c in points("1", "1.5")
        if abs(a * b**2 * c**2 / Fraction(str(target)) - 1) <= Fraction(str(tolerance))
    ]
    assert list(grid.triples()) == expected


@pytest.mark.parametrize("name", ZOO)
def test_candidates_are_distinct_and_counted(name: str) -> None:
    base = ZOO[name]()
    candidates = find_candidates(base, FORMULA)
    assert len({candidate.architecture.digest for candidate in candidates}) == len(candidates)
    macs = count(base).macs
    for candidate in candidates:
        assert candidate.cost == count(candidate.architecture)
        assert candidate.ratio == candidate.cost.macs / macs
        digests = {scale(base, triple, 1).digest for triple in candidate.triples}
        assert digests == {candidate.architecture.digest}


@settings(deadline=None, max_examples=20)
@given(architectures())
def test_no_candidate_is_the_base(base: Architecture) -> None:
    """Tiny networks round back to themselves: 5 % of 8 channels is nothing."""
    bounds = dict.fromkeys(("alpha", "beta", "gamma"), (1, 1.2))
    grid = replace(FORMULA, step=0.1, target=1.2, tolerance=0.2, **bounds)
    try:
        candidates = find_candidates(base, grid, Rounding(resolution_divisor=1, depth="round"))
    except ScalingError:
        return
    for candidate in candidates:
        network = candidate.architecture
        assert replace(network, name=base.name, dropout=base.dropout) != base


def test_a_triple_that_rounds_back_to_the_base_is_dropped() -> None:
    bounds = {"alpha": (1, 1), "beta": (1, 1), "gamma": (1, 1.05)}
    grid = replace(FORMULA, target=1.05, tolerance=0.1, **bounds)
    # 224 * 1.05 is 235.2 px: back to 224 in steps of 32 px, 232 in steps of 8.
    with pytest.raises(ScalingError, match="No network of the grid"):
        find_candidates(efficientnet_b0(), grid, Rounding(resolution_divisor=32))
    (candidate,) = find_candidates(efficientnet_b0(), grid)
    assert candidate.architecture.resolution == 232


def test_the_table() -> None:
    table = candidates_table(find_candidates(efficientnet_b0(), GRID))
    header, _, *rows = table.splitlines()
    assert header.split()[:6] == ["alpha", "beta", "gamma", "nominal", "measured", "shares"]
    assert max(map(len, table.splitlines())) <= 110
    assert len(rows) == 65
    (row,) = (row for row in rows if row.split()[:3] == ["1.25", "1.1", "1.15"])
    assert row.split() == [
        *("1.25", "1.1", "1.15", "2.000", "2.229"),
        *("0.49/0.17/0.33", "256", "23", "9.110M", "859.9M", "+1"),
    ]


@cache
def _any_candidate() -> Candidate:
    return find_candidates(B0, GRID)[0]


def _at(*shares: tuple[float, float, float]) -> tuple[Candidate, ...]:
    """Candidates that differ in their shares only."""
    candidate = _any_candidate()
    return tuple(replace(candidate, shares=Shares(*values)) for values in shares)


def test_spread_takes_the_corners_the_published_and_then_the_farthest() -> None:
    corners = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    inner = [(0.3, 0.3, 0.4), (0.9, 0.1, 0.0), (0.5, 0.5, 0.0), (0.35, 0.3, 0.35)]
    candidates = _at(*inner, *corners)
    assert spread(candidates, 1) == candidates[:1]
    assert spread(candidates, 4) == (candidates[0], *candidates[4:])
    assert spread(candidates, 5) == (candidates[0], candidates[2], *candidates[4:])
    assert spread(candidates, 7) == spread(candidates, 99) == candidates
    with pytest.raises(ScalingError, match="`number >= 1` must hold; got 0"):
        spread(candidates, 0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(*[st.integers(0, 20)] * 3).filter(any), min_size=1, max_size=30),
    st.integers(1, 30),
)
def test_spread_covers(parts: list[tuple[int, int, int]], number: int) -> None:
    """No candidate left out is farther from the chosen than these are from one another."""
    candidates = _at(*((a / (a + b + c), b / (a + b + c), c / (a + b + c)) for a, b, c in parts))
    chosen = spread(candidates, number)
    assert len(chosen) == min(number, len(candidates))
    assert set(map(id, chosen)) <= set(map(id, candidates))

    def gap(candidate: Candidate, others: tuple[Candidate, ...]) -> float:
        points = [other.shares.values for other in others if other is not candidate]
        return min((math.dist(candidate.shares.values, p) for p in points), default=math.inf)

    left = [c for c in candidates if all(c is not other for other in chosen)]
    if number > 4 and left:
        added = sorted((gap(c, chosen) for c in chosen), reverse=True)[: number - 4]
        assert max(gap(c, chosen) for c in left) <= max(added) + 1e-9


def test_spread_of_b0() -> None:
    candidates = find_candidates(B0, Grid(target=4.0))
    chosen = spread(candidates, 16)
    assert len(chosen) == 16
    for axis in range(3):
        assert max(c.shares.values[axis] for c in chosen) == 1
    distances = [math.dist(c.shares.values, PUBLISHED.values) for c in candidates]
    assert candidates[distances.index(min(distances))] in chosen
    far = max(min(math.dist(c.shares.values, d.shares.values) for d in chosen) for c in candidates)
    assert far < 0.25


def test_nothing_near_the_target_says_what_to_do() -> None:
    message = (
        r"costs 2 times 'efficientnet-b0' within 0\.00% \(measured macs, step 0\.5; nearest of \d+ "
        r"networks costs 2\.24 times\)\. Raise"
    )
    with pytest.raises(ScalingError, match=message):
        find_candidates(B0, Grid(step=0.5, tolerance=0, alpha=(1, 1.5)))
    with pytest.raises(ScalingError, match=r"\(by the formula, step 0\.5\)"):
        find_candidates(B0, replace(FORMULA, step=0.5, tolerance=0, alpha=(1, 1.5)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("step", 0.0, "`step > 0`"),
        ("step", float("nan"), "`step > 0`"),
        ("step", 1e-320, r"has [\d,]+ values of alpha; at most 10,000 .* Choose a larger step"),
        ("target", -2.0, "`target > 0`"),
        ("tolerance", 1.0, "`0 <= tolerance < 1`"),
        ("tolerance", -0.1, "`0 <= tolerance < 1`"),
        ("alpha", (2.0, 1.0), "`0 < low <= high` must hold for alpha"),
        ("beta", (0.0, 1.0), "`0 < low <= high` must hold for beta"),
        ("gamma", (1.0, float("inf")), "`0 < low <= high` must hold for gamma"),
        ("selection", "nominal", "`selection` must be 'formula' or 'measured'"),
    ],
)
def test_a_grid_that_cannot_be(field: str, value: object, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        replace(Grid(), **{field: value})


def test_more_triples_than_anybody_can_list_are_refused() -> None:
    with pytest.raises(ScalingError, match=r"has [\d,]+ triples; at most 1,000,000 are supported"):
        replace(FORMULA, step=2e-3)
    with pytest.raises(ScalingError, match=r"has [\d,]+ triples near x2; at most 1,000,000 are"):
        find_candidates(TINY, Grid(step=5e-4))


def test_a_large_ratio_needs_no_large_step_where_cost_is_measured() -> None:
    """By the formula the grid has millions of triples; of its networks few are looked at."""
    grid = Grid(target=16.0)
    with pytest.raises(ScalingError, match="Choose a larger step"):
        replace(grid, selection="formula", alpha=(1, 40), beta=(1, 10), gamma=(1, 10))
    candidates = find_candidates(TINY, grid)
    assert all(15.2 <= count(c.architecture).macs / count(TINY).macs <= 16.8 for c in candidates)
    for axis in range(3):
        assert max(c.shares.values[axis] for c in candidates) > 0.95
    chosen = spread(candidates, 24)
    far = max(min(math.dist(c.shares.values, d.shares.values) for d in chosen) for c in candidates)
    assert far < 0.25
