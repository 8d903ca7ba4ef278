"""Compound scaling: the published family to the integer, and the properties of the formula."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling_search.compound import (
    MAX_DROPOUT,
    Coefficients,
    ScalingError,
    default_rounding,
    finer_roundings,
    member_name,
    scale,
    scale_by,
    shift_dropout,
)
from scaling_search.released import PAPER, release
from search_spaces.architecture import Architecture, Stage
from search_spaces.builder import base_of_builder
from search_spaces.cost import count
from search_spaces.ops import Bottleneck
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0, resnet50
from tests.strategies import architectures

coefficients = st.builds(
    Coefficients, alpha=st.floats(1, 2), beta=st.floats(1, 1.5), gamma=st.floats(1, 1.5)
)
roundings = st.builds(
    Rounding,
    width_divisor=st.sampled_from([1, 2, 4, 8]),
    depth=st.sampled_from(["ceil", "round"]),
    resolution_divisor=st.sampled_from([1, 2, 4, 8]),
)


def _sizes(architecture: Architecture) -> tuple[int, ...]:
    """Every whole number that scaling moves."""
    repeats = (stage.repeats for stage in architecture.stages)
    return (architecture.resolution, *architecture.widths, *repeats)


@pytest.mark.parametrize(
    ("phi", "resolution", "giga_macs", "mega_params"),
    [
        (1, 256, "0.860", "9.11"),
        (2, 296, "1.81", "12.26"),
        (3, 344, "3.25", "16.35"),
        (4, 392, "6.32", "25.92"),
        (5, 448, "10.44", "33.73"),
        (6, 520, "20.10", "45.46"),
        (7, 592, "38.76", "68.74"),
    ],
)
def test_the_exact_formula(phi: int, resolution: int, giga_macs: str, mega_params: str) -> None:
    network = scale(efficientnet_b0(), PAPER, phi)
    cost = count(network)
    assert network.resolution == resolution
    assert f"{cost.macs / 1e9:.{len(giga_macs.split('.')[1])}f}" == giga_macs
    assert f"{cost.params / 1e6:.2f}" == mega_params


def test_the_paper_s_product() -> None:
    assert PAPER.product == pytest.approx(1.92027)


@pytest.mark.parametrize("name", ZOO)
def test_large_networks_keep_the_invariant(name: str) -> None:
    """Rounding weighs less as networks grow: within 15 % of product^phi at phi = 5."""
    base = ZOO[name]()
    ratio = count(scale(base, PAPER, 5)).macs / count(base).macs
    assert ratio / PAPER.product**5 == pytest.approx(1, abs=0.15)


@given(architectures(), coefficients, st.none() | roundings)
def test_phi_zero_is_the_base(
    base: Architecture, growth: Coefficients, rounding: Rounding | None
) -> None:
    assert scale(base, growth, 0, rounding) == base
    assert scale(base, growth, 0, rounding, name="b0") == replace(base, name="b0")


@given(architectures(), coefficients, st.floats(-4, 4), st.none() | roundings)
def test_scaling_is_pure_and_survives_json(
    base: Architecture, growth: Coefficients, phi: float, rounding: Rounding | None
) -> None:
    before = base.to_json()
    scaled = scale(base, growth, phi, rounding)
    assert base.to_json() == before
    assert scaled == scale(base, growth, phi, rounding)
    assert Architecture.from_json(scaled.to_json()) == scaled


@given(architectures(), coefficients, st.floats(-3, 5))
def test_only_sizes_and_dropout_change(
    base: Architecture, growth: Coefficients, phi: float
) -> None:
    scaled = scale(base, growth, phi, name=base.name)
    restored = replace(
        scaled,
        resolution=base.resolution,
        stem=replace(scaled.stem, width=base.stem.width),
        stages=tuple(
            replace(stage, width=old.width, repeats=old.repeats)
            for stage, old in zip(scaled.stages, base.stages, strict=True)
        ),
        head_width=base.head_width,
        dropout=base.dropout,
    )
    assert restored == base


@given(architectures(), st.floats(0.2, 4).filter(lambda width: width != 1), roundings)
def test_widths_are_whole_steps_and_at_least_90_percent(
    base: Architecture, width: float, rounding: Rounding
) -> None:
    scaled = scale_by(
        base, depth=1, width=width, resolution=base.resolution, rounding=rounding, dropout=None
    )
    for old, new in zip(base.widths, scaled.widths, strict=True):
        assert new % rounding.width_divisor == 0
        assert new >= 0.9 * old * width


@given(architectures(), coefficients, st.floats(-3, 5), st.floats(-3, 5))
def test_sizes_never_shrink_as_phi_grows(
    base: Architecture, growth: Coefficients, first: float, second: float
) -> None:
    small, large = (scale(base, growth, phi) for phi in sorted((first, second)))
    assert all(a <= b for a, b in zip(_sizes(small), _sizes(large), strict=True))


@given(architectures(), st.floats(0.2, 4))
def test_no_network_without_head_gets_one(base: Architecture, width: float) -> None:
    headless = replace(base, head_width=0)
    rounding = default_rounding(headless, 1)
    assert scale_by(headless, depth=1, width=width, resolution=8, rounding=rounding).head_width == 0


@given(architectures(), roundings)
def test_factors_of_one_leave_everything_as_it_is(base: Architecture, rounding: Rounding) -> None:
    same = scale_by(base, depth=1, width=1, resolution=base.resolution, rounding=rounding)
    assert same == base


def test_only_what_is_finer_is_called_so() -> None:
    base, builder = efficientnet_b0(), base_of_builder("tests.builders:plain", 16)
    assert finer_roundings(base, Rounding()) == {
        "--depth-rounding round": Rounding(depth="round"),
        "--resolution-step 4": Rounding(resolution_divisor=4),
    }
    assert finer_roundings(base, Rounding(depth="round", resolution_divisor=1)) == {}
    assert list(finer_roundings(builder, Rounding())) == ["--resolution-step 4"]


def test_ceil_is_guarded_against_float_drift() -> None:
    base = efficientnet_b0()
    ten = replace(base, stages=(replace(base.stages[0], repeats=10),))
    scaled = scale_by(ten, depth=1.1, width=1, resolution=224, rounding=Rounding())
    assert scaled.stages[0].repeats == 11  # 1.1 * 10 is 11.000000000000002


def test_depth_shrinks_where_phi_is_negative() -> None:
    growth = Coefficients(1.3, 1, 1)
    repeats = [stage.repeats for stage in scale(efficientnet_b0(), growth, -2).stages]
    assert repeats == [1, 1, 1, 2, 2, 2, 1]
    up = scale(efficientnet_b0(), growth, -2, Rounding(depth="ceil"))
    assert [stage.repeats for stage in up.stages] == [1, 2, 2, 2, 2, 3, 1]


def test_a_bottleneck_s_inner_width_follows() -> None:
    scaled = scale_by(resnet50(), depth=1, width=2, resolution=224, rounding=Rounding())
    stage = scaled.stages[0]
    assert isinstance(stage, Stage)
    assert isinstance(stage.block, Bottleneck)
    plan = stage.block.plan(scaled.stem.width, stage.width, stage.stride)
    assert plan.branch[0][1] == Bottleneck().plan(128, 512, 1).branch[0][1]
    assert scaled.widths == (128, 512, 1024, 2048, 4096)


def test_small_images_are_scaled_in_small_steps() -> None:
    base = replace(efficientnet_b0(), resolution=32)
    assert [scale(base, PAPER, phi).resolution for phi in range(4)] == [32, 37, 42, 49]


def test_dropout_grows_and_stays_near_the_released_rates() -> None:
    rates = [scale(efficientnet_b0(), PAPER, phi).dropout for phi in range(8)]
    assert rates == [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5]
    released = [release(f"B{index}").dropout for index in range(8)]
    assert all(abs(a - b) < 0.0501 for a, b in zip(rates, released, strict=True))


@given(st.floats(0, 0.99), st.floats(-2, 2))
def test_dropout_stays_within_its_bounds(rate: float, shift: float) -> None:
    shifted = shift_dropout(rate, shift)
    if rate == 0 or rate > MAX_DROPOUT:
        assert shifted == rate
    else:
        assert 0 <= shifted <= MAX_DROPOUT


def test_names() -> None:
    base = efficientnet_b0()
    assert scale(base, PAPER, 1.5).name == "efficientnet-b0-phi1.5"
    assert scale(base, PAPER, -1, name="small").name == "small"
    assert member_name("efficientnet-b0", 2) == "efficientnet-b2"
    assert member_name("mine", -0.5) == "mine-b-0.5"


@pytest.mark.parametrize("value", [0, -1.2, math.nan, math.inf])
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_coefficients_must_be_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(ScalingError, match="`alpha, beta, gamma > 0` and finite must hold"):
        replace(PAPER, **{name: value})


@pytest.mark.parametrize("value", [1e308, 1e-308, 1.1e6])
def test_coefficients_of_no_network_are_refused(value: float) -> None:
    with pytest.raises(ScalingError, match=r"`1 / 1e\+06 <= alpha, beta, gamma <= 1e\+06` must"):
        replace(PAPER, beta=value)


@pytest.mark.parametrize("phi", [math.nan, math.inf, -math.inf, 1e6])
def test_phi_must_be_a_moderate_number(phi: float) -> None:
    with pytest.raises(ScalingError, match="`-1000 <= phi <= 1000` must hold"):
        scale(efficientnet_b0(), PAPER, phi)


@pytest.mark.parametrize("phi", [-500, 500])
def test_factors_beyond_reason_are_refused(phi: float) -> None:
    with pytest.raises(ScalingError, match="Choose a phi nearer to 0"):
        scale(efficientnet_b0(), PAPER, phi)


def test_a_network_of_too_many_blocks_is_refused() -> None:
    with pytest.raises(ScalingError, match=r"makes 145,\d{3} blocks; at most 10,000"):
        scale(efficientnet_b0(), PAPER, 50)


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_factors_must_be_positive(factor: float) -> None:
    base = efficientnet_b0()
    with pytest.raises(ScalingError, match="`0 < depth <= 1e"):
        scale_by(base, depth=factor, width=1, resolution=224, rounding=Rounding())
    with pytest.raises(ScalingError, match="`0 < width <= 1e"):
        scale_by(base, depth=1, width=factor, resolution=224, rounding=Rounding())
