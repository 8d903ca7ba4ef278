"""What every strategy must do, ours and Optuna's alike: a new one is added to `SAMPLERS`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from nas.samplers.controller import ControllerSampler
from nas.samplers.evolution import RegularizedEvolutionSampler
from nas.samplers.guided import ModelGuidedSampler
from nas.samplers.seeding import OrderedNSGAIISampler, PerTrial, rng_for, seed_for
from tests.sampling import (
    EASY,
    PLANTED,
    SIX,
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

Factory = Callable[[int], BaseSampler]


def _costs(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Two costs, of any space."""
    return np.array([[1 + uneven(dict(n)), 1 + n.get("layers", 1)] for n in networks])


def _with_costs(seed: int) -> BaseSampler:
    return ModelGuidedSampler(costs=_costs, discount=lambda costs: costs**-0.07, seed=seed)


SAMPLERS: dict[str, Factory] = {
    "random": lambda seed: PerTrial(RandomSampler, seed),
    "tpe": lambda seed: PerTrial(lambda s: TPESampler(seed=s), seed),
    "nsga2": lambda seed: PerTrial(
        lambda s: OrderedNSGAIISampler(seed=s, population_size=10), seed
    ),
    "evolution": lambda seed: RegularizedEvolutionSampler(seed=seed),
    "controller": lambda seed: ControllerSampler(seed=seed),
    "guided": lambda seed: ModelGuidedSampler(seed=seed),
    "guided, costs": _with_costs,
}
WITHOUT_REPEATS = ["evolution", "guided", "guided, costs"]
ONE_OBJECTIVE = ["evolution", "controller"]
BY_RESULTS_ALONE = ["random", "nsga2", "evolution", "controller"]
"""What PRUNED and RUNNING trials tried moves their proposals only where they avoid repeats."""

MIXED: Options = {
    "op": ("conv", "mbconv"),
    "skip": (True, False),
    "ratio": (0.0, 0.25, 1.5),
    "layers": (1, 2, 3, 4),
    "any": ("none", None, 7, 0.5),
    "only": ("se",),
}
SPACES: dict[str, Options] = {
    "one choice": {"kernel": (3, 5, 7)},
    "one network": {"kernel": (3,)},
    "42 choices": {f"block{i // 6}.{i % 6}": tuple(range(2 + i % 3)) for i in range(42)},
    "mixed": MIXED,
    "six networks": SIX,
}

every = pytest.mark.parametrize("factory", SAMPLERS.values(), ids=SAMPLERS)


def _chosen(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("factory", [SAMPLERS[name] for name in names], ids=names)


def _key(params: Params) -> str:
    return repr(sorted(params.items()))


def _distinct(networks: list[Params]) -> int:
    return len(set(map(_key, networks)))


def _valid(params: Params, options: Options) -> bool:
    same = {name: [repr(value) for value in values] for name, values in options.items()}
    return params.keys() == options.keys() and all(repr(params[k]) in same[k] for k in same)


@every
def test_same_seed_same_sequence_and_another_seed_another(factory: Factory) -> None:
    first, again, other = (search(new_study(factory(seed)), EASY, uneven, 42) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@every
def test_a_trial_draws_each_choice_for_itself(factory: Factory) -> None:
    options: Options = {f"choice{i}": tuple(range(50)) for i in range(20)}
    assert len(set(ask(new_study(factory(0)), options).values())) > 5


@every
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_resumed_search_goes_on_as_the_uninterrupted_one(factory: Factory, parallel: int) -> None:
    study = new_study(factory(0))
    whole = search(study, EASY, uneven, 48, parallel=parallel)
    for cut in (4, 16, 24, 40, 44):
        again = resumed(study, factory(0), cut)
        assert search(again, EASY, uneven, 48, parallel=parallel) == whole, cut


@every
def test_one_sampler_serves_a_second_study_as_the_first(factory: Factory) -> None:
    sampler = factory(0)
    search(new_study(sampler), SIX, uneven, 42)
    assert search(new_study(sampler), EASY, uneven, 42) == search(
        new_study(factory(0)), EASY, uneven, 42
    )


@every
def test_what_failed_trials_tried_is_forgotten(factory: Factory) -> None:
    assert _after(factory, TrialState.FAIL, PLANTED) == _after(
        factory, TrialState.FAIL, dict.fromkeys(PLANTED, 9)
    )


@_chosen(BY_RESULTS_ALONE)
@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.RUNNING])
def test_stopped_and_stale_trials_neither_attract_nor_repel(
    factory: Factory, state: TrialState
) -> None:
    assert _after(factory, state, PLANTED) == _after(factory, state, dict.fromkeys(PLANTED, 9))


