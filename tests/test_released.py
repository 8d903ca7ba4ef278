"""The published EfficientNets and TinyNets, to the integer."""

import math
from dataclasses import replace
from typing import Any

import pytest
import timm

from scaling_search.compound import Coefficients
from scaling_search.released import (
    RELEASED,
    TINYNETS,
    nearest_tinynet,
    release,
    tinynet,
    tinynet_ratios,
)
from search_spaces.cost import count
from search_spaces.zoo import efficientnet_b0
from tests.counting import count_module
from tests.golden_files import golden

MEMBERS = [f"B{index}" for index in range(8)]


@pytest.mark.parametrize("member", MEMBERS)
def test_released_networks_cost_what_is_published(member: str) -> None:
    expected, cost = golden("efficientnet")[member], count(release(member))
    assert (cost.params, cost.macs) == (expected["params"], expected["macs"])
    decimals = len(expected["acts_m"].split(".")[1])
    assert f"{cost.activations / 1e6:.{decimals}f}" == expected["acts_m"]


@pytest.mark.parametrize("member", MEMBERS)
def test_released_networks_have_the_published_shape(member: str) -> None:
    expected, network = golden("efficientnet")[member], release(member)
    assert network.stem.width == expected["stem"]
    assert [stage.width for stage in network.stages] == expected["widths"]
    assert [stage.repeats for stage in network.stages] == expected["repeats"]
    assert sum(stage.repeats for stage in network.stages) == expected["blocks"]
    assert network.head_width == expected["head"]
    assert (network.resolution, network.dropout) == (expected["resolution"], expected["dropout"])


@pytest.mark.parametrize("member", MEMBERS)
def test_released_factors_are_the_published_ones(member: str) -> None:
    expected, factors = golden("efficientnet")[member], RELEASED[member]
    for field in ("width", "depth", "resolution", "dropout"):
        assert getattr(factors, field) == expected[field]
    assert [f"{phi:.2f}" for phi in factors.implied_phi()] == expected["implied_phi"]


@pytest.mark.parametrize(
    ("member", "params", "giga_macs"), [("B8", 87_413_142, "62.60"), ("L2", 480_309_308, "475.70")]
)
def test_the_large_released_networks(member: str, params: int, giga_macs: str) -> None:
    cost = count(release(member))
    assert (cost.params, f"{cost.macs / 1e9:.2f}") == (params, giga_macs)


def test_the_released_family_begins_with_b0() -> None:
    family = [release(f"B{index}") for index in range(8)]
    assert [member.name for member in family] == [f"efficientnet-b{index}" for index in range(8)]
    assert family[0] == efficientnet_b0()


def test_another_base_takes_the_released_ratios() -> None:
    base = replace(efficientnet_b0(), name="mine", resolution=64, dropout=0.1)
    family = [release(f"B{index}", base) for index in range(8)]
    assert [member.resolution for member in family] == [64, 68, 74, 86, 108, 130, 150, 172]
    assert [member.dropout for member in family] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    assert family[7].widths == release("B7").widths
    assert (family[7].name, release("L2", base).name) == ("mine-b7", "mine-l2")


def test_other_coefficients_imply_another_phi() -> None:
    depth, width, resolution = RELEASED["B7"].implied_phi(Coefficients(2, 1, math.sqrt(2)))
    assert depth == pytest.approx(math.log2(3.1))
    assert math.isnan(width)
    assert resolution == pytest.approx(2 * math.log2(600 / 224))


@pytest.mark.parametrize("member", TINYNETS)
def test_tinynets_cost_what_timm_builds(member: str) -> None:
    network = tinynet(member)
    reference = timm.create_model(f"tinynet_{member.lower()}", pretrained=False)
    config: Any = reference.default_cfg
    assert config["input_size"] == (3, network.resolution, network.resolution)
    assert count(network) == count_module(reference, 3, network.resolution)


@pytest.mark.parametrize(
    ("member", "mega_params", "mega_macs"), [("A", "6.19", "337"), ("E", "2.04", "24.4")]
)
def test_the_published_tinynets(member: str, mega_params: str, mega_macs: str) -> None:
    cost = count(tinynet(member))
    assert f"{cost.params / 1e6:.2f}" == mega_params
    assert f"{cost.macs / 1e6:.3g}" == mega_macs


def test_the_nearest_tinynet_is_by_ratio_of_cost() -> None:
    ratios = tinynet_ratios()
    assert list(ratios) == ["A", "B", "C", "D", "E"]
    assert [nearest_tinynet(ratio * 1.05) for ratio in ratios.values()] == list(ratios)
    assert (nearest_tinynet(1), nearest_tinynet(1e-3)) == ("A", "E")
