"""Candidates by the cost of the built network: all that are near, for any cost and any base."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.costs.metrics import ACTIVATIONS, MACS, METRICS, PARAMS, Counted, Metric
from scaling_search.candidates import Grid, candidates_table, find_candidates
from scaling_search.compound import Coefficients, ScalingError, scale
from scaling_search.shares import Shares, shares_of_ratios
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork, base_of_builder
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0
from tests.strategies import architectures

B0 = efficientnet_b0()
FORMULA = Grid(selection="formula")


def _brute_force(
    base: Architecture, grid: Grid, metric: Metric, rounding: Rounding | None = None
) -> set[str]:
    """Digests of all networks of the grid near its target."""
    low, high = grid.near
    cost = metric(base)
    networks = {scale(base, triple, 1, rounding) for triple in grid.triples()}
    near = {n.digest for n in networks if low <= metric(n) / cost <= high}
    return near - {scale(base, Coefficients(1, 1, 1), 1, rounding).digest}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("name", ZOO)
def test_measured_candidates_are_all_that_are_near(name: str, metric: Metric) -> None:
    base = ZOO[name]()
    grid = Grid(step=0.1, alpha=(1, 2.2), beta=(1, 1.6), gamma=(1, 1.4))
    candidates = find_candidates(base, grid, metric=metric)
    assert {c.architecture.digest for c in candidates} == _brute_force(base, grid, metric)
    for candidate in candidates:
        assert candidate.ratio == metric(candidate.architecture) / metric(base)
        assert 1.9 <= candidate.ratio <= 2.1


@settings(deadline=None, max_examples=40)
@given(architectures(), st.sampled_from([*METRICS]), st.sampled_from([0.6, 1.5, 2.0, 3.0]))
def test_measured_equals_brute_force_on_any_base(
    base: Architecture, name: str, target: float
) -> None:
    """Widths that become equal need no projection: cost does not rise with every step."""
    bounds = {"alpha": (0.8, 2), "beta": (0.8, 1.6), "gamma": (0.7, 1.5)}
    grid = Grid(step=0.2, target=target, tolerance=0.2, **bounds)
    rounding = Rounding(width_divisor=4, depth="round", resolution_divisor=1)
    try:
        candidates = find_candidates(base, grid, rounding, METRICS[name])
    except ScalingError:
        candidates = ()
    expected = _brute_force(base, grid, METRICS[name], rounding)
    assert {candidate.architecture.digest for candidate in candidates} == expected


def test_measured_selection_of_b0() -> None:
    """Of the formula's 109 triples 5 networks are near 2; of all triples 23."""
    candidates = find_candidates(B0, Grid(alpha=(1, 2), beta=(1, 1.45), gamma=(1, 1.45)))
    assert (len(candidates), sum(len(c.triples) for c in candidates)) == (23, 56)
    assert find_candidates(B0) == candidates
    rounded = find_candidates(B0, rounding=Rounding(depth="round"))
    assert len(rounded) == 46


@pytest.mark.parametrize(("ratio", "number"), [(1.5, 7), (2.0, 23), (4.0, 147)])
def test_the_default_bounds_reach_each_dimension_alone(ratio: float, number: int) -> None:
    candidates = find_candidates(B0, Grid(target=ratio))
    assert len(candidates) == number
    for axis in range(3):
        assert max(candidate.shares.values[axis] for candidate in candidates) > 0.99
    if ratio <= 2:
        wider = Grid(target=ratio, alpha=(1, 3), beta=(1, 2), gamma=(1, 2))
        assert find_candidates(B0, wider) == candidates


def test_bounds_follow_the_cost() -> None:
    """Activations grow with width, not with its square; resolution buys no parameters."""
    candidates = find_candidates(B0, metric=ACTIVATIONS)
    assert max(c.coefficients.beta for c in candidates if c.shares.width == 1) > 2
    candidates = find_candidates(B0, metric=PARAMS)
    assert max(c.coefficients.gamma for c in candidates) == 1.4  # the formula's bound, 1.449


@dataclass(frozen=True, kw_only=True)
class Measured(Counted):
    """Activations as something to be measured: they have conditions, and each call counts."""

    asked: list[str] = field(default_factory=list)

    @property
    def conditions(self) -> Mapping[str, Any]:
        return {"device": "here"}

    def __call__(self, architecture: AnyNetwork) -> float:
        self.asked.append(architecture.digest)
        return super().__call__(architecture)


@pytest.mark.parametrize(("ratio", "asked", "found"), [(2.0, 200, 25), (4.0, 300, 30)])
def test_what_takes_long_is_measured_for_few_networks(ratio: float, asked: int, found: int) -> None:
    metric = Measured(name="latency", unit="ms", of=lambda cost: cost.activations)
    rounding = Rounding(depth="round")
    candidates = find_candidates(B0, Grid(target=ratio), rounding, metric)
    assert len(set(metric.asked)) <= asked
    assert len(candidates) >= found
    assert all(abs(c.ratio / ratio - 1) <= 0.0501 for c in candidates)
    for axis in range(3):
        assert max(candidate.shares.values[axis] for candidate in candidates) > 0.9
    for candidate in candidates:
        assert candidate.ratio == ACTIVATIONS(candidate.architecture) / ACTIVATIONS(B0)


def test_the_formula_is_of_multiply_adds() -> None:
    with pytest.raises(ScalingError, match=r"says nothing of params\. Select candidates by"):
        find_candidates(B0, FORMULA, metric=PARAMS)


@pytest.mark.parametrize("name", ZOO)
def test_shares_are_the_network_s(name: str) -> None:
    base = ZOO[name]()
    for grid in (Grid(), FORMULA):
        for candidate in find_candidates(base, grid):
            for alpha, beta, gamma in (triple.values for triple in candidate.triples):
                alone = [(alpha, 1, 1), (1, beta, 1), (1, 1, gamma)]
                scaled = [MACS(scale(base, Coefficients(*one), 1)) for one in alone]
                shares = shares_of_ratios(*(macs / MACS(base) for macs in scaled))
                assert shares == candidate.shares


def test_growth_without_multiply_adds_has_the_formula_s_shares() -> None:
    """33 and 34 px are 17 after the stem's stride."""
    base = replace(B0, resolution=33)
    bounds = {"alpha": (1, 1), "beta": (1, 1), "gamma": (1, 1.03)}
    grid = Grid(step=0.03, target=1.0, tolerance=0.04, **bounds)
    (candidate,) = find_candidates(base, grid, Rounding(resolution_divisor=1))
    assert (candidate.architecture.resolution, candidate.ratio) == (34, 1)
    assert candidate.shares == Shares(0, 0, 1)


def test_a_user_s_builder() -> None:
    base = base_of_builder("tests.builders:plain", 16)
    grid = Grid(step=0.1, tolerance=0.1)
    candidates = find_candidates(base, grid)
    assert len({c.architecture.digest for c in candidates}) == len(candidates) >= 3
    assert all(1.8 <= count(c.architecture).macs / count(base).macs <= 2.2 for c in candidates)
    assert "  -  " in candidates_table(candidates)
