"""The trial loop's bookkeeping: what to measure next, what came out, what a crash left behind.

A study has slots, 0 to `num_trials` - 1. A proposer fills a slot with one network to measure; a
slot lives through as many attempts (trials of the record) as crashes make necessary. Everything
is derived from the record, so a killed study goes on as if it had never stopped.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.cli import UserError
from nas.search.evaluate import Outcome
from nas.search.record import Record, all_records, outcome_of
from search_spaces.architecture import Architecture
from search_spaces.cost import count

LOST = ("orphaned", "worker-lost")
MAX_RETRIES = 2
"""How often a slot is queued again after its process died; Ctrl-C is not counted."""
MAX_FAILURES_IN_A_ROW = 5

MeasurementKey = tuple[str, int, int]
"""Digest, epochs, seed: equal keys would repeat a training to the letter."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One network to measure."""

    architecture: Architecture
    epochs: int
    seed: int
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the Optuna trial, with their `distributions`."""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes of the trial."""

    @property
    def key(self) -> MeasurementKey:
        return self.architecture.digest, self.epochs, self.seed


class Proposer(Protocol):
    """Decides what a slot measures. Slots are proposed once each, in order."""

    def propose(self, slot: int) -> Proposal:
        """The network of a fresh slot."""
        ...

    def restore(self, slot: int, proposal: Proposal) -> Proposal:
        """Learn of a slot that an earlier process proposed; in order, before any `propose`.

        Returns:
            The proposal with what the record does not hold (its distributions).
        """
        ...

    def observe(self, slot: int, value: float | None) -> None:
        """Learn how a slot ended for good: its objective value, or None for a failure."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at one slot, as handed to a worker."""

    slot: int
    attempt: int
    trial_id: int
    number: int
    """Number of the trial in the record."""
    proposal: Proposal


@dataclass(frozen=True, kw_only=True)
class Result:
    """A slot that ended."""

    job: Job
    outcome: Outcome
    value: float | None
    """The objective, None if the trial failed."""
    macs: int
    params: int


Objective = Callable[[float, int], float]
"""(accuracy, MACs) -> value to maximise."""


