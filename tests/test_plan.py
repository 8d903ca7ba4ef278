"""What a search is about to do, before it does it."""

import random
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.run import Settings
from nas.search.outlook import expected_epochs
from nas.search.plan import prepare
from nas.search.session import estimate, seconds_of_starts
from nas.trials.halving import Halving
from nas.workers import Workers
from search_spaces.cost import count
from search_spaces.spaces import sample
from search_spaces.zoo import efficientnet_b0


def test_halving_shortens_the_average_trial() -> None:
    # One of three passes each rung: 1 epoch, a third of the trials 2 more, a ninth 6 more.
    assert expected_epochs(Halving(min_epochs=1, reduction=3), 9) == pytest.approx(
        1 + 2 / 3 + 6 / 9
    )
    assert expected_epochs(Halving(min_epochs=2, reduction=4), 5) == pytest.approx(2 + 3 / 4)


@pytest.mark.parametrize("name", ["params", "activations"])
def test_another_cost_has_a_typical_network_s_as_its_target(name: str, tmp_path: Path) -> None:
    settings = Settings(
        evaluator="tests.searching:accuracy",
        run_dir=tmp_path,
        resolution=32,
        num_classes=10,
        cost=name,  # type: ignore[arg-type]
    )
    plan = prepare(settings)
    rng = random.Random(1)
    costs = [getattr(count(plan.space.decode(sample(plan.space, rng))), name) for _ in range(200)]
    low, *_, high = statistics.quantiles(costs, n=10)
    assert low < plan.target < high
    assert prepare(settings).target == plan.target
    assert f"{plan.metric.unit}" in " ".join(plan.describe())
    assert plan.conditions["target_cost"] == plan.target


@pytest.mark.parametrize(
    ("flags", "is_far"),
    [
        ({"cost": "params", "target_cost": 300.0}, True),
        ({"cost": "params", "target_cost": 200e3}, False),
        ({"cost": "params", "target_cost": 500e6}, True),
        ({"cost": "params"}, False),
        ({}, False),
        ({"target_flops": 8e6}, False),
        ({"target_flops": 20e6}, False),
    ],
)
def test_a_target_that_no_network_comes_near_is_noted(
    flags: dict[str, Any], is_far: bool, tmp_path: Path
) -> None:
    own = {"evaluator": "tests.searching:accuracy", "run_dir": tmp_path}
    plan = prepare(Settings(**own, resolution=32, num_classes=10, **flags))
    notes = [line for line in plan.describe() if "T is far from what networks" in line]
    assert len(notes) == is_far
    assert all("Choose --target-cost there, or a --target-flops whose" in note for note in notes)
    costs = [
        plan.metric(plan.space.decode(sample(plan.space, random.Random(i)))) for i in range(99)
    ]
    assert is_far == (plan.target < min(costs) / 1.5 or plan.target > max(costs) * 1.5)


def test_starts_of_workers_are_part_of_the_time() -> None:
    assert seconds_of_starts(Workers(), 3) == 0
    assert seconds_of_starts(Workers(count=2), 0) == 0
    first, second, third = (seconds_of_starts(Workers(count=2), studies) for studies in (1, 2, 3))
    assert 0 < third - second == second - first < first  # Ray itself starts once

    task: Any = SimpleNamespace(seconds_of=lambda network: lambda epochs: 3.0 * epochs)
    trainings = [(efficientnet_b0(), 4), (efficientnet_b0(), 6)]
    assert estimate(task, Workers(), trainings, studies=2) == 30
    assert estimate(task, Workers(count=2), trainings, studies=2) == 15 + second
