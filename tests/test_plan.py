"""What a search is about to do, before it does it."""

import random
import statistics
from pathlib import Path

import pytest

from nas.run import Settings
from nas.search.outlook import expected_epochs
from nas.search.plan import prepare
from nas.trials.halving import Halving
from search_spaces.cost import count
from search_spaces.spaces import sample


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
