"""Shares of depth, width and resolution: nominal ones, rules, and those of built networks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.costs.metrics import MACS
from scaling_search.compound import Coefficients, ScalingError, scale_by
from scaling_search.shares import (
    PUBLISHED,
    RULES,
    Shares,
    shares_of_logs,
    shares_of_ratios,
)
from scaling_search.steps import find_steps
from search_spaces.architecture import Architecture
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0

B0 = efficientnet_b0()
parts = st.tuples(*[st.floats(0.01, 1)] * 3)


def test_the_published_shares() -> None:
    assert PUBLISHED.values == pytest.approx((0.279, 0.292, 0.428), abs=5e-4)
    assert PUBLISHED.coefficients(1.2 * 1.1**2 * 1.15**2).values == pytest.approx((1.2, 1.1, 1.15))


def test_fast_scaling_is_pycls_s() -> None:
    """d1_w8: depth by s^.1, width by s^.4, resolution by s^.05 (Dollár et al. 2021, eq. 6)."""
    assert RULES["fast"].coefficients(2).values == pytest.approx((2**0.1, 2**0.4, 2**0.05))


@given(parts, st.floats(1.1, 16))
def test_coefficients_and_shares_are_one_another_s_inverse(
    values: tuple[float, float, float], ratio: float
) -> None:
    shares = shares_of_logs(*values)
    coefficients = shares.coefficients(ratio)
    assert coefficients.product == pytest.approx(ratio)
    assert Shares.of(coefficients).values == pytest.approx(shares.values)


@pytest.mark.parametrize("values", [(0.5, 0.5, 0.1), (-0.1, 0.6, 0.5), (math.nan, 0.5, 0.5)])
def test_shares_that_cannot_be(values: tuple[float, float, float]) -> None:
    with pytest.raises(ScalingError, match="at least 0 and sum to 1"):
        Shares(*values)


@pytest.mark.parametrize("coefficients", [Coefficients(0.9, 1.2, 1), Coefficients(1, 1, 1)])
def test_no_growth_has_no_nominal_shares(coefficients: Coefficients) -> None:
    with pytest.raises(ScalingError, match="must not be negative, nor all 0"):
        Shares.of(coefficients)


def _of_network(
    base: Architecture, *triple: float, rounding: Rounding | None = None
) -> Shares | None:
    """Measured, as the grid's candidates have them."""
    return find_steps(base, [[value] for value in triple], rounding).shares((0, 0, 0))


def test_measured_shares_of_the_paper_s_network() -> None:
    """Rounded up, depth takes half of the growth that the formula divides 28/29/43."""
    shares = _of_network(B0, 1.2, 1.1, 1.15)
    alone = [
        scale_by(B0, depth=1.2, width=1, resolution=224, rounding=Rounding()),
        scale_by(B0, depth=1, width=1.1, resolution=224, rounding=Rounding()),
        scale_by(B0, depth=1, width=1, resolution=256, rounding=Rounding()),
    ]
    logs = [math.log(MACS(network) / MACS(B0)) for network in alone]
    assert shares is not None
    assert shares.values == pytest.approx([log / sum(logs) for log in logs])
    assert str(shares) == "0.49/0.17/0.33"


@pytest.mark.parametrize("name", ZOO)
def test_measured_shares_come_near_the_nominal_where_rounding_is_small(name: str) -> None:
    fine = Rounding(width_divisor=1, depth="round", resolution_divisor=1)
    measured = _of_network(ZOO[name](), 2, 2, 2, rounding=fine)
    assert measured is not None
    assert measured.values == pytest.approx((0.2, 0.4, 0.4), abs=0.03)


def test_what_rounding_shrinks_has_share_0() -> None:
    assert shares_of_ratios(2.0, 0.9, 1.0) == Shares(1, 0, 0)
    assert shares_of_ratios(0.5, 0.5, 1.1).values == pytest.approx((0.5, 0.5, 0))


def test_no_growth_has_no_measured_shares() -> None:
    assert _of_network(B0, 1, 1, 1.01) is None