class Study:
    """Hands out jobs (`ask`) and takes their outcomes (`tell`), durably.

    Args:
        record: Where trials are written. Trials that a dead process left RUNNING are failed and
            their slots queued again.
        proposer: Fills the slots.
        objective: Value of an outcome.
        num_trials: Number of slots.
        known: Measurements that need no repetition (`known_measurements`), shared between the
            studies of a run and added to.
        on_result: Called after each slot that ends in this process.
    """

    def __init__(
        self,
        record: Record,
        proposer: Proposer,
        objective: Objective,
        num_trials: int,
        *,
        known: dict[MeasurementKey, tuple[str, Outcome]] | None = None,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        self._record, self._proposer, self._objective = record, proposer, objective
        self._on_result = on_result
        self._known = {} if known is None else known
        self._queue: deque[tuple[int, int, Proposal]] = deque()
        self._running: dict[MeasurementKey, list[Job]] = {}
        self._failures: list[Outcome] = []
        self.num_trials = num_trials
        self.results: list[Result] = []
        self._next_slot = self._restore()

    @property
    def num_finished(self) -> int:
        """Slots that ended, in this process or an earlier one."""
        return len(self.results)

    @property
    def num_running(self) -> int:
        return sum(map(len, self._running.values()))

    @property
    def measured_seconds(self) -> float | None:
        """Median of the measurements so far, those of related studies too; None without any."""
        seconds = [outcome.seconds for _, outcome in self._known.values()]
        return median(seconds) if seconds else None

    @property
    def best(self) -> Result | None:
        """The completed slot of highest value; the earliest of equals."""
        return max(self.completed, key=lambda r: (r.value, -r.job.slot), default=None)

    @property
    def completed(self) -> Iterator[Any]:
        """Results that have a value."""
        return (result for result in self.results if result.value is not None)

    def ask(self) -> Job | None:
        """The next job, or None if nothing is to be started now.

        A network that was measured before (same epochs and seed) is told at once, one that is
        being measured shares that measurement.
        """
        while (job := self._begin_next()) is not None:
            key = job.proposal.key
            self._running.setdefault(key, []).append(job)
            if key in self._known:
                source, outcome = self._known[key]
                self._end(key, replace(outcome, reused_from=source, seconds=0.0))
            elif len(self._running[key]) == 1:
                return job
        return None

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Take the outcome of a job that `ask` returned.

        Raises:
            UserError: Several trials in a row failed; the message holds the first error.
        """
        self._end(job.proposal.key, outcome)
        if len(self._failures) >= MAX_FAILURES_IN_A_ROW:
            raise UserError(
                f"{len(self._failures)} trials in a row failed; the first with:\n"
                f"{self._failures[0].reason}: {self._failures[0].detail.rstrip()}"
            )

    def interrupt(self) -> None:
        """Fail what is running, so that the next start queues it again."""
        for key in list(self._running):
            self._end(key, Outcome(reason="interrupted"))

    def _begin_next(self) -> Job | None:
        if self._queue:
            slot, attempt, proposal = self._queue.popleft()
        elif self._next_slot < self.num_trials:
            slot, attempt = self._next_slot, 0
            proposal = self._proposer.propose(slot)
            self._next_slot += 1
        else:
            return None
        cost = count(proposal.architecture)
        attributes = {
            "slot": slot,
            "attempt": attempt,
            "epochs": proposal.epochs,
            "seed": proposal.seed,
            "digest": proposal.architecture.digest,
            "architecture": proposal.architecture.to_json(),
            "macs": cost.macs,
            "params": cost.params,
            **proposal.labels,
        }
        trial_id, number = self._record.begin(proposal.params, proposal.distributions, attributes)
        return Job(slot=slot, attempt=attempt, trial_id=trial_id, number=number, proposal=proposal)

    def _end(self, key: MeasurementKey, outcome: Outcome) -> None:
        first, *sharing = self._running.pop(key)
        source = f"{self._record.name} #{first.number}"
        if outcome.accuracy is not None and not outcome.reused_from:
            self._known[key] = source, outcome
        shared = replace(outcome, reused_from=source, seconds=0.0)
        for job, its_outcome in [(first, outcome), *((job, shared) for job in sharing)]:
            self._end_job(job, its_outcome)

    def _end_job(self, job: Job, outcome: Outcome) -> None:
        cost = count(job.proposal.architecture)
        value = None if outcome.accuracy is None else self._objective(outcome.accuracy, cost.macs)
        self._record.end(job.trial_id, value, outcome)
        if outcome.reason == "interrupted":
            return
        if outcome.reason in LOST and job.attempt < MAX_RETRIES:
            self._queue.append((job.slot, job.attempt + 1, job.proposal))
            return
        result = Result(job=job, outcome=outcome, value=value, macs=cost.macs, params=cost.params)
        self._finish(result)
        self._on_result(result)
        self._failures = [] if value is not None else [*self._failures, outcome]

    def _finish(self, result: Result) -> None:
        self.results.append(result)
        self._proposer.observe(result.job.slot, result.value)

    def _restore(self) -> int:
        """Read the record; the number of slots that were proposed already."""
        last = {trial.user_attrs["slot"]: trial for trial in self._record.trials()}
        proposals = {
            slot: self._proposer.restore(slot, _proposal_of(last[slot])) for slot in sorted(last)
        }
        for slot, proposal in proposals.items():
            self._restore_slot(last[slot], proposal)
        return len(last)

    def _restore_slot(self, trial: FrozenTrial, proposal: Proposal) -> None:
        attempt = trial.user_attrs["attempt"]
        slot = trial.user_attrs["slot"]
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if trial.state == TrialState.RUNNING:
            outcome, value = self._end_orphan(trial)
        else:
            outcome = outcome_of(trial)
        if outcome.reason == "interrupted":
            self._queue.append((slot, attempt, proposal))
        elif outcome.reason in LOST and attempt < MAX_RETRIES:
            self._queue.append((slot, attempt + 1, proposal))
        else:
            job = Job(
                slot=slot,
                attempt=attempt,
                trial_id=trial._trial_id,
                number=trial.number,
                proposal=proposal,
            )
            macs, params = trial.user_attrs["macs"], trial.user_attrs["params"]
            self._finish(Result(job=job, outcome=outcome, value=value, macs=macs, params=params))

    def _end_orphan(self, trial: FrozenTrial) -> tuple[Outcome, float | None]:
        """End what a dead process left; it may have died between the two writes of an end."""
        if "outcome" in trial.user_attrs:
            outcome = outcome_of(trial)
        else:
            outcome = Outcome(reason="orphaned", detail="The process that ran it died.")
        value = None
        if outcome.accuracy is not None:
            value = self._objective(outcome.accuracy, trial.user_attrs["macs"])
        self._record.end(trial._trial_id, value, outcome)
        return outcome, value


def known_measurements(database: Path) -> dict[MeasurementKey, tuple[str, Outcome]]:
    """What the studies of a database have measured: key -> (study and trial, outcome)."""
    known: dict[MeasurementKey, tuple[str, Outcome]] = {}
    for record in all_records(database):
        for trial in record.trials():
            if trial.state == TrialState.COMPLETE and not outcome_of(trial).reused_from:
                source = f"{record.name} #{trial.number}"
                known[_proposal_of(trial).key] = source, outcome_of(trial)
        record.close()
    return known


_RESERVED = (
    *("slot", "attempt", "epochs", "seed", "digest", "architecture", "macs", "params"),
    *("choices", "outcome"),
)


def _proposal_of(trial: FrozenTrial) -> Proposal:
    attributes = trial.user_attrs
    return Proposal(
        architecture=Architecture.from_json(attributes["architecture"]),
        epochs=attributes["epochs"],
        seed=attributes["seed"],
        params=attributes["choices"],
        labels={k: v for k, v in attributes.items() if k not in _RESERVED},
    )
