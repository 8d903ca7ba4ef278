"""From a wanted cost to phi: golden members of EfficientNet, and what must hold for any path."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.costs.metrics import ACTIVATIONS, MACS, METRICS, PARAMS, Metric
from scaling_search.compound import Coefficients, ScalingError, scale
from scaling_search.released import PAPER
from scaling_search.shares import Shares, shares_of_logs
from scaling_search.solve import MEASUREMENTS, scale_to
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0
from tests.strategies import architectures

B0 = efficientnet_b0()
ROUND = Rounding(depth="round")

fine_phis = st.integers(-30_000, 50_000).map(lambda steps: steps / 10_000)
zoo = st.sampled_from([make() for make in ZOO.values()])
paths = st.tuples(*[st.floats(0.05, 1)] * 3).map(
    lambda parts: shares_of_logs(*parts).coefficients()
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Multiply-adds as something to be measured: they have conditions, and each call counts."""

    name: str = "latency"
    unit: str = "ms"
    conditions: Mapping[str, Any] = field(default_factory=lambda: {"device": "here"})
    asked: list[str] = field(default_factory=list)

    def __call__(self, architecture: Architecture) -> float:
        self.asked.append(architecture.digest)
        return count(architecture).macs / 1e7

    def format(self, value: float) -> str:
        return f"{value:.3g} ms"

    def describe(self) -> str:
        return self.unit


@pytest.mark.parametrize(
    ("phi", "giga_macs"), [(1, 0.860), (2, 1.81), (3, 3.25), (4, 6.32), (5, 10.44), (7, 38.76)]
)
def test_the_formula_s_networks_are_found_by_their_cost(phi: int, giga_macs: float) -> None:
    found = scale_to(B0, PAPER, giga_macs * 1e9, MACS)
    assert found.phi == pytest.approx(phi, abs=0.11)  # 1.9 to 2 is one network
    assert found.ratio == pytest.approx(1, abs=0.003)


@pytest.mark.parametrize(("phi", "giga_macs"), [(-0.21, 0.337), (-2.08, 0.101)])
def test_smaller_budgets_take_a_negative_phi(phi: float, giga_macs: float) -> None:
    """TinyNet's budgets A and C; the unrounded formula has these phi."""
    found = scale_to(B0, PAPER, giga_macs * 1e9, MACS)
    assert found.phi == pytest.approx(phi, abs=0.35)
    assert found.ratio == pytest.approx(1, abs=0.1)
    assert count(found.architecture).params < count(B0).params


def test_the_base_s_own_cost_is_phi_0() -> None:
    for metric in METRICS.values():
        found = scale_to(B0, PAPER, metric(B0), metric)
        assert (found.phi, found.architecture, found.ratio) == (0, B0, 1)


@given(zoo | architectures(), paths, fine_phis, st.sampled_from([MACS, PARAMS, ACTIVATIONS]))
@settings(max_examples=60)
def test_the_cost_of_a_network_of_the_path_is_found_again(
    base: Architecture, growth: Coefficients, phi: float, metric: Metric
) -> None:
    cost = metric(scale(base, growth, phi))
    for at_most in (False, True):
        found = scale_to(base, growth, cost, metric, at_most=at_most)
        assert found.cost == cost == metric(found.architecture)
        assert found.phi * phi >= 0


@given(zoo, paths, st.floats(-0.3, 2), st.floats(-0.3, 2))
@settings(max_examples=40)
def test_a_larger_target_gives_no_smaller_network(
    base: Architecture, growth: Coefficients, first: float, second: float
) -> None:
    small, large = (
        scale_to(base, growth, 10**power * count(base).macs, MACS)
        for power in sorted((first, second))
    )
    assert small.cost <= large.cost
    assert small.phi <= large.phi


@given(zoo, paths, st.floats(-0.3, 2), st.sampled_from([None, ROUND]))
@settings(max_examples=40)
def test_no_network_of_the_path_is_nearer(
    base: Architecture, growth: Coefficients, power: float, rounding: Rounding | None
) -> None:
    target = 10**power * count(base).macs
    found = scale_to(base, growth, target, MACS, rounding)
    limited = scale_to(base, growth, target, MACS, rounding, at_most=True)
    assert limited.cost <= min(target, found.cost)
    for step in range(-20, 21):
        macs = count(scale(base, growth, found.phi + step / 25, rounding)).macs
        assert abs(math.log(macs / target)) >= abs(math.log(found.ratio)) - 1e-12
        assert macs > target or macs <= limited.cost


