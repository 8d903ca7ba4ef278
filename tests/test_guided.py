"""The model-guided sampler: what it answers with, and that its answer follows what it is told."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from nas.samplers.belief import Belief, undominated
from nas.samplers.features import Features
from nas.samplers.guided import GuidedSettings, ModelGuidedSampler
from nas.samplers.history import Choices
from nas.samplers.surrogate import Surrogate, parts_for
from tests.guided import BLOCKS, FEW, SHORT, accuracy_of, all_of, cost_of, costs_of
from tests.sampling import (
    EASY,
    PLANTED,
    SIX,
    Direction,
    Options,
    Params,
    add,
    ask,
    distributions,
    hits,
    new_study,
    resumed,
    search,
    uneven,
)


def _noisy(objective: Callable[[Params], float], sigma: float, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda params: objective(params) + sigma * rng.standard_normal()


def _two(seed: int = 0, settings: GuidedSettings = SHORT) -> Study:
    sampler = ModelGuidedSampler(costs=costs_of, settings=settings, seed=seed)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def _sampler(study: Study) -> ModelGuidedSampler:
    assert isinstance(study.sampler, ModelGuidedSampler)
    return study.sampler


def test_the_answer_is_the_planted_optimum_not_the_luckiest_network() -> None:
    believed, observed = [], []
    for seed in range(4):
        study = new_study(ModelGuidedSampler(seed=seed))
        search(study, EASY, _noisy(hits, 1.0, seed), 60)
        believed.append(hits(_sampler(study).recommend(study, 1)[0]))
        observed.append(hits(study.best_params))
    assert statistics.mean(believed) > statistics.mean(observed)
    assert statistics.median(believed) == 8


def test_recommendations_are_distinct_valid_and_the_same_after_a_restart() -> None:
    study = new_study(ModelGuidedSampler(seed=3))
    search(study, EASY, _noisy(hits, 0.5, 0), 40)
    networks = _sampler(study).recommend(study, 12)
    assert len({repr(network) for network in networks}) == 12
    assert all(network.keys() == EASY.keys() for network in networks)
    assert hits(networks[0]) >= hits(networks[-1])
    assert networks[:5] == _sampler(study).recommend(study, 5)
    fresh = resumed(study, ModelGuidedSampler(seed=3), 40)
    assert networks == _sampler(fresh).recommend(fresh, 12)
    assert _sampler(study).recommend(study, 0) == []


def test_minimising_recommends_the_least() -> None:
    study = new_study(ModelGuidedSampler(), "minimize")
    search(study, EASY, lambda params: 3 - hits(params), 60)
    assert _sampler(study).recommend(study, 1) == [PLANTED]


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_before_enough_trials_finished_there_is_no_belief(directions: list[Direction]) -> None:
    sampler = ModelGuidedSampler(costs=costs_of, settings=SHORT)
    study = optuna.create_study(directions=directions, sampler=sampler)
    assert sampler.recommend(study, 5) == []
    for i in range(10):
        trial = study.ask(dict(distributions(FEW)))
        if i % 5 == 0:
            study.tell(trial, state=TrialState.FAIL)
        else:
            assert sampler.recommend(study, 5) == []
            study.tell(trial, [accuracy_of(trial.params), cost_of(trial.params)][: len(directions)])
    assert sampler.recommend(study, 5)


@pytest.mark.parametrize("options", [SIX, {"kernel": (3,)}, {"kernel": (3, 5)}])
def test_small_spaces_are_recommended_whole(options: Options) -> None:
    study = new_study(ModelGuidedSampler(costs=lambda n: np.ones((len(n), 1)), settings=SHORT))
    search(study, options, uneven, 24)
    networks = _sampler(study).recommend(study, 100)
    assert sorted(map(repr, networks)) == sorted(map(repr, all_of(_by_name(options))))
    assert [uneven(n) for n in networks] == sorted(map(uneven, networks), reverse=True)


def _by_name(options: Options) -> Options:
    return dict(sorted(options.items()))


def test_the_budget_of_the_discount_moves_the_answer() -> None:
    def answer(target: float) -> Params:
        def discount(costs: np.ndarray) -> np.ndarray:
            return np.minimum(1, target / costs)

        study = new_study(ModelGuidedSampler(costs=costs_of, discount=discount, settings=SHORT))
        noisy = _noisy(accuracy_of, 0.01, 0)
        search(study, BLOCKS, lambda p: noisy(p) * float(discount(np.array([cost_of(p)]))[0]), 60)
        return _sampler(study).recommend(study, 1)[0]

    for target in (1500, 4000, 9000):
        network = answer(target)
        within = [p for p in all_of(BLOCKS) if cost_of(p) <= target]
        assert cost_of(network) <= 1.02 * target
        assert accuracy_of(network) > max(map(accuracy_of, within)) - 0.03


def test_accuracy_is_learnt_from_cost_too() -> None:
    """Where it is nothing but a function of cost, which the choices alone tell slowly."""

    def error(sampler: ModelGuidedSampler) -> float:
        study = new_study(sampler)
        rng = np.random.default_rng(0)
        networks = [all_of(BLOCKS)[i] for i in rng.permutation(12**3)[:40]]
        for network in networks:
            add(study, BLOCKS, network, value=-abs(float(np.log(cost_of(network) / 6000))))
        return abs(float(np.log(cost_of(sampler.recommend(study, 1)[0]) / 6000)))

    assert error(ModelGuidedSampler(costs=costs_of)) < 0.01
    assert error(ModelGuidedSampler()) > 0.05


def test_two_objectives_give_the_front_that_brute_force_finds() -> None:
    study = _two()
    for _ in range(24):
        trial = study.ask(dict(distributions(FEW)))
        study.tell(trial, [accuracy_of(trial.params), cost_of(trial.params)])
    networks = _sampler(study).recommend(study, 40)
    front = {repr(dict(sorted(network.items()))) for network in _front(all_of(FEW))}
    assert {repr(network) for network in networks} <= front
    assert len(networks) > 0.7 * len(front)
    costs = [cost_of(network) for network in networks]
    assert costs == sorted(set(costs))
    assert len(_sampler(study).recommend(study, 3)) <= 3
    assert _sampler(study).recommend(study, 1)[0] == networks[-1], "one budget is all of it"


def _front(networks: list[Params]) -> list[Params]:
    """Those that none beats in both."""
    points = [(accuracy_of(network), cost_of(network)) for network in networks]
    return [
        network
        for network, (accuracy, cost) in zip(networks, points, strict=True)
        if not any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in points)
    ]


def test_of_all_networks_the_undominated_are_the_front() -> None:
    choices = Choices(distributions(FEW))
    features = Features(choices, costs_of)
    indices = np.array([choices.encode(network) for network in all_of(FEW)])
    networks, values = features(indices), np.array([accuracy_of(n) for n in all_of(FEW)])
    parts, certain = parts_for(networks), np.zeros(len(values))
    scales = np.array([1.0] * len(parts) + [1e-9])
    belief = Belief(
        features=features,
        surrogate=Surrogate(parts, scales, networks, values, certain),
        measured=indices,
        factor=lambda costs: np.ones(len(costs)),
    )
    twice = [tuple(row) for row in np.concatenate([indices[::-1], indices]).tolist()]
    found = [choices.decode(row) for row in undominated(belief, twice)]
    assert found == sorted(_front(all_of(FEW)), key=cost_of)


def test_two_objectives_work_with_accuracies_below_zero_too() -> None:
    """Negative losses, say: over budget must not pay."""

    def recommended(shift: float) -> set[str]:
        study = _two()
        for network in all_of(FEW)[::2]:
            study.add_trial(
                create_trial(
                    params=network,
                    distributions=dict(distributions(FEW)),
                    values=[accuracy_of(network) - shift, cost_of(network)],
                )
            )
        return {repr(network) for network in _sampler(study).recommend(study, 40)}

    front = {repr(dict(sorted(network.items()))) for network in _front(all_of(FEW))}
    assert len(recommended(5.0) & front) > 0.7 * len(front)


@pytest.mark.parametrize("objectives", [1, 2])
def test_a_network_that_failed_is_not_recommended(objectives: int) -> None:
    """However good its neighbours make it look: it would fail again."""
    study = _two() if objectives == 2 else new_study(ModelGuidedSampler(settings=SHORT))
    for network in all_of(FEW)[:-1]:
        values = [accuracy_of(network), cost_of(network)][:objectives]
        study.add_trial(
            create_trial(params=network, distributions=dict(distributions(FEW)), values=values)
        )
    largest = dict(sorted(all_of(FEW)[-1].items()))
    assert largest in _sampler(study).recommend(study, 40)
    add(study, FEW, largest, TrialState.FAIL)
    networks = _sampler(study).recommend(study, 40)
    assert networks
    assert largest not in networks


def test_stopped_trials_teach() -> None:
    """With them the best of the choices that only they tried is known to be bad, or good."""

    def best(reported: float) -> Params:
        study = new_study(ModelGuidedSampler(settings=SHORT))
        space = distributions(EASY)
        for network in _drawn(20):
            study.add_trial(
                create_trial(
                    params={**network, "choice0": 3},
                    distributions=dict(space),
                    value=0.5,
                    intermediate_values={1: 0.25},
                )
            )
        for network in _drawn(20):
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED,
                    params={**network, "choice0": 9},
                    distributions=dict(space),
                    intermediate_values={1: reported},
                )
            )
        return _sampler(study).recommend(study, 1)[0]

    assert best(0.1)["choice0"] != 9
    assert best(0.4)["choice0"] == 9


def _drawn(number: int) -> list[Params]:
    rng = np.random.default_rng(0)
    return [
        {name: options[int(rng.integers(len(options)))] for name, options in EASY.items()}
        for _ in range(number)
    ]


def test_one_sampler_keeps_two_spaces_apart() -> None:
    """Equal in everything but the options' meaning: as many choices, the same draws and values."""
    named: Options = {name: tuple(map(str, options)) for name, options in EASY.items()}

    def searched(sampler: ModelGuidedSampler, options: Options) -> list[Params]:
        study = new_study(sampler)
        for network, value in zip(_drawn(20), np.sin(np.arange(20)), strict=True):
            same = {k: options[k][EASY[k].index(v)] for k, v in network.items()}
            add(study, options, same, value=float(value))
        return [ask(study, options) for _ in range(3)]

    sampler = ModelGuidedSampler(settings=SHORT)
    searched(sampler, EASY)
    assert searched(sampler, named) == searched(ModelGuidedSampler(settings=SHORT), named)


def test_parameters_that_are_no_choices_are_left_to_chance() -> None:
    study = new_study(ModelGuidedSampler(settings=SHORT))
    for _ in range(12):
        trial = study.ask(
            {
                "kernel": CategoricalDistribution((3, 5)),
                "rate": optuna.distributions.FloatDistribution(0, 1),
            }
        )
        study.tell(trial, trial.params["rate"])
    recommended = _sampler(study).recommend(study, 2)
    assert sorted(network["kernel"] for network in recommended) == [3, 5]
    assert len({trial.params["rate"] for trial in study.trials}) == 12
