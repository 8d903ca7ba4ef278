"""The model-guided sampler: what it tries next, and what it refuses."""

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas.samplers.guided import GuidedSettings, ModelGuidedSampler
from nas.samplers.surrogate import fit
from tests.guided import BLOCKS, FEW, SHORT, accuracy_of, all_of, cost_of, costs_of
from tests.sampling import EASY, SIX, Direction, add, ask, distributions, hits, new_study, search


@pytest.mark.parametrize("finished", [4, 12, 30])
@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_eight_asked_in_parallel_differ(finished: int, directions: list[Direction]) -> None:
    """While it starts, climbs and draws."""
    sampler = ModelGuidedSampler(costs=costs_of, settings=SHORT)
    study = optuna.create_study(directions=directions, sampler=sampler)
    for _ in range(finished):
        trial = study.ask(dict(distributions(BLOCKS)))
        study.tell(trial, [accuracy_of(trial.params), cost_of(trial.params)][: len(directions)])
    assert len({repr(ask(study, BLOCKS)) for _ in range(8)}) == 8


@pytest.mark.parametrize(
    ("finished", "running", "drawn"),
    [(7, 0, True), (8, 0, False), (4, 3, True), (4, 4, False), (3, 5, True), (3, 20, True)],
)
def test_networks_are_drawn_until_enough_have_begun_and_half_of_them_ended(
    finished: int, running: int, drawn: bool
) -> None:
    """Who asks eight at a time, and is told eight at a time, learns as soon as who asks singly."""
    asked = []
    for startup_trials in (8, 1000):
        settings = GuidedSettings(startup_trials=startup_trials)
        study = new_study(ModelGuidedSampler(settings=settings))
        for i, network in enumerate(all_of(EASY)[: finished + running]):
            if i < finished:
                add(study, EASY, network, value=hits(network))
            else:
                add(study, EASY, network, TrialState.RUNNING)
        asked.append(ask(study, EASY))
    assert (asked[0] == asked[1]) is drawn


def test_hyperparameters_are_fitted_now_and_then_where_trials_are_stopped_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though what a stopped trial would have measured changes with every finished one."""
    fitted = []

    def counted(*args: Any) -> np.ndarray:
        fitted.append(args)
        return fit(*args)

    monkeypatch.setattr("nas.samplers.guided.fit", counted)
    study = new_study(ModelGuidedSampler(settings=SHORT))
    for i in range(100):
        trial = study.ask(dict(distributions(BLOCKS)))
        trial.report(accuracy_of(trial.params) / 2, 1)
        if i % 3:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, accuracy_of(trial.params) + 0.01 * (i % 5))
    assert 0 < len(fitted) < 60
    assert len(fitted[-1][2]) > 90, "measurements"


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_one_monstrous_value_does_not_end_a_search(direction: Direction) -> None:
    """Such as the loss of a training that diverged."""
    sampler = ModelGuidedSampler(settings=SHORT)
    study = new_study(sampler, direction)
    search(study, BLOCKS, lambda params: 1e200 if len(study.trials) == 3 else cost_of(params), 30)
    assert len(sampler.recommend(study, 3)) == 3


@pytest.mark.parametrize("greedy_trials", [5, 100])
def test_a_network_that_failed_is_not_tried_again(greedy_trials: int) -> None:
    settings = GuidedSettings(startup_trials=5, greedy_trials=greedy_trials)
    study = new_study(ModelGuidedSampler(settings=settings))
    tried = []
    for i in range(30):
        trial = study.ask(dict(distributions(EASY)))
        tried.append(repr(trial.params))
        if i % 2:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, hits(trial.params))
    assert len(set(tried)) == 30


def test_networks_come_again_when_all_have_failed() -> None:
    study = new_study(ModelGuidedSampler())
    for _ in range(20):
        study.tell(study.ask(dict(distributions(SIX))), state=TrialState.FAIL)
    assert ask(study, SIX).keys() == SIX.keys()


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-300, 1e12])
@pytest.mark.parametrize("directions", [["maximize"], ["minimize"], ["maximize", "minimize"]])
def test_a_search_whose_values_are_all_alike_goes_on(
    value: float, directions: list[Direction]
) -> None:
    sampler = ModelGuidedSampler(costs=costs_of, settings=SHORT)
    study = optuna.create_study(directions=directions, sampler=sampler)
    for _ in range(20):
        trial = study.ask(dict(distributions(FEW)))
        study.tell(trial, [value, cost_of(trial.params)][: len(directions)])
    assert sampler.recommend(study, 3)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (["minimize", "maximize"], r"cost to minimise; the study has \['minimize', 'maximize'\]"),
        (["maximize", "maximize"], r"one objective, or accuracy to maximise and cost"),
        (["maximize", "minimize", "minimize"], r"'minimize', 'minimize'\]"),
    ],
)
def test_objectives_that_it_cannot_follow_are_refused(
    directions: list[Direction], message: str
) -> None:
    sampler = ModelGuidedSampler(costs=costs_of)
    study = optuna.create_study(directions=directions, sampler=sampler)
    with pytest.raises(ValueError, match=message):
        ask(study, FEW)
    with pytest.raises(ValueError, match=message):
        sampler.recommend(study, 1)


def test_two_objectives_without_costs_are_refused() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ModelGuidedSampler())
    with pytest.raises(ValueError, match="needs `costs` for accuracy against cost"):
        ask(study, FEW)


def test_a_discount_without_costs_is_refused() -> None:
    with pytest.raises(ValueError, match="`discount` is a function of the first of `costs`"):
        ModelGuidedSampler(discount=np.ones_like)


def test_a_start_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`startup_trials` must be at least 1.*; got 0"):
        GuidedSettings(startup_trials=0)


@pytest.mark.parametrize(
    "discount",
    [
        lambda costs: costs[:3],
        lambda costs: 1.0,
        lambda costs: 0 * costs,
        lambda costs: -costs,
        lambda costs: np.nan * costs,
    ],
)
def test_what_is_no_discount_is_refused(discount: Any) -> None:
    study = new_study(ModelGuidedSampler(costs=costs_of, discount=discount, settings=SHORT))
    search(study, FEW, accuracy_of, 8)
    with pytest.raises(ValueError, match="`discount` must give 8 positive and finite numbers"):
        ask(study, FEW)


def test_what_are_no_costs_is_refused() -> None:
    study = new_study(
        ModelGuidedSampler(costs=lambda networks: np.zeros((len(networks), 2)), settings=SHORT)
    )
    search(study, FEW, accuracy_of, 8)
    with pytest.raises(ValueError, match="`costs` must be positive and finite"):
        ask(study, FEW)
