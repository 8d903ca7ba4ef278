"""What a study optimises."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.costs.metrics import METRICS
from nas.costs.objective import AccuracyObjective, Objective, ParetoObjective, RewardObjective
from nas.costs.reward import Reward

OBJECTIVES = [RewardObjective(Reward(4e8)), ParetoObjective(), AccuracyObjective()]

accuracies = st.floats(0, 1)
costs = st.floats(1e-3, 1e12)


@given(accuracies, costs)
def test_the_values(accuracy: float, cost: float) -> None:
    reward = Reward(4e8)
    assert RewardObjective(reward)(accuracy, cost) == (reward(accuracy, cost),)
    assert ParetoObjective()(accuracy, cost) == (accuracy, cost)
    assert AccuracyObjective()(accuracy, cost) == (accuracy,)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_optuna_takes_the_values(objective: Objective) -> None:
    values = objective(0.5, 1e6)
    assert len(values) == len(objective.directions) == len(objective.names)
    study = optuna.create_study(directions=list(objective.directions))
    study.tell(study.ask(), values)
    assert study.trials[0].values == list(values)
    assert [d.name.lower() for d in study.directions] == list(objective.directions)


def test_the_metric_is_the_objective_s() -> None:
    assert ParetoObjective(METRICS["params"]).metric.unit == "parameters"
    assert RewardObjective(Reward(75), METRICS["activations"]).metric.name == "activations"
    assert AccuracyObjective().metric.name == "macs"
