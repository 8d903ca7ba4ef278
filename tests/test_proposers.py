"""What fills slots: a sampler on a study in memory, or a list."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from nas.cli import UserError
from nas.costs.objective import AccuracyObjective, Objective, ParetoObjective
from nas.samplers.seeding import PerTrial
from nas.trials.evaluate import Outcome
from nas.trials.halving import Halving
from nas.trials.proposers import FixedProposer, SamplerProposer
from nas.trials.record import Record
from nas.trials.study import Study
from nas.trials.trial import Proposal
from search_spaces.architecture import Architecture
from search_spaces.spaces import mnasnet
from tests.searching import (
    MediumSpace,
    SmallSpace,
    accuracy,
    drive,
    fixed_study,
    history,
    network,
    nsga,
    proposals,
    sampled_study,
)

TRIALS = 22


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _proposer(sampler: BaseSampler | None = None, objective: Objective | None = None):
    objective = objective or AccuracyObjective()
    return SamplerProposer(
        sampler or PerTrial(_random),
        MediumSpace(),
        epochs=1,
        seed=0,
        directions=objective.directions,
    )


def _study(database: Path, proposer: SamplerProposer, objective: Objective | None = None) -> Study:
    objective = objective or AccuracyObjective()
    record = Record(database, "study", directions=objective.directions)
    return Study(record, proposer, objective, TRIALS)


def test_the_study_in_memory_has_one_trial_a_slot_whatever_is_lost(tmp_path: Path) -> None:
    proposer = _proposer()
    study = _study(tmp_path / "a.db", proposer)
    for outcome in (
        Outcome(reason="worker-lost"),
        Outcome(accuracy=0.5),
        Outcome(reason="nan"),
    ):
        job = study.ask()
        assert job is not None
        study.tell(job, outcome)
    trials = proposer.study.trials
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize("objective", [AccuracyObjective(), ParetoObjective()])
def test_the_sampler_sees_the_same_after_a_restart(objective: Objective, tmp_path: Path) -> None:
    """States, values, accuracy and cost; a failed trial among them."""

    def often_nan(architecture: Architecture, *, epochs: int, seed: int) -> float:
        return float("nan") if int(architecture.digest, 16) % 4 == 0 else accuracy(architecture)

    before, after = _proposer(objective=objective), _proposer(objective=objective)
    study = _study(tmp_path / "a.db", before, objective)
    drive(study, often_nan)
    _study(tmp_path / "a.db", after, objective)
    assert {t.state for t in before.study.trials} == {TrialState.COMPLETE, TrialState.FAIL}
    for one, other in zip(before.study.trials, after.study.trials, strict=True):
        assert (one.state, one.values, one.params) == (other.state, other.values, other.params)
        assert one.distributions == other.distributions
        assert (one.user_attrs, one.system_attrs) == (other.user_attrs, other.system_attrs)
    for result, trial in zip(study.results, after.study.trials, strict=True):
        known = {"accuracy": result.outcome.accuracy, "cost": result.cost}
        assert trial.user_attrs == ({} if result.values is None else known)


def test_a_stopped_trial_is_pruned_at_its_rung_after_a_restart_too(tmp_path: Path) -> None:
    trials = []
    for _ in range(2):
        study = sampled_study(
            tmp_path / "a.db", 12, space=MediumSpace(), epochs=4, halving=Halving(reduction=2)
        )
        drive(study)
        proposer = study._proposer
        assert isinstance(proposer, SamplerProposer)
        trials.append([(t.state, t.values, t.intermediate_values) for t in proposer.study.trials])
    assert trials[0] == trials[1]
    stopped = [(values, curve) for state, values, curve in trials[0] if state == TrialState.PRUNED]
    assert stopped
    for values, curve in stopped:
        assert values == [curve[max(curve)]]
        assert max(curve) < 4


@pytest.mark.parametrize("objective", [AccuracyObjective(), ParetoObjective()])
@pytest.mark.parametrize("stops", [(5,), (4, 4), (0, 7, 6)])
def test_generations_go_on_after_a_kill(
    objective: Objective, stops: tuple[int, ...], tmp_path: Path
) -> None:
    """NSGA-II notes on its trials of which generation they are."""

    def start(name: str) -> Study:
        return _study(tmp_path / name, _proposer(PerTrial(nsga), objective), objective)

    whole = start("whole.db")
    drive(whole)
    for stop in stops:
        assert drive(start("cut.db"), stop=stop) is not None
    resumed = start("cut.db")
    assert resumed.num_finished == sum(stops)
    drive(resumed)
    assert history(resumed) == history(whole)
    record = Record(tmp_path / "cut.db", "study")
    generations = {t.system_attrs["OrderedNSGAIISampler:generation"] for t in record.trials()}
    record.close()
    assert generations == set(range(6))


class _Noting(RandomSampler):
    """Notes on a trial when it is drawn and when it ended, as samplers may."""

    def before_trial(self, study, trial) -> None:
        study._storage.set_trial_system_attr(trial._trial_id, "drawn", trial.number)

    def after_trial(self, study, trial, state, values) -> None:
        seen = trial.system_attrs.get("ended", 0)
        study._storage.set_trial_system_attr(trial._trial_id, "ended", seen + 1)


def test_what_the_sampler_notes_is_kept_and_told_once(tmp_path: Path) -> None:
    job = drive(_study(tmp_path / "a.db", _proposer(_Noting(seed=0))), stop=2)
    assert job is not None
    proposer = _proposer(_Noting(seed=0))
    study = _study(tmp_path / "a.db", proposer)
    notes = [dict(trial.system_attrs) for trial in proposer.study.trials]
    assert notes == [{"drawn": 0, "ended": 1}, {"drawn": 1, "ended": 1}, {"drawn": 2}]
    record = Record(tmp_path / "a.db", "study")
    assert [t.system_attrs for t in record.trials()] == notes
    # Killed between the outcome and the end: the sampler learns of it in the next process.
    job = study.ask()
    assert job is not None
    record.conclude(job.trial_id, Outcome(accuracy=0.5), {})
    record.close()
    proposer = _proposer(_Noting(seed=0))
    assert _study(tmp_path / "a.db", proposer).num_finished == 3
    assert proposer.study.trials[2].system_attrs == {"drawn": 2, "ended": 1}


def test_a_space_that_changed_under_a_record_is_refused(tmp_path: Path) -> None:
    drive(sampled_study(tmp_path / "a.db", 3))
    wider = mnasnet(resolution=32, num_classes=10, target_macs=30e6)
    with pytest.raises(UserError, match="now reads the choices of trial 0 as another network"):
        sampled_study(tmp_path / "a.db", 3, space=wider)


def test_a_space_needs_no_more_than_the_protocol(tmp_path: Path) -> None:
    study = sampled_study(tmp_path / "a.db", 5, space=SmallSpace())
    drive(study)
    assert study.num_finished == 5


def test_a_fixed_list_is_proposed_in_order(tmp_path: Path) -> None:
    items = proposals(3)
    proposer = FixedProposer(items)
    assert [proposer.propose(slot) for slot in range(3)] == items
    assert proposer.state(0) == {}
    labelled = replace(items[0], labels={"origin": "search"})
    study = fixed_study(tmp_path / "a.db", [labelled])
    drive(study)
    resumed = fixed_study(tmp_path / "a.db", [labelled])
    assert [r.job.proposal.labels for r in resumed.results] == [{"origin": "search"}]


def test_a_list_that_changed_under_its_name_is_refused() -> None:
    other = Proposal(architecture=network(99), epochs=1, seed=0)
    with pytest.raises(UserError, match="Trial 0 of the record is of w99k3, which is not"):
        FixedProposer(proposals(1)).restore(0, other, {}, None)
