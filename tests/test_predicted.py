"""Latency that is predicted: near the truth, by few measurements."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.costs.latency import Latency
from nas.costs.metrics import Counted
from nas.costs.objective import ParetoObjective
from nas.costs.predicted import NUM_MEASURED, PredictedLatency
from nas.search.strategies import Problem, known_costs
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork
from search_spaces.capacity import capacity
from search_spaces.cost import count
from search_spaces.counts import counts
from search_spaces.spaces import sample
from tests.searching import SPACE, SmallSpace


class KnownLatency(Latency):
    """As on a device where depthwise kernels are slow and every layer has an overhead."""

    def __call__(self, architecture: AnyNetwork) -> float:
        assert isinstance(architecture, Architecture)
        self._known[architecture.digest] = milliseconds(architecture)
        return self._known[architecture.digest]

    @property
    def num_measured(self) -> int:
        return len(self._known)


def milliseconds(architecture: Architecture) -> float:
    cost = count(architecture)
    large = sum(s.repeats * (s.block.kernel == 5) for s in architecture.stages)
    layers = sum(s.repeats for s in architecture.stages)
    return 0.2 + cost.macs / 2e7 + cost.activations / 1e7 + 0.02 * layers + 0.02 * large


@pytest.fixture
def latency(tmp_path: Path) -> KnownLatency:
    return KnownLatency(file=tmp_path / "latency.json")


def _networks(number: int) -> list[dict[str, Any]]:
    rng = random.Random(7)
    return [sample(SPACE, rng) for _ in range(number)]


def test_the_prediction_is_near_the_truth_after_few_measurements(latency: KnownLatency) -> None:
    predicted = PredictedLatency(SPACE, latency, SPACE.counts)
    assert latency.num_measured == 0, "nothing is measured before it is needed"
    networks = _networks(300)
    values = predicted(networks)
    assert latency.num_measured == NUM_MEASURED
    truth = np.array([milliseconds(SPACE.decode(network)) for network in networks])
    assert values.shape == (300,)
    assert np.median(np.abs(values / truth - 1)) < 0.05
    assert np.quantile(np.abs(values / truth - 1), 0.95) < 0.15
    rank_correlation: Any = kendalltau(values, truth)
    assert rank_correlation.statistic > 0.84
    assert values[:1] == pytest.approx(predicted(networks[:1]))
    assert latency.num_measured == NUM_MEASURED


def test_a_restart_predicts_the_same(latency: KnownLatency, tmp_path: Path) -> None:
    networks = _networks(20)
    again = KnownLatency(file=tmp_path / "again.json")
    first, second = (
        PredictedLatency(SPACE, one, SPACE.counts)(networks) for one in (latency, again)
    )
    assert np.array_equal(first, second)


def test_a_space_smaller_than_the_sample_is_measured_once(latency: KnownLatency) -> None:
    space = SmallSpace()
    networks = [{"width": width, "kernel": kernel} for width in (8, 16, 24) for kernel in (3, 5)]
    values = PredictedLatency(space, latency, lambda n: counts(map(space.decode, n)))(networks)
    assert latency.num_measured == 6
    assert values == pytest.approx([milliseconds(space.decode(n)) for n in networks], rel=0.02)


@pytest.mark.parametrize("factorized", [True, False])
def test_the_known_costs_of_a_search_by_latency(latency: KnownLatency, factorized: bool) -> None:
    """By any space, fast or slow to cost."""
    space = SPACE if factorized else Slow()
    problem = Problem(space=space, objective=ParetoObjective(latency), seed=0)
    networks = _networks(10)
    found = known_costs(problem)(networks)
    counted = [count(SPACE.decode(network)) for network in networks]
    assert found[:, 1].tolist() == [cost.macs for cost in counted]
    assert found[:, 2].tolist() == [cost.params for cost in counted]
    able = [capacity(SPACE.decode(network)) for network in networks]
    assert found[:, 3].tolist() == [shape.channels for shape in able]
    assert found[:, 4] == pytest.approx([shape.log_fan_in for shape in able])
    predicted = PredictedLatency(SPACE, latency, SPACE.counts)
    assert found[:, 0] == pytest.approx(predicted(networks))


def test_a_cost_made_of_counts_is_known_too() -> None:
    """Such as the one of CONTRIBUTING."""
    traffic = Counted(name="traffic", unit="elements", of=lambda c: c.params + c.activations)
    problem = Problem(space=SPACE, objective=ParetoObjective(traffic), seed=0)
    networks = _networks(5)
    counted = [count(SPACE.decode(network)) for network in networks]
    expected = [[c.params + c.activations, c.macs, c.params] for c in counted]
    assert known_costs(problem)(networks)[:, :3].tolist() == expected


class Slow:
    """`SPACE` as a user writes one: no `counts`."""

    name, choices, encode = "slow", SPACE.choices, SPACE.encode

    def decode(self, choices: Mapping[str, Any]) -> Architecture:
        return SPACE.decode(choices)
