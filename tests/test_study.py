"""The trial loop: what is measured, what a crash leaves behind, what is never done twice."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from nas.cli import UserError
from nas.costs.objective import ParetoObjective
from nas.trials.attributes import known_measurements
from nas.trials.evaluate import Outcome
from nas.trials.proposers import FixedProposer
from nas.trials.record import Record, outcome_of
from nas.trials.retries import MAX_LOST
from nas.trials.study import MAX_FAILURES_IN_A_ROW, Study
from nas.trials.trial import Job, Result
from search_spaces.architecture import Architecture
from tests.searching import (
    SmallSpace,
    accuracy,
    drive,
    fixed_study,
    history,
    proposals,
    sampled_study,
)

GOOD = Outcome(accuracy=0.5, seconds=1.0)
LOST = Outcome(reason="worker-lost", detail="killed")


def _ask(study: Study) -> Job:
    job = study.ask()
    assert job is not None
    return job


def _trials(database: Path) -> list[tuple[int, int, str, str]]:
    """Slot, attempt, state and reason of every trial, by number."""
    record = Record(database, "study")
    rows = []
    for trial in record.trials():
        slot, attempt = trial.user_attrs["slot"], trial.user_attrs["attempt"]
        reason = outcome_of(trial).reason if "outcome" in trial.user_attrs else "-"
        rows.append((slot, attempt, trial.state.name, reason))
    record.close()
    return rows


def test_every_slot_is_measured_once_and_reported(tmp_path: Path) -> None:
    seen: list[Result] = []
    study = fixed_study(tmp_path / "a.db", proposals(4), on_result=seen.append)
    drive(study)
    assert [r.job.slot for r in seen] == [0, 1, 2, 3]
    assert [r.value for r in seen] == [accuracy(p.architecture) for p in proposals(4)]
    assert (study.num_finished, study.num_running, study.ask()) == (4, 0, None)


def test_the_best_is_the_earliest_of_equals(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(4))
    assert study.best is None
    for value in (0.2, 0.7, 0.7, 0.1):
        study.tell(_ask(study), Outcome(accuracy=value))
    assert study.best is not None
    assert study.best.job.slot == 1


@pytest.mark.parametrize("attempts", range(1, MAX_LOST + 1))
def test_an_orphan_fails_and_is_queued_again(attempts: int, tmp_path: Path) -> None:
    for _ in range(attempts):
        _ask(fixed_study(tmp_path / "a.db", proposals(2)))
    study = fixed_study(tmp_path / "a.db", proposals(2))
    drive(study)
    orphans = [(0, i, "FAIL", "orphaned") for i in range(attempts)]
    assert _trials(tmp_path / "a.db") == [
        *orphans,
        (0, attempts, "COMPLETE", ""),
        (1, 0, "COMPLETE", ""),
    ]


def test_an_orphan_is_queued_again_at_most_twice(tmp_path: Path) -> None:
    for _ in range(MAX_LOST + 1):
        assert _ask(fixed_study(tmp_path / "a.db", proposals(2))).slot == 0
    study = fixed_study(tmp_path / "a.db", proposals(2))
    assert study.num_finished == 1
    assert _ask(study).slot == 1
    failed = study.results[0]
    assert (failed.job.slot, failed.value, failed.outcome.reason) == (0, None, "orphaned")


def test_a_lost_worker_is_retried_at_most_twice(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(1))
    for attempt in range(MAX_LOST + 1):
        job = _ask(study)
        assert (job.slot, job.attempt) == (0, attempt)
        study.tell(job, LOST)
    assert study.ask() is None
    assert [r.outcome.reason for r in study.results] == ["worker-lost"]


def test_ctrl_c_costs_no_retry(tmp_path: Path) -> None:
    for _ in range(2 * MAX_LOST + 1):
        study = fixed_study(tmp_path / "a.db", proposals(3))
        jobs = [_ask(study), _ask(study)]
        assert sorted((job.slot, job.attempt) for job in jobs) == [(0, 0), (1, 0)]
        study.interrupt()
        assert study.num_running == 0
    study = fixed_study(tmp_path / "a.db", proposals(3))
    drive(study)
    assert {slot for slot, _, state, _ in _trials(tmp_path / "a.db") if state == "COMPLETE"} == {
        0,
        1,
        2,
    }


def test_an_outcome_that_was_written_is_not_lost_by_a_kill_before_the_state(
    tmp_path: Path,
) -> None:
    job = _ask(fixed_study(tmp_path / "a.db", proposals(1)))
    record = Record(tmp_path / "a.db", "study")
    record._storage.set_trial_user_attr(job.trial_id, "outcome", {"accuracy": 0.25})
    record.close()
    study = fixed_study(tmp_path / "a.db", proposals(1))
    assert study.ask() is None
    assert [r.value for r in study.results] == [0.25]
    assert _trials(tmp_path / "a.db") == [(0, 0, "COMPLETE", "")]


def test_row_8_several_failures_in_a_row_stop_with_the_first_error(
    tmp_path: Path,
) -> None:
    def failing(architecture: Architecture, *, epochs: int, seed: int) -> float:
        raise RuntimeError(f"cannot train {architecture.name}")

    study = fixed_study(tmp_path / "a.db", proposals(9))
    with pytest.raises(UserError, match="5 trials in a row failed") as caught:
        drive(study, failing)
    assert "RuntimeError: cannot train w1k3" in str(caught.value)
    assert "w2k3" not in str(caught.value)
    study.interrupt()
    assert study.num_finished == MAX_FAILURES_IN_A_ROW


def test_a_success_between_failures_lets_the_study_go_on(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(12))
    for i in range(12):
        outcome = GOOD if i % MAX_FAILURES_IN_A_ROW == 4 else Outcome(reason="nan")
        study.tell(_ask(study), outcome)
    assert study.num_finished == 12


_ends = st.one_of(
    st.floats(0, 1).map(lambda accuracy: Outcome(accuracy=accuracy)),
    st.sampled_from([Outcome(reason="nan"), Outcome(reason="timeout"), Outcome(reason="error")]),
)


@settings(max_examples=5)
@given(st.lists(_ends, min_size=1, max_size=MAX_FAILURES_IN_A_ROW + 3))
def test_a_failure_has_no_value_and_never_ranks(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[Outcome]
) -> None:
    database = tmp_path_factory.mktemp("ranks") / "a.db"
    study = fixed_study(database, proposals(len(outcomes)))
    for outcome in outcomes:
        with suppress(UserError):  # too many in a row
            study.tell(_ask(study), outcome)
    values = {i: o.accuracy for i, o in enumerate(outcomes) if o.accuracy is not None}
    for seen in (study, fixed_study(database, proposals(len(outcomes)))):
        assert {r.job.slot: r.value for r in seen.completed} == values
        best = None if seen.best is None else seen.best.job.slot
        assert best == max(values, key=lambda slot: values[slot], default=None)
    record = Record(database, "study")
    assert {t.number: t.values[0] for t in record.trials() if t.values} == values
    record.close()


def test_no_network_is_measured_twice(tmp_path: Path) -> None:
    calls = Counter[str]()

    def counting(architecture: Architecture, *, epochs: int, seed: int) -> float:
        calls[architecture.digest] += 1
        return accuracy(architecture)

    study = sampled_study(tmp_path / "a.db", 20, space=SmallSpace())
    drive(study, counting)
    assert study.num_finished == 20
    assert set(calls.values()) == {1}
    assert len(calls) <= 6
    first: dict[str, str] = {}
    for result in study.results:
        digest = result.job.proposal.architecture.digest
        assert result.outcome.reused_from == first.get(digest, "")
        assert result.value == accuracy(result.job.proposal.architecture)
        first.setdefault(digest, f"study #{result.job.number}")


def test_other_epochs_or_another_seed_are_another_measurement(tmp_path: Path) -> None:
    one = proposals(1)[0]
    items = [one, replace(one, epochs=2), replace(one, seed=1), one]
    study = fixed_study(tmp_path / "a.db", items)
    drive(study)
    assert [r.outcome.reused_from for r in study.results] == ["", "", "", "study #0"]


def test_measurements_are_shared_between_studies_and_starts(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    drive(fixed_study(database, proposals(2)))
    known = known_measurements(database)
    assert {key[0] for key in known} == {p.architecture.digest for p in proposals(2)}
    study = fixed_study(tmp_path / "b.db", proposals(3), known=known)
    job = _ask(study)
    assert job.slot == 2
    assert [r.outcome.reused_from for r in study.results] == ["study #0", "study #1"]
    assert [r.outcome.seconds for r in study.results] == [0, 0]


def test_a_network_that_is_being_measured_is_waited_for(tmp_path: Path) -> None:
    one, other = proposals(2)
    study = fixed_study(tmp_path / "a.db", [one, one, other, one])
    first, second = _ask(study), _ask(study)
    assert (first.slot, second.slot) == (0, 2)
    assert study.ask() is None
    assert study.num_running == 4
    study.tell(first, GOOD)
    assert [r.outcome.reused_from for r in study.results] == ["", "study #0", "study #0"]
    study.tell(second, GOOD)
    assert study.num_finished == 4


def test_who_waited_for_a_lost_worker_is_queued_again_too(tmp_path: Path) -> None:
    one = proposals(1)[0]
    study = fixed_study(tmp_path / "a.db", [one, one])
    job = _ask(study)
    assert study.ask() is None
    study.tell(job, LOST)
    retry = _ask(study)
    assert (retry.slot, retry.attempt) == (0, 1)
    assert study.ask() is None
    study.tell(retry, GOOD)
    assert [end[:3] for end in history(study)] == [(0, {}, (0.5,)), (1, {}, (0.5,))]


def test_the_typical_time_is_known_from_real_measurements(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", [*proposals(3), proposals(1)[0]])
    assert study.measured_seconds is None
    for seconds in (9.0, 2.0, 3.0):
        study.tell(_ask(study), Outcome(accuracy=0.5, seconds=seconds))
    assert study.ask() is None
    assert study.measured_seconds == 3.0


def test_the_record_holds_no_running_trial_after_an_interruption(tmp_path: Path) -> None:
    study = fixed_study(tmp_path / "a.db", proposals(3))
    _ask(study)
    _ask(study)
    study.interrupt()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        states = connection.execute("SELECT state FROM trials").fetchall()
    connection.close()
    assert states == [(TrialState.FAIL.name,)] * 2


@dataclass
class _Weighed:
    """A metric that notes what it is asked for."""

    asked: list[int] = field(default_factory=list)
    name: str = "weight"
    unit: str = "g"
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, architecture: Architecture) -> float:
        self.asked.append(architecture.stages[0].width)
        return 10.0 * architecture.stages[0].width

    def format(self, value: float) -> str:
        return f"{value} g"

    def describe(self) -> str:
        return "in g"


def test_cost_is_measured_once_when_a_network_is_proposed(tmp_path: Path) -> None:
    metric = _Weighed()
    objective = ParetoObjective(metric)

    def start() -> Study:
        record = Record(tmp_path / "a.db", "study", directions=objective.directions)
        return Study(record, FixedProposer(proposals(3)), objective, 3)

    study = start()
    assert _ask(study).cost == 10.0
    assert metric.asked == [1]
    study.tell(_ask(study), GOOD)
    study = start()  # slot 0 is queued again
    drive(study)
    assert metric.asked == [1, 2, 3]
    assert [(r.job.slot, r.cost) for r in study.results] == [(1, 20.0), (0, 10.0), (2, 30.0)]
    for result in study.results:
        assert result.values == (result.outcome.accuracy, result.cost)
    assert study.best is None
    assert {r.job.slot for r in study.front} <= {0, 1, 2}
    record = Record(tmp_path / "a.db", "study")
    ended = {t.user_attrs["slot"]: t for t in record.trials()}
    record.close()
    assert [ended[slot].user_attrs["cost"] for slot in range(3)] == [10.0, 20.0, 30.0]
    assert [ended[slot].values[1] for slot in range(3)] == [10.0, 20.0, 30.0]
