"""The arithmetic equals what fvcore and the built modules count, to the integer."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings

from search_spaces.architecture import Architecture, units
from search_spaces.cost import Cost, count, stage_costs, unit_cost
from search_spaces.layers import SqueezeExcite
from search_spaces.spaces import SPACES, sample
from search_spaces.zoo import ZOO
from tests.counting import count_built
from tests.golden_files import golden
from tests.strategies import architectures


@pytest.mark.parametrize("name", ZOO)
def test_zoo_has_the_published_cost(name: str) -> None:
    expected = golden("zoo")[name]
    cost = count(ZOO[name]())
    assert (cost.params, cost.macs, cost.activations) == (
        expected["params"],
        expected["macs"],
        expected["activations"],
    )


def test_b0_stages_have_the_published_cost() -> None:
    expected = golden("efficientnet_b0_stages")
    costs = stage_costs(ZOO["efficientnet-b0"]())
    assert [cost.params for cost in costs] == expected["params"]
    assert [cost.macs for cost in costs] == expected["macs"]


def test_b0_squeezes_a_quarter_of_the_block_input() -> None:
    expected = golden("efficientnet_b0_stages")
    layers = [layer for unit in units(ZOO["efficientnet-b0"]()) for _, layer, _ in unit.layers]
    squeezes = [layer for layer in layers if isinstance(layer, SqueezeExcite)]
    assert [layer.squeezed for layer in squeezes] == expected["squeezed"]
    assert sum(layer.macs(7) for layer in squeezes) == 627_200
    assert sum(layer.params for layer in squeezes) == 636_540


@pytest.mark.parametrize("resolution", [224, 63])
@pytest.mark.parametrize("name", ZOO)
def test_zoo_equals_fvcore(name: str, resolution: int) -> None:
    architecture = replace(ZOO[name](), resolution=resolution)
    assert count(architecture) == count_built(architecture)


@settings(max_examples=100, deadline=None)
@given(architectures())
def test_any_architecture_equals_fvcore(architecture: Architecture) -> None:
    assert count(architecture) == count_built(architecture)


@pytest.mark.parametrize("num_networks", [10, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SPACES)
def test_random_networks_of_a_space_equal_fvcore(name: str, num_networks: int) -> None:
    rng = random.Random(num_networks)
    spaces = [
        SPACES[name](resolution=resolution, num_classes=10, target_macs=macs)
        for resolution, macs in ((32, 6e6), (45, 9e6), (64, 30e6), (96, 70e6))
    ]
    for i in range(num_networks):
        space = spaces[i % len(spaces)]
        architecture = space.decode(sample(space, rng))
        assert count(architecture) == count_built(architecture), architecture.to_json()


@given(architectures())
def test_parts_sum_to_the_whole(architecture: Architecture) -> None:
    assert sum(stage_costs(architecture), Cost()) == count(architecture)
    assert sum(map(unit_cost, units(architecture)), Cost()) == count(architecture)


def test_cost_follows_the_pixels_and_params_do_not() -> None:
    b0 = ZOO["efficientnet-b0"]()
    cost, larger = count(b0), count(replace(b0, resolution=448))
    assert larger.params == cost.params
    fixed = 1_280_000 + 627_200  # the classifier and squeeze-excite see no pixels
    assert larger.macs - fixed == 4 * (cost.macs - fixed)
