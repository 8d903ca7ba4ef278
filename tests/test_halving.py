"""Successive halving: where trials are compared, who is stopped, and what is kept of them."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from nas.cli import UserError
from nas.costs.objective import Direction, ParetoObjective, RewardObjective
from nas.costs.reward import Reward
from nas.trials.attributes import known_measurements
from nas.trials.evaluate import Outcome
from nas.trials.halving import Halving, Race
from nas.trials.record import Record, outcome_of
from nas.trials.trial import Proposal
from search_spaces.architecture import Architecture
from tests.searching import (
    HALVING,
    SmallSpace,
    accuracy,
    ask,
    at,
    drive,
    falling,
    fixed_study,
    halved_study,
    long_proposals,
    network,
    sampled_study,
)


def _rising(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """The wider, the better: none is stopped."""
    return 1 - falling(architecture, epochs=epochs, seed=seed)


# The rule


@pytest.mark.parametrize(
    ("halving", "epochs", "rungs"),
    [
        (Halving(), 6, (1, 3, 6)),
        (Halving(), 9, (1, 3, 9)),
        (Halving(), 2, (1, 2)),
        (Halving(min_epochs=2, reduction=2), 9, (2, 4, 8, 9)),
        (Halving(min_epochs=3, reduction=4), 50, (3, 12, 48, 50)),
    ],
)
def test_rungs_are_powers_up_to_the_end(
    halving: Halving, epochs: int, rungs: tuple[int, ...]
) -> None:
    assert halving.rungs(epochs) == rungs


def test_the_rule_in_words() -> None:
    expected = "stopped after 1, 3 of 6 epochs unless in the best 1 of 3"
    assert Halving().describe(6) == expected


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_rung_before_the_end_is_needed(epochs: int) -> None:
    with pytest.raises(UserError, match=f"after 3 epochs, which is the end of trials of {epochs}"):
        Halving(min_epochs=3).rungs(epochs)


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(UserError, match="after 1 epoch or more, but got 0"):
        Halving(min_epochs=0)
    with pytest.raises(UserError, match="one trial of 2 or more at every rung, but got 1"):
        Halving(reduction=1)


def test_two_objectives_cannot_be_halved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`--halving` ranks unfinished trials by one value"):
        sampled_study(tmp_path / "a.db", 2, epochs=4, halving=HALVING, objective=ParetoObjective())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["maximize", "minimize"]),
    st.integers(2, 4),
    st.lists(st.lists(st.sampled_from([*range(8), math.nan]), max_size=4), max_size=25),
    st.sets(st.integers(0, 24)),
)
def test_who_is_stopped_is_whom_optuna_would_stop(
    direction: Direction, reduction: int, curves: list[list[float]], forgotten: set[int]
) -> None:
    """Those that failed in the meantime are as if they had never reported."""
    pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
    study = optuna.create_study(
        direction=direction, sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner
    )
    race = Race(Halving(reduction=reduction), direction)
    for slot, curve in enumerate(curves):
        trial = None if slot in forgotten else study.ask()
        for rung, value in enumerate(curve):
            stops = race.report(slot, reduction**rung, value)
            if trial is not None:
                trial.report(value, reduction**rung)
                assert stops == trial.should_prune()
            if stops:
                break
        if trial is None:
            race.forget(slot)
            assert race.curve(slot) == {}


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(2, 30), st.integers(0, 4))
def test_our_rungs_are_where_optuna_decides(
    min_epochs: int, reduction: int, epochs: int, good: int
) -> None:
    """Of a trial that reports every epoch and falls behind after its `good`th rung."""
    if min_epochs >= epochs:
        return
    rungs = Halving(min_epochs=min_epochs, reduction=reduction).rungs(epochs)[:-1]
    pruner = SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=reduction)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner
    )

    def stopped_at(behind_from: int) -> int | None:
        trial = study.ask()
        for epoch in range(1, epochs):
            trial.report(0.0 if epoch >= behind_from else 1.0, epoch)
            if trial.should_prune():
                return epoch
        return None

    for _ in range(2 * reduction):
        assert stopped_at(epochs) is None
    behind_from = rungs[good] if good < len(rungs) else epochs
    assert stopped_at(behind_from) == (rungs[good] if good < len(rungs) else None)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=25), st.data())
def test_a_restored_race_decides_as_the_first_did(values: list[int], data: Any) -> None:
    first, slot = Race(Halving(), "maximize"), 0
    for slot, value in enumerate(values):
        if not first.report(slot, 1, value):
            first.report(slot, 3, value)
    second = Race(Halving(), "maximize")
    for slot in data.draw(st.permutations(range(len(values)))):
        second.restore(slot, first.curve(slot))
    first.report(99, 1, 4.5)
    first.forget(99)
    for value in (0.5, 4.5, 9.5):
        assert first.report(100 + slot, 1, value) == second.report(100 + slot, 1, value)
        first.forget(100 + slot)
        second.forget(100 + slot)


# Its trials


def test_a_stopped_trial_is_pruned_and_never_ranks(tmp_path: Path) -> None:
    study = halved_study(tmp_path / "a.db", 3)
    drive(study, falling)
    assert [r.pruned for r in study.results] == [False, True, True]
    assert [r.values for r in study.results] == [(0.5,), None, None]
    assert [r.outcome.epochs for r in study.results] == [4, 1, 1]
    assert study.best is not None
    assert study.best.job.slot == 0
    assert list(study.completed) == study.front == [study.best]
    assert (study.epochs_spent, study.epochs_saved) == (6, 6)

    record = Record(tmp_path / "a.db", "study")
    whole, *stopped = record.trials()
    record.close()
    assert (whole.state, whole.intermediate_values) == (TrialState.COMPLETE, {1: 0.5, 2: 0.5})
    assert [t.state for t in stopped] == [TrialState.PRUNED] * 2
    assert [t.intermediate_values for t in stopped] == [{1: 1 / 3}, {1: 1 / 4}]
    assert [t.values for t in stopped] == [None, None]
    assert {outcome_of(t).reason for t in stopped} == {"pruned"}


def test_who_rises_goes_on(tmp_path: Path) -> None:
    study = halved_study(tmp_path / "a.db", 5)
    drive(study, _rising)
    assert (study.epochs_spent, study.epochs_saved) == (20, 0)


def test_trials_are_compared_by_the_objective(tmp_path: Path) -> None:
    """Equal accuracy: the dearer network is stopped."""
    dear, cheap = Proposal(architecture=network(9), epochs=4, seed=0), *long_proposals(1)
    study = fixed_study(tmp_path / "a.db", [cheap, dear], halving=HALVING)
    study.objective = RewardObjective(Reward(1e4))
    drive(study, lambda architecture, *, epochs, seed: 0.5)
    assert [r.pruned for r in study.results] == [False, True]


def test_a_stopped_trial_is_not_known_to_other_studies(tmp_path: Path) -> None:
    drive(halved_study(tmp_path / "a.db", 3), falling)
    known = known_measurements(tmp_path / "a.db")
    assert set(known) == {long_proposals(1)[0].key}
    fresh = fixed_study(tmp_path / "b.db", long_proposals(3), known=known)
    drive(fresh, falling)
    assert [r.outcome.reused_from for r in fresh.results] == ["study #0", "", ""]


def test_a_network_is_neither_stopped_nor_trained_twice(tmp_path: Path) -> None:
    calls = Counter[tuple[str, int]]()

    def counting(architecture: Architecture, *, epochs: int, seed: int) -> float:
        calls[architecture.digest, epochs] += 1
        return falling(architecture, epochs=epochs, seed=seed)

    for trials in (8, 30):  # the second goes on with what the first stopped
        study = sampled_study(
            tmp_path / "a.db", trials, space=SmallSpace(), epochs=4, halving=HALVING
        )
        drive(study, counting)
    assert set(calls.values()) == {1}
    verdicts: dict[str, bool] = {}
    for result in study.results:
        digest = result.job.proposal.architecture.digest
        assert bool(result.outcome.reused_from) == (digest in verdicts)
        assert verdicts.setdefault(digest, result.pruned) == result.pruned
        assert not result.pruned or result.curve
    assert len(study.results) == 30
    assert study.epochs_spent == sum(
        r.outcome.epochs for r in study.results if not r.outcome.reused_from
    )


@pytest.mark.parametrize("stop", [True, False])
def test_slots_with_one_network_share_a_training(stop: bool, tmp_path: Path) -> None:
    first, second = long_proposals(2)
    study = fixed_study(tmp_path / "a.db", [first, second, second], halving=HALVING)
    leader, shared = ask(study), ask(study)
    assert study.ask() is None
    assert not study.report(leader, at(1, 0.5))
    assert study.report(shared, at(1, 0.25 if stop else 0.75)) == stop
    study.tell(shared, at(1, 0.25) if stop else at(4, 0.8))
    one, other = study.results
    assert (one.pruned, one.values, one.curve) == (other.pruned, other.values, other.curve)
    assert one.pruned == stop
    assert other.outcome.reused_from == "study #1"
    record = Record(tmp_path / "a.db", "study")
    curves = [trial.intermediate_values for trial in record.trials()]
    record.close()
    assert curves[1] == curves[2]


def test_what_a_lost_worker_reported_is_discarded(tmp_path: Path) -> None:
    study = halved_study(tmp_path / "a.db", 2)
    job = ask(study)
    study.report(job, at(1, 0.9))
    study.tell(job, Outcome(reason="worker-lost"))
    other, again = ask(study), ask(study)
    if other.slot == 0:
        other, again = again, other
    assert (again.slot, again.attempt) == (0, 1)
    assert not study.report(other, at(1, 0.1)), "the lost 0.9 must not stop it"
    assert not study.report(again, at(1, 0.9))


def test_a_failure_on_the_way_has_no_value(tmp_path: Path) -> None:
    def nan_later(architecture: Architecture, *, epochs: int, seed: int) -> float:
        return 0.9 if epochs == 1 else float("nan")

    study = halved_study(tmp_path / "a.db", 2)
    drive(study, nan_later)
    assert [r.outcome.reason for r in study.results] == ["nan", "nan"]
    assert [r.outcome.epochs for r in study.results] == [1, 1]
    assert [r.epochs for r in study.results] == [1, 1]
    assert study.epochs_saved == 0


def test_accuracy_of_the_fake_depends_on_epochs() -> None:
    """Else these tests would not tell rungs apart."""
    assert accuracy(network(3), epochs=1) != accuracy(network(3), epochs=4)
