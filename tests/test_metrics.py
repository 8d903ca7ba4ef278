"""The costs: golden numbers of EfficientNet-B0, and what people read."""

import dataclasses

import pytest
from hypothesis import given

from nas.costs.metrics import METRICS
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.zoo import efficientnet_b0
from tests.strategies import architectures


@pytest.mark.parametrize(
    ("name", "unit", "value", "words"),
    [
        ("macs", "multiply-adds", 385_814_752, "385.8M"),
        ("params", "parameters", 5_288_548, "5.289M params"),
        ("activations", "activations", 6_747_036, "6.747M acts"),
    ],
)
def test_efficientnet_b0_costs_what_is_published(
    name: str, unit: str, value: int, words: str
) -> None:
    metric = METRICS[name]
    assert (metric.name, metric.unit) == (name, unit)
    assert metric(efficientnet_b0()) == value
    assert metric.format(metric(efficientnet_b0())) == words
    assert metric.describe().startswith(unit)
    assert metric.conditions == {}


@given(architectures())
def test_they_are_the_counts(architecture: Architecture) -> None:
    costs = {name: metric(architecture) for name, metric in METRICS.items()}
    assert costs == dataclasses.asdict(count(architecture))
