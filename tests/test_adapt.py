"""Networks for other image sizes and other budgets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.adapt import adapt_resolution, fit_width, scale_widths, stride_budget
from search_spaces.architecture import Architecture, units
from search_spaces.cost import count
from search_spaces.rounding import round_width
from search_spaces.zoo import ZOO, efficientnet_b0, mobilenet_v2, resnet50


def _strides(architecture: Architecture) -> list[int]:
    """Stem, pooling, stages."""
    stem = architecture.stem
    return [stem.stride, 1 + stem.pool, *(stage.stride for stage in architecture.stages)]


def _last_map(architecture: Architecture) -> int:
    return [unit.in_size for unit in units(architecture)][-1]


@pytest.mark.parametrize(
    ("resolution", "budget"),
    [(224, 5), (128, 5), (97, 5), (96, 4), (64, 4), (32, 3), (28, 3), (16, 2), (8, 1), (4, 0)],
)
def test_strides_that_an_image_survives(resolution: int, budget: int) -> None:
    assert stride_budget(resolution) == budget


@given(st.integers(1, 1024))
def test_the_budget_is_the_largest_that_leaves_four_pixels(resolution: int) -> None:
    budget = stride_budget(resolution)
    assert 0 <= budget <= 5
    assert budget == 0 or -(-resolution // 2**budget) >= 4
    assert budget == 5 or -(-resolution // 2 ** (budget + 1)) < 4


@pytest.mark.parametrize("name", ZOO)
@given(resolution=st.integers(1, 300))
def test_an_adapted_network_keeps_to_the_budget(name: str, resolution: int) -> None:
    original = ZOO[name]()
    adapted = adapt_resolution(original, resolution)
    assert adapted.resolution == resolution
    assert _strides(adapted).count(2) == min(stride_budget(resolution), 5)
    assert _last_map(adapted) >= min(4, resolution)
    assert count(adapted).params == count(original).params


def test_large_images_change_nothing_but_the_resolution() -> None:
    b0 = efficientnet_b0()
    assert adapt_resolution(b0, 224) == b0
    assert adapt_resolution(b0, 300) == replace(b0, resolution=300)


def test_the_earliest_strides_go_first() -> None:
    assert _strides(efficientnet_b0()) == [2, 1, 1, 2, 2, 2, 1, 2, 1]
    assert _strides(adapt_resolution(efficientnet_b0(), 64)) == [1, 1, 1, 2, 2, 2, 1, 2, 1]
    assert _strides(adapt_resolution(efficientnet_b0(), 32)) == [1, 1, 1, 1, 2, 2, 1, 2, 1]
    assert _strides(adapt_resolution(efficientnet_b0(), 8)) == [1, 1, 1, 1, 1, 1, 1, 2, 1]
    assert _strides(adapt_resolution(resnet50(), 32)) == [1, 1, 1, 2, 2, 2]


@given(st.floats(0.1, 4), st.sampled_from([4, 8]))
def test_every_width_is_scaled_and_rounded(multiplier: float, divisor: int) -> None:
    b0 = efficientnet_b0()
    scaled = scale_widths(b0, multiplier, divisor)
    expected = tuple(round_width(width * multiplier, divisor) for width in b0.widths)
    assert scaled.widths == expected
    assert [s.repeats for s in scaled.stages] == [s.repeats for s in b0.stages]


def test_a_network_without_a_head_gets_none() -> None:
    assert scale_widths(resnet50(), 0.5).head_width == 0


@pytest.mark.parametrize("network", [efficientnet_b0(), mobilenet_v2(), resnet50()])
def test_its_own_cost_is_width_one(network: Architecture) -> None:
    assert fit_width(network, count(network).macs) == 1.0


@pytest.mark.parametrize("network", [efficientnet_b0(), adapt_resolution(mobilenet_v2(), 32)])
@given(factor=st.floats(0.15, 20))
def test_the_fitted_width_costs_what_was_asked(network: Architecture, factor: float) -> None:
    target = factor * count(network).macs
    width = fit_width(network, target)
    assert abs(count(scale_widths(network, width)).macs / target - 1) < 0.25
    assert (width < 1) == (factor < 1) or abs(factor - 1) < 0.2


@pytest.mark.parametrize(("target", "shown"), [(1e3, "1K"), (1e15, "1000T")])
def test_a_budget_out_of_reach_is_refused(target: float, shown: str) -> None:
    message = rf"efficientnet-b0 at 224 px near {shown} multiply-adds \(nearest: [\d.]+[MG]\)"
    with pytest.raises(ValueError, match=message):
        fit_width(efficientnet_b0(), target)
