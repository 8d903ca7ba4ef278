"""The contract that every strategy keeps, and what is particular to one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from optuna.samplers import TPESampler

from nas.cli import UserError
from nas.search.strategies import (
    TPE_STARTUP_TRIALS,
    FixedProposer,
    SamplerProposer,
    load_strategy,
)
from nas.search.study import Proposal
from search_spaces.architecture import Architecture
from search_spaces.spaces import mnasnet
from tests.searching import (
    SPACE,
    History,
    SmallSpace,
    drive,
    fixed_study,
    history,
    large_kernels,
    network,
    proposals,
    sampled_study,
)

TRIALS = 18

every_strategy = pytest.mark.parametrize("strategy", ["random", "tpe"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], History]:
    """What a strategy does, from seed 0, if nothing interrupts it."""

    @cache
    def run(strategy: str) -> History:
        database = tmp_path_factory.mktemp("whole") / "study.db"
        study = sampled_study(database, TRIALS, strategy=strategy)
        drive(study)
        return history(study)

    return run


@every_strategy
def test_the_same_seed_gives_the_same_sequence(
    strategy: str, whole: Callable[[str], History], tmp_path: Path
) -> None:
    for seed in (0, 1):
        study = sampled_study(tmp_path / f"{seed}.db", TRIALS, strategy=strategy, seed=seed)
        drive(study)
        assert (history(study) == whole(strategy)) == (seed == 0)
    assert len(whole(strategy)) == TRIALS


@every_strategy
@pytest.mark.parametrize("stops", [(0,), (9, 3), (4, 4, 4)])
def test_a_killed_study_ends_as_an_uninterrupted_one(
    strategy: str, stops: tuple[int, ...], whole: Callable[[str], History], tmp_path: Path
) -> None:
    for stop in stops:
        job = drive(sampled_study(tmp_path / "cut.db", TRIALS, strategy=strategy), stop=stop)
        assert job is not None
    resumed = sampled_study(tmp_path / "cut.db", TRIALS, strategy=strategy)
    assert resumed.num_finished == sum(stops)
    drive(resumed)
    assert history(resumed) == whole(strategy)


@every_strategy
def test_more_trials_go_on_as_if_asked_for_at_once(
    strategy: str, whole: Callable[[str], History], tmp_path: Path
) -> None:
    drive(sampled_study(tmp_path / "a.db", 12, strategy=strategy))
    longer = sampled_study(tmp_path / "a.db", TRIALS, strategy=strategy)
    drive(longer)
    assert history(longer) == whole(strategy)


@every_strategy
def test_failures_are_kept_and_the_search_goes_on(strategy: str, tmp_path: Path) -> None:
    def often_nan(architecture: Architecture, *, epochs: int, seed: int) -> float:
        return float("nan") if int(architecture.digest, 16) % 3 == 0 else 0.5

    study = sampled_study(tmp_path / "a.db", TRIALS, strategy=strategy)
    drive(study, often_nan)
    values = [value for *_, value in history(study)]
    assert len(values) == TRIALS
    assert values.count(None) > 0
    assert set(values) == {None, 0.5}


@every_strategy
def test_every_proposal_is_a_network_of_the_space(strategy: str, tmp_path: Path) -> None:
    study = sampled_study(tmp_path / "a.db", TRIALS, strategy=strategy)
    drive(study)
    for result in study.results:
        proposal = result.job.proposal
        assert SPACE.decode(proposal.params) == proposal.architecture
        assert list(proposal.params) == list(SPACE.choices)
        assert (proposal.epochs, proposal.seed) == (1, 0)


@every_strategy
def test_parallel_workers_get_different_slots(strategy: str, tmp_path: Path) -> None:
    study = sampled_study(tmp_path / "a.db", TRIALS, strategy=strategy)
    jobs = [job for _ in range(4) if (job := study.ask()) is not None]
    assert [job.slot for job in jobs] == [0, 1, 2, 3]
    assert len({job.proposal.key for job in jobs}) == 4


def test_random_search_shares_the_first_trials_of_tpe(whole: Callable[[str], History]) -> None:
    tpe, control = whole("tpe"), whole("random")
    assert tpe[:TPE_STARTUP_TRIALS] == control[:TPE_STARTUP_TRIALS]
    assert all(one != other for one, other in zip(tpe[10:], control[10:], strict=True))


def test_tpe_learns(tmp_path: Path) -> None:
    means = {}
    for strategy in ("tpe", "random"):
        study = sampled_study(tmp_path / f"{strategy}.db", 40, strategy=strategy)
        drive(study, large_kernels)
        means[strategy] = sum(value or 0 for *_, value in history(study)[30:]) / 10
    assert means["tpe"] > means["random"] + 0.2


def test_a_strategy_of_the_user_s_own(tmp_path: Path) -> None:
    study = sampled_study(tmp_path / "a.db", 6, strategy="tests.searching:nsga")
    drive(study)
    assert study.num_finished == 6


def test_strategies_are_found_by_name() -> None:
    assert isinstance(load_strategy("tpe")(3), TPESampler)
    with pytest.raises(UserError, match="must be one of random, tpe, or my_module:factory; got 'x"):
        load_strategy("xyz")


def test_a_space_that_changed_under_a_record_is_refused(tmp_path: Path) -> None:
    drive(sampled_study(tmp_path / "a.db", 3))
    wider = mnasnet(resolution=32, num_classes=10, target_macs=30e6)
    with pytest.raises(UserError, match="now reads the choices of trial 0 as another network"):
        sampled_study(tmp_path / "a.db", 3, space=wider)


def test_a_space_needs_no_more_than_the_protocol(tmp_path: Path) -> None:
    study = sampled_study(tmp_path / "a.db", 5, space=SmallSpace())
    drive(study)
    assert study.num_finished == 5


def test_samplers_get_a_seed_of_their_own_for_every_slot() -> None:
    seeds: list[int] = []

    def noting(seed: int) -> TPESampler:
        seeds.append(seed)
        return TPESampler(seed=seed)

    for seed in (0, 1):
        proposer = SamplerProposer(noting, SmallSpace(), epochs=1, seed=seed)
        for slot in range(5):
            proposer.propose(slot)
    assert len(set(seeds)) == 10


def test_a_fixed_list_is_proposed_in_order(tmp_path: Path) -> None:
    items = proposals(3)
    proposer = FixedProposer(items)
    assert [proposer.propose(slot) for slot in range(3)] == items
    proposer.observe(0, 0.5)
    labelled = replace(items[0], labels={"origin": "search"})
    study = fixed_study(tmp_path / "a.db", [labelled])
    drive(study)
    resumed = fixed_study(tmp_path / "a.db", [labelled])
    assert [r.job.proposal.labels for r in resumed.results] == [{"origin": "search"}]


def test_a_list_that_changed_under_its_name_is_a_bug() -> None:
    other = Proposal(architecture=network(99), epochs=1, seed=0)
    with pytest.raises(AssertionError, match="the list changed"):
        FixedProposer(proposals(1)).restore(0, other)
