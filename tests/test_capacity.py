"""What shapes say of networks, against timm's modules and sums by hand."""

import math
from typing import Any

import pytest
import timm
from hypothesis import given
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from search_spaces.architecture import Architecture, units, units_by_stage
from search_spaces.capacity import Capacity, capacity, unit_capacity
from search_spaces.zoo import ZOO
from tests.strategies import architectures


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("efficientnet-b0", "efficientnet_b0"), ("mobilenet-v2", "mobilenetv2_100")],
)
def test_the_zoo_has_what_timm_s_modules_have(name: str, theirs: str) -> None:
    modules = dict(timm.create_model(theirs).named_modules())
    convolutions = [m for n, m in modules.items() if isinstance(m, nn.Conv2d) and ".se." not in n]
    norms: list[Any] = [m for m in modules.values() if isinstance(m, BatchNormAct2d)]
    assert len(norms) == len(convolutions)
    found = capacity(ZOO[name]())
    active = [norm for norm in norms if not isinstance(norm.act, nn.Identity)]
    assert found.channels == sum(norm.num_features for norm in active)
    assert found.log_fan_in == pytest.approx(
        sum(math.log(convolution.weight[0].numel()) for convolution in convolutions)
    )


def test_an_activation_after_the_sum_counts_too() -> None:
    """Of ResNet's first bottleneck: 1x1 and 3x3 of 64 channels, 1x1 to 256, a 1x1 shortcut."""
    (first, *_) = (unit for unit in units(ZOO["resnet-50"]()) if unit.name == "stages.0.0")
    found = unit_capacity(first)
    assert found.channels == 64 + 64 + 256
    assert found.log_fan_in == pytest.approx(3 * math.log(64) + math.log(9 * 64))


@given(architectures())
def test_parts_sum_to_the_whole(architecture: Architecture) -> None:
    parts = [unit_capacity(unit) for part in units_by_stage(architecture) for unit in part]
    whole, summed = capacity(architecture), sum(parts, Capacity())
    assert summed.channels == whole.channels > 0
    assert summed.log_fan_in == pytest.approx(whole.log_fan_in)
