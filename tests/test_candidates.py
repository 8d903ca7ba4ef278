"""The grid: how many triples, how many distinct networks, and what each costs."""

from dataclasses import replace
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_search.candidates import Candidate, Grid, candidates_table, find_candidates
from scaling_search.compound import Coefficients, ScalingError, scale
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0
from tests.strategies import architectures

PAPER = Coefficients(1.2, 1.1, 1.15)
GRID = Grid(beta=(1.0, 1.45), gamma=(1.0, 1.45))
"""The grid that the published counts are of."""


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
    assert PAPER in list(Grid().triples())
    assert PAPER in list(Grid(tolerance=0.04).triples())
    assert PAPER not in list(Grid(tolerance=0.039).triples())


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
    grid = Grid(gamma=(1, 1), tolerance=0.0625)
    assert Coefficients(1.2, 1.25, 1.0) in list(grid.triples())
    assert Coefficients(1.2, 1.25, 1.0) not in list(replace(grid, tolerance=0.0624).triples())


def test_grid_values_are_the_decimals_that_people_write() -> None:
    triples = list(Grid(tolerance=0.5).triples())
    assert {triple.alpha for triple in triples} <= {float(f"{i / 100:.2f}") for i in range(300)}
    assert triples == sorted(triples)


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
    grid = Grid(step=step, alpha=(low, 1.6), tolerance=tolerance, target=target)

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
    candidates = find_candidates(base)
    assert len({candidate.architecture.digest for candidate in candidates}) == len(candidates)
    macs = count(base).macs
    for candidate in candidates:
        assert candidate.cost == count(candidate.architecture)
        assert candidate.ratio == candidate.cost.macs / macs
        digests = {scale(base, triple, 1).digest for triple in candidate.triples}
        assert digests == {candidate.architecture.digest}


@pytest.mark.parametrize("name", ZOO)
def test_measured_selection_admits_by_the_built_network(name: str) -> None:
    candidates = find_candidates(ZOO[name](), Grid(selection="measured"))
    assert all(1.9 <= candidate.ratio <= 2.1 for candidate in candidates)
    formula = find_candidates(ZOO[name]())
    near = {c.architecture.digest for c in formula if 1.9 <= c.ratio <= 2.1}
    assert near <= {candidate.architecture.digest for candidate in candidates}


def test_measured_selection_of_b0() -> None:
    candidates = find_candidates(efficientnet_b0(), replace(GRID, selection="measured"))
    assert (len(candidates), sum(len(c.triples) for c in candidates)) == (23, 56)


@settings(deadline=None, max_examples=20)
@given(architectures())
def test_no_candidate_is_the_base(base: Architecture) -> None:
    """Tiny networks round back to themselves: 5 % of 8 channels is nothing."""
    grid = Grid(step=0.1, alpha=(1, 1.2), beta=(1, 1.2), gamma=(1, 1.2), target=1.2, tolerance=0.2)
    try:
        candidates = find_candidates(base, grid, Rounding(resolution_divisor=1, depth="round"))
    except ScalingError:
        return
    for candidate in candidates:
        network = candidate.architecture
        assert replace(network, name=base.name, dropout=base.dropout) != base


def test_a_triple_that_rounds_back_to_the_base_is_dropped() -> None:
    grid = Grid(alpha=(1, 1), beta=(1, 1), gamma=(1, 1.05), target=1.05, tolerance=0.1)
    # 224 * 1.05 is 235.2 px: back to 224 in steps of 32 px, 232 in steps of 8.
    with pytest.raises(ScalingError, match="No network of the grid"):
        find_candidates(efficientnet_b0(), grid, Rounding(resolution_divisor=32))
    (candidate,) = find_candidates(efficientnet_b0(), grid)
    assert candidate.architecture.resolution == 232


def test_the_table() -> None:
    table = candidates_table(find_candidates(efficientnet_b0(), GRID))
    header, _, *rows = table.splitlines()
    assert header.split()[:5] == ["alpha", "beta", "gamma", "nominal", "measured"]
    assert len(rows) == 65
    (row,) = (row for row in rows if row.split()[:3] == ["1.25", "1.1", "1.15"])
    assert row.split() == [
        *("1.25", "1.1", "1.15", "2.000", "2.229"),
        *("256", "23", "9.110", "859.9", "+1"),
    ]


def test_nothing_near_the_target_says_what_to_do() -> None:
    with pytest.raises(ScalingError, match=r"costs 2 times 'efficientnet-b0' within 0\.00%.*Raise"):
        find_candidates(efficientnet_b0(), Grid(step=0.5, tolerance=0, alpha=(1, 1.5)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("step", 0.0, "`step > 0`"),
        ("step", float("nan"), "`step > 0`"),
        ("step", 1e-3, r"has [\d,]+ triples; at most 1,000,000"),
        ("step", 1e-320, "at most 1,000,000"),
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
