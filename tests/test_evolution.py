"""Regularized evolution, and the choices that our samplers share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from nas.samplers.evolution import RegularizedEvolutionSampler
from nas.samplers.history import Choices, Indices, Past, scores
from tests.sampling import EASY, PLANTED, Direction, Params, add, ask, distributions, new_study

_sizes = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def _network(*places: int) -> Params:
    """The network of `EASY` with 9 at some places and 3 elsewhere."""
    return {name: 9 if i in places else 3 for i, name in enumerate(EASY)}


def _distance(left: Params, right: Params) -> int:
    return sum(left[name] != right[name] for name in EASY)


def _choices(sizes: list[int]) -> Choices:
    return Choices(distributions({f"c{i}": tuple(range(size)) for i, size in enumerate(sizes)}))


@pytest.mark.parametrize(("direction", "winner"), [("maximize", 1), ("minimize", 2)])
def test_the_winner_of_the_tournament_changes_in_one_choice(
    direction: Direction, winner: int
) -> None:
    study = new_study(RegularizedEvolutionSampler(population_size=8, sample_size=8), direction)
    for i in range(8):
        add(study, EASY, _network(i), value=(i - 2) % 8)
    assert {_distance(ask(study, EASY), _network(winner)) for _ in range(10)} == {1}


def test_the_old_die_however_good() -> None:
    study = new_study(RegularizedEvolutionSampler(population_size=4, sample_size=4))
    add(study, EASY, PLANTED, value=100)
    for i in range(4):
        add(study, EASY, _network(0, 1, i), value=i)
    assert _distance(ask(study, EASY), _network(0, 1, 3)) == 1


def test_a_trial_that_ended_late_is_as_old_as_its_number() -> None:
    study = new_study(RegularizedEvolutionSampler(population_size=2, sample_size=2))
    late = study.ask(dict(distributions(EASY)))
    for i in range(2):
        add(study, EASY, _network(i), value=i)
    study.tell(late, 100.0)
    assert _distance(ask(study, EASY), _network(1)) == 1


def test_a_small_tournament_lets_others_than_the_best_win() -> None:
    study = new_study(RegularizedEvolutionSampler(population_size=8, sample_size=1))
    for i in range(8):
        add(study, EASY, _network(i), value=i)
    asked = [ask(study, EASY) for _ in range(40)]
    parents = {i for i in range(8) for params in asked if _distance(params, _network(i)) == 1}
    assert parents == set(range(8))


def test_the_population_begins_at_random() -> None:
    study = new_study(RegularizedEvolutionSampler(population_size=20, sample_size=20))
    for _ in range(19):
        add(study, EASY, PLANTED, value=1)
    assert min(_distance(ask(study, EASY), PLANTED) for _ in range(20)) > 1


@pytest.mark.parametrize(("population_size", "sample_size"), [(5, 6), (5, 0)])
def test_a_tournament_larger_than_the_population_is_refused(
    population_size: int, sample_size: int
) -> None:
    with pytest.raises(ValueError, match=rf"must hold, but got \(sample_size={sample_size}, pop"):
        RegularizedEvolutionSampler(population_size=population_size, sample_size=sample_size)


@given(_sizes, st.integers(0, 2**32))
def test_encoding_and_decoding_are_inverse(sizes: list[int], seed: int) -> None:
    choices = _choices(sizes)
    network = choices.draw(np.random.default_rng(seed))
    assert choices.encode(choices.decode(network)) == network
    assert choices.num_networks == np.prod(sizes)


@given(_sizes, st.integers(0, 2**32))
def test_a_mutation_changes_one_choice_to_another_option(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices = _choices(sizes)
    network = choices.draw(rng)
    mutant = choices.mutate(network, rng)
    assert sum(a != b for a, b in zip(network, mutant, strict=True)) == (max(sizes) > 1)
    assert all(0 <= option < size for option, size in zip(mutant, sizes, strict=True))


@given(_sizes, st.integers(0, 2**32))
def test_every_network_is_found_before_one_comes_again(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices = _choices(sizes)
    taken: set[tuple[int, ...]] = set()
    for _ in range(choices.num_networks):
        taken.add(choices.avoid(taken, choices.draw(rng), rng))
    assert len(taken) == choices.num_networks
    assert choices.avoid(taken, (0,) * len(sizes), rng) == (0,) * len(sizes)


def test_every_mutation_is_equally_likely() -> None:
    rng, choices = np.random.default_rng(0), _choices([2, 3, 1, 4])
    mutants = [choices.mutate((0, 1, 0, 2), rng) for _ in range(6000)]
    counts = {mutant: mutants.count(mutant) for mutant in set(mutants)}
    expected: dict[Indices, float] = {(1, 1, 0, 2): 2000, (0, 0, 0, 2): 1000, (0, 2, 0, 2): 1000}
    expected |= {(0, 1, 0, last): 2000 / 3 for last in (0, 1, 3)}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[key] - expected[key]) < 4 * expected[key] ** 0.5 for key in counts)


def test_only_complete_trials_with_finite_values_are_history() -> None:
    study = new_study(RegularizedEvolutionSampler(), "minimize")
    add(study, EASY, PLANTED, TrialState.FAIL)
    add(study, EASY, PLANTED, value=float("inf"))
    add(study, EASY, PLANTED, TrialState.PRUNED, value=1)
    add(study, EASY, PLANTED, TrialState.RUNNING)
    for value in (3, 2):
        add(study, EASY, PLANTED, value=value)
    assert [trial.number for trial in Past().finished(study)] == [4, 5]
    assert scores(study, Past().finished(study)).tolist() == [[-3], [-2]]
    assert scores(study, []).shape == (0, 1)


def test_the_search_space_is_what_ended_trials_share() -> None:
    study = new_study(RegularizedEvolutionSampler())
    assert Past().space(study) == {}
    three, four = {"b": (1, 2), "a": (3,), "x": (0, 1)}, {"a": (3,), "b": (1, 2), "x": (0, 1, 2)}
    add(study, three, {"b": 1, "a": 3, "x": 0}, TrialState.FAIL)
    assert Past().space(study) == {}
    add(study, three, {"b": 1, "a": 3, "x": 0}, TrialState.RUNNING)
    assert list(Past().space(study)) == ["a", "b", "x"]
    add(study, four, {"b": 1, "a": 3, "x": 0}, TrialState.PRUNED)
    add(study, three, {"b": 1, "a": 3, "x": 0}, value=1)
    assert list(Past().space(study)) == ["a", "b"]


def test_only_categorical_choices_have_indices() -> None:
    with pytest.raises(ValueError, match="Only categorical choices have indices; 'rate' is none"):
        Choices({"rate": FloatDistribution(0, 1)})