@every
@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING])
def test_a_search_goes_on_when_nothing_has_finished(factory: Factory, state: TrialState) -> None:
    study = new_study(factory(0))
    for _ in range(25):
        add(study, EASY, PLANTED, state)
    networks = search(study, EASY, uneven, 50)[25:]
    assert all(_valid(network, EASY) for network in networks)
    assert _distinct(networks) > 20


def _after(factory: Factory, state: TrialState, tried: Params) -> list[Params]:
    """What is proposed after 40 finished trials and 8 that ended, or did not, in another way."""
    study = new_study(factory(0))
    search(study, EASY, uneven, 40)
    for _ in range(8):
        add(study, EASY, tried, state)
    return [ask(study, EASY) for _ in range(5)]


@every
@pytest.mark.parametrize("finished", [0, 40])
def test_parallel_asks_differ(factory: Factory, finished: int) -> None:
    study = new_study(factory(0))
    search(study, EASY, uneven, finished)
    assert _distinct([ask(study, EASY) for _ in range(8)]) == 8


@every
@pytest.mark.parametrize("options", SPACES.values(), ids=SPACES)
def test_any_space_is_searched(factory: Factory, options: Options) -> None:
    networks = search(new_study(factory(0)), options, uneven, 30)
    assert all(_valid(network, options) for network in networks)


@every
def test_kinds_of_parameters_and_spaces_that_vary_are_sampled(factory: Factory) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = trial.suggest_float("rate", 0.1, 0.9) + trial.suggest_int("width", 1, 64, log=True)
        if trial.suggest_categorical("deep", [True, False]):
            value += trial.suggest_categorical("layers", [1, 2, 3])
        return value

    study = new_study(factory(0))
    for _ in range(25):
        trial = study.ask()
        study.tell(trial, objective(trial))
    assert len({trial.params["rate"] for trial in study.trials}) > 10


@_chosen(WITHOUT_REPEATS)
@pytest.mark.parametrize("parallel", [1, 3])
def test_no_network_is_proposed_again_before_the_space_is_exhausted(
    factory: Factory, parallel: int
) -> None:
    for seed in range(5):
        study = new_study(factory(seed))
        # Those asked before the first trial has told the study its space draw blindly.
        search(study, SIX, uneven, 1)
        assert _distinct(search(study, SIX, uneven, 6 + parallel, parallel=parallel)[:6]) == 6
        options = {name: EASY[name] for name in ("choice0", "choice1", "choice2")}
        study = new_study(factory(seed))
        search(study, options, uneven, 1)
        assert _distinct(search(study, options, uneven, 61, parallel=parallel)) == 61


@every
def test_minimising_is_maximising_the_negative(factory: Factory) -> None:
    most = search(new_study(factory(0)), EASY, uneven, 42)
    least = search(new_study(factory(0), "minimize"), EASY, lambda p: -uneven(p), 42)
    assert most == least


@pytest.mark.slow
@_chosen([name for name in SAMPLERS if name != "random"])
def test_an_easy_optimum_is_approached_faster_than_at_random(factory: Factory) -> None:
    def reached(factory: Factory) -> float:
        """Hits of the last 20 of 200 networks, and of the best."""
        runs = [search(new_study(factory(seed)), EASY, hits, 200) for seed in range(3)]
        return statistics.median(
            max(map(hits, run)) + statistics.mean(map(hits, run[-20:])) for run in runs
        )

    assert reached(factory) > reached(SAMPLERS["random"]) + 1


@_chosen(ONE_OBJECTIVE)
def test_samplers_of_one_objective_refuse_two(factory: Factory) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=factory(0))
    with pytest.raises(ValueError, match=r"follows one objective; the study has 2.*nsga2"):
        ask(study, EASY)


@_chosen([name for name in SAMPLERS if name not in [*ONE_OBJECTIVE, "guided"]])
def test_the_others_search_with_two_objectives(factory: Factory) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=factory(0))
    for _ in range(30):
        trial = study.ask(dict(distributions(MIXED)))
        assert _valid(trial.params, MIXED)
        study.tell(trial, [uneven(trial.params), float(trial.params["layers"])])
    assert study.best_trials


def test_seeds_are_the_same_everywhere_and_always() -> None:
    golden = (2968811710, 1596810411, 2840374532)
    assert (seed_for(0, 0), seed_for(1, 2), seed_for(1, 2, "x")) == golden
    assert rng_for(1, 2).integers(1000, size=3).tolist() == [643, 448, 938]
    assert len({seed_for(seed, number) for seed in range(20) for number in range(20)}) == 400


def test_a_sampler_is_made_once_for_each_trial() -> None:
    made: list[int] = []

    def factory(seed: int) -> BaseSampler:
        made.append(seed)
        return RandomSampler(seed)

    search(new_study(PerTrial(factory, seed=5)), SIX, uneven, 10)
    assert made == [seed_for(5, number) for number in range(10)]
