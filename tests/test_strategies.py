"""The contract that every strategy keeps in a search, and what is particular to one."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nas.cli import UserError
from nas.costs.objective import AccuracyObjective, ParetoObjective
from nas.search.strategies import STRATEGIES, TPE_STARTUP_TRIALS, Problem, load_strategy
from nas.trials.halving import Halving
from nas.trials.study import Study
from nas.trials.trial import Job
from search_spaces.architecture import Architecture
from tests.searching import (
    SPACE,
    History,
    MediumSpace,
    SmallSpace,
    accuracy,
    drive,
    history,
    large_kernels,
    outcomes,
    sampled_study,
)

TRIALS = 18
HALVING = {"epochs": 4, "halving": Halving(reduction=2)}

every_strategy = pytest.mark.parametrize("strategy", sorted(STRATEGIES))
several_objectives = pytest.mark.parametrize("strategy", ["guided", "nsga2", "random", "tpe"])


def _start(database: Path, strategy: str, trials: int = TRIALS, **options: Any) -> Study:
    return sampled_study(database, trials, strategy=strategy, **{"space": MediumSpace(), **options})


def _sometimes_nan(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Fails for a quarter of the networks."""
    failed = int(architecture.digest, 16) % 4 == 0
    return float("nan") if failed else accuracy(architecture, epochs=epochs, seed=seed)


Run = Callable[..., History]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What a strategy does, from seed 0, if nothing interrupts it."""

    @cache
    def run(strategy: str, halved: bool = False) -> History:
        database = tmp_path_factory.mktemp("whole") / "study.db"
        study = _start(database, strategy, **(HALVING if halved else {}))
        drive(study, _sometimes_nan)
        return history(study)

    return run


@every_strategy
def test_the_same_seed_gives_the_same_sequence(strategy: str, whole: Run, tmp_path: Path) -> None:
    """And another seed another; failures are part of it. The same seed again: see below."""
    other = _start(tmp_path / "other.db", strategy, seed=1)
    drive(other, _sometimes_nan)
    assert history(other) != whole(strategy)
    assert len(history(other)) == len(whole(strategy)) == TRIALS


@every_strategy
def test_a_killed_study_ends_as_an_uninterrupted_one(
    strategy: str, whole: Run, tmp_path: Path
) -> None:
    """One that was asked for fewer trials at first, too."""
    drive(_start(tmp_path / "cut.db", strategy, 6), _sometimes_nan)
    for stop in (0, 6, 3):
        job = drive(_start(tmp_path / "cut.db", strategy), _sometimes_nan, stop=stop)
        assert job is not None
    resumed = _start(tmp_path / "cut.db", strategy)
    assert 15 <= resumed.num_finished < TRIALS  # more, where a network came again
    drive(resumed, _sometimes_nan)
    assert history(resumed) == whole(strategy)


@every_strategy
def test_a_halved_study_that_is_killed_ends_as_an_uninterrupted_one(
    strategy: str, whole: Run, tmp_path: Path
) -> None:
    for stop in (7, 6):
        study = _start(tmp_path / "cut.db", strategy, **HALVING)
        job = drive(study, _sometimes_nan, stop=stop)
        assert job is not None
        at_first_rung = next(outcomes(job, _sometimes_nan))
        if at_first_rung.accuracy is not None:
            study.report(job, at_first_rung)
    resumed = _start(tmp_path / "cut.db", strategy, **HALVING)
    drive(resumed, _sometimes_nan)
    assert history(resumed) == whole(strategy, halved=True)
    assert resumed.epochs_saved > 0


@every_strategy
def test_parallel_workers_get_different_networks_of_a_real_space(
    strategy: str, tmp_path: Path
) -> None:
    """Also while trials of a dead process stand in the record; those are run again."""
    study = _start(tmp_path / "a.db", strategy, 20, space=SPACE)
    drive(study, stop=11)
    asked: list[list[Job]] = []
    for _ in range(2):
        study = _start(tmp_path / "a.db", strategy, 20, space=SPACE)
        asked.append([job for _ in range(8) if (job := study.ask()) is not None])
    slots = [job.slot for job in asked[0]]
    assert len(slots) == 8
    assert slots == sorted(slots)
    assert slots[0] == 11
    assert len({job.proposal.key for job in asked[0]}) == 8
    assert [job.proposal.key for job in asked[0]] == [job.proposal.key for job in asked[1]]
    for job in asked[1]:
        proposal = job.proposal
        assert SPACE.decode(proposal.params) == proposal.architecture
        assert list(proposal.params) == list(SPACE.choices)
        assert (proposal.epochs, proposal.seed) == (1, 0)


@every_strategy
def test_no_network_is_trained_twice_however_small_the_space(strategy: str, tmp_path: Path) -> None:
    calls = Counter[tuple[str, int, int]]()

    def counting(architecture: Architecture, *, epochs: int, seed: int) -> float:
        calls[architecture.digest, epochs, seed] += 1
        return accuracy(architecture)

    study = _start(tmp_path / "a.db", strategy, 30, space=SmallSpace())
    drive(study, counting)
    assert study.num_finished == 30
    assert set(calls.values()) == {1}
    assert len(calls) <= 6


@several_objectives
def test_accuracy_and_cost_are_searched_without_a_reward(strategy: str, tmp_path: Path) -> None:
    whole = _start(tmp_path / "whole.db", strategy, 24, objective=ParetoObjective())
    drive(whole, _sometimes_nan)
    for stop in (8, 13):
        cut = _start(tmp_path / "cut.db", strategy, 24, objective=ParetoObjective())
        drive(cut, _sometimes_nan, stop=stop)
    resumed = _start(tmp_path / "cut.db", strategy, 24, objective=ParetoObjective())
    drive(resumed, _sometimes_nan)
    assert history(resumed) == history(whole)
    assert whole.best is None
    assert whole.front
    for result in whole.front:
        assert result.values == (result.outcome.accuracy, result.cost)


def test_random_search_shares_the_first_trials_of_tpe(whole: Run) -> None:
    tpe, control = whole("tpe"), whole("random")
    assert tpe[:TPE_STARTUP_TRIALS] == control[:TPE_STARTUP_TRIALS]
    assert tpe[TPE_STARTUP_TRIALS + 2 :] != control[TPE_STARTUP_TRIALS + 2 :]


def test_tpe_learns(tmp_path: Path) -> None:
    means = {}
    for strategy in ("tpe", "random"):
        study = _start(tmp_path / f"{strategy}.db", strategy, 40, space=SPACE)
        drive(study, large_kernels)
        means[strategy] = sum(end[2][0] for end in history(study)[30:] if end[2]) / 10
    assert means["tpe"] > means["random"] + 0.2


def test_a_strategy_of_the_user_s_own(tmp_path: Path) -> None:
    study = _start(tmp_path / "a.db", "tests.searching:nsga", 6)
    drive(study)
    assert study.num_finished == 6


def test_strategies_are_found_by_name() -> None:
    problem = Problem(space=SmallSpace(), objective=AccuracyObjective(), seed=3)
    assert load_strategy("tpe")(problem) is not load_strategy("tpe")(problem)
    with pytest.raises(UserError, match=r"must be one of .*tpe.*, or my_module:factory; got 'xyz"):
        load_strategy("xyz")