def test_phi_has_as_few_digits_as_make_the_network() -> None:
    found = scale_to(B0, PAPER, 100e6, MACS)
    assert (found.phi, found.cost) == (-2.3, 97_643_232)
    assert found.architecture.name == "efficientnet-b0-phi-2.3"
    assert found.architecture == scale(B0, PAPER, -2.3)


def test_depth_rounded_up_leaves_a_gap_that_half_up_fills() -> None:
    """Any phi above 0 makes 23 blocks of B0's 16, 1.48 times the multiply-adds."""
    ceil, half_up = (scale_to(B0, PAPER, 500e6, MACS, rounding) for rounding in (None, ROUND))
    assert ceil.ratio == pytest.approx(1.14, abs=0.01)
    assert half_up.ratio == pytest.approx(1, abs=0.01)
    assert scale_to(B0, PAPER, 500e6, MACS, at_most=True).architecture == B0


def test_a_cost_that_resolution_does_not_change_keeps_the_base_s() -> None:
    """Parameters do not tell resolutions apart, so the base's is kept as far as they allow."""
    found = scale_to(B0, PAPER, 5.3e6, PARAMS)
    assert (found.phi, found.architecture) == (0, B0)


def test_a_name_can_be_given() -> None:
    assert scale_to(B0, PAPER, 100e6, MACS, name="small").architecture.name == "small"


@pytest.mark.parametrize("power", [-1, -0.3, 0.1, 0.5, 1.7])
def test_what_must_be_measured_is_measured_a_few_times(power: float) -> None:
    metric = Measured()
    target = 10**power * metric(B0)
    found = scale_to(B0, PAPER, target, metric)
    exact = scale_to(B0, PAPER, target * 1e7, MACS)
    assert abs(math.log(found.ratio)) == pytest.approx(abs(math.log(exact.ratio)), abs=0.03)
    assert len(metric.asked) <= MEASUREMENTS + 2  # and the base, here and there
    assert found.cost == count(found.architecture).macs / 1e7
    assert scale_to(B0, PAPER, target, metric, at_most=True).ratio <= 1


def test_no_far_too_large_network_is_measured() -> None:
    """The steps outwards are short: what costs much more than the target may not even run."""
    costs: list[float] = []

    @dataclass(frozen=True, kw_only=True)
    class Recorded(Measured):
        def __call__(self, architecture: Architecture) -> float:
            costs.append(super().__call__(architecture))
            return costs[-1]

    scale_to(B0, PAPER, 40 * Measured()(B0), Recorded())
    assert max(costs) < 4 * 40 * Measured()(B0)


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
def test_a_target_must_be_positive(target: float) -> None:
    with pytest.raises(ScalingError, match="`target > 0` and finite must hold; got"):
        scale_to(B0, PAPER, target, MACS)


def test_a_path_on_which_cost_falls_is_refused() -> None:
    with pytest.raises(ScalingError, match=r"`alpha \* beta\^2 \* gamma\^2 > 1` must hold"):
        scale_to(B0, Coefficients(0.5, 1.1, 1.1), 1e9, MACS)


@pytest.mark.parametrize("measurements", [None, 12])
@pytest.mark.parametrize(
    ("axis", "metric", "target", "nearest"),
    [
        ("resolution", PARAMS, 10e6, "5.289M params is nearest"),
        ("resolution", PARAMS, 1e6, "5.289M params is nearest"),
        ("resolution", MACS, 1e3, "does not bring its multiply-adds to 1K"),
        ("depth", PARAMS, 1e6, "does not bring its parameters to 1M params"),
        ("width", MACS, 1, "does not bring its multiply-adds to 1:"),
    ],
)
def test_what_cannot_be_reached_is_said(
    axis: str, metric: Metric, target: float, nearest: str, measurements: int | None
) -> None:
    growth = Shares(*(float(axis == a) for a in ("depth", "width", "resolution"))).coefficients()
    base = replace(B0, resolution=32)
    with pytest.raises(ScalingError, match=nearest):
        scale_to(base, growth, target, metric, measurements=measurements)


def test_an_immense_target_is_refused() -> None:
    with pytest.raises(ScalingError, match="Choose a target nearer to that"):
        scale_to(B0, Shares(1, 0, 0).coefficients(), 1e15, MACS)


def test_paths_that_mostly_grow_work_too() -> None:
    """A coefficient below 1 makes cost fall in places; the neighbourhood is looked at."""
    growth = Coefficients(0.9, 1.3, 1.1)
    found = scale_to(B0, growth, 2 * count(B0).macs, MACS)
    assert found.ratio == pytest.approx(1, abs=0.1)
