"""The trial loop's bookkeeping: what to measure next, what came out, what a crash left behind.

A study has slots, 0 to `num_trials` - 1. A proposer fills a slot with one network to measure; a
slot lives through as many attempts (trials of the record) as crashes make necessary. Everything
is derived from the record, so a killed study goes on as if it had never stopped.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from nas.cli import UserError
from nas.costs.objective import Objective
from nas.trials.attributes import attributes_of, cost_of, proposal_of
from nas.trials.evaluate import Outcome
from nas.trials.front import front
from nas.trials.halving import Halving, Race
from nas.trials.record import Record, outcome_of
from nas.trials.retries import Retries, retries_after
from nas.trials.trial import Job, MeasurementKey, Proposal, Proposer, Result
from search_spaces.cost import count

MAX_FAILURES_IN_A_ROW = 5


class _Queued(NamedTuple):
    """An attempt to be made."""

    slot: int
    retries: Retries
    proposal: Proposal
    cost: float


class Study:
    """Hands out jobs (`ask`) and takes their outcomes (`tell`), durably.

    Args:
        record: Where trials are written. Trials that a dead process left RUNNING are failed and
            their slots queued again; what they had reported at rungs is not used.
        proposer: Fills the slots.
        objective: Values of an outcome, and the cost that they take.
        num_trials: Number of slots.
        halving: Stops trials early; None: all train to the end.
        known: Measurements that need no repetition (`known_measurements`), shared between the
            studies of a run and added to.
        on_result: Called after each slot that ends in this process.

    Raises:
        UserError: Halving with several objectives, or without a rung to stop at.
    """

    def __init__(
        self,
        record: Record,
        proposer: Proposer,
        objective: Objective,
        num_trials: int,
        *,
        halving: Halving | None = None,
        known: dict[MeasurementKey, tuple[str, Outcome]] | None = None,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        directions = list(objective.directions)
        if halving is not None and len(directions) > 1:
            raise UserError(
                "`--halving` ranks unfinished trials by one value, and `--pareto` has two. "
                "Leave one of them out."
            )
        self._record, self._proposer, self._on_result = record, proposer, on_result
        self._halving = halving
        self._race = None if halving is None else Race(halving, directions[0])
        self._known = {} if known is None else known
        self._stopped: dict[MeasurementKey, Result] = {}
        self._to_stop: set[int] = set()
        self._queue: deque[_Queued] = deque()
        self._running: dict[MeasurementKey, list[Job]] = {}
        self._failures: list[Outcome] = []
        self.objective = objective
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
        """Median of the whole measurements so far, those of related studies too; None without."""
        seconds = [outcome.seconds for _, outcome in self._known.values()]
        return median(seconds) if seconds else None

    @property
    def completed(self) -> Iterator[Result]:
        """Results that have values."""
        return (result for result in self.results if result.values is not None)

    @property
    def front(self) -> list[Result]:
        """Completed slots that no other dominates, by slot; of equals only the earliest."""
        return front(self.completed, self.objective.directions)

    @property
    def best(self) -> Result | None:
        """The completed slot of best value, the earliest of equals; None with several objectives,
        where there is none."""
        return next(iter(self.front), None) if len(self.objective.directions) == 1 else None

    @property
    def epochs_spent(self) -> int:
        """Epochs trained for the results; what crashes lost is not counted."""
        return sum(result.epochs for result in self.results)

    @property
    def epochs_saved(self) -> int:
        """Epochs not trained because trials were stopped early."""
        stopped = (r for r in self.results if r.pruned and not r.outcome.reused_from)
        return sum(result.job.proposal.epochs - result.epochs for result in stopped)

    def ask(self) -> Job | None:
        """The next job, or None if nothing is to be started now.

        A network that was measured before (same epochs and seed) is told at once, as is one that
        this study stopped early; one that is being measured shares that measurement.
        """
        while (job := self._begin_next()) is not None:
            key = job.proposal.key
            self._running.setdefault(key, []).append(job)
            if key in self._known:
                source, outcome = self._known[key]
                self._end(key, _reused(outcome, source), {})
            elif key in self._stopped:
                result = self._stopped[key]
                self._end(key, _reused(result.outcome, self._source(result.job)), result.curve)
            elif len(self._running[key]) == 1:
                return job
        return None

    def report(self, job: Job, outcome: Outcome) -> bool:
        """Take the outcome of a job at a rung before its last; whether the job is to stop there,
        which the next `tell` then is known to mean."""
        assert self._race is not None, "without halving there is one rung, the end"
        assert outcome.accuracy is not None, "failures are told"
        value = self.objective(outcome.accuracy, job.cost)[0]
        self._record.report(job.trial_id, outcome.epochs, value)
        stop = self._race.report(job.slot, outcome.epochs, value)
        if stop:
            self._to_stop.add(job.trial_id)
        return stop

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Take the last outcome of a job that `ask` returned.

        Raises:
            UserError: Several trials in a row failed; the message holds the first error.
        """
        if job.trial_id in self._to_stop and outcome.accuracy is not None:
            outcome = replace(outcome, reason="pruned")
        curve: Mapping[int, float] = {}
        if self._race is not None and outcome.accuracy is not None:
            curve = self._race.curve(job.slot)
        self._end(job.proposal.key, outcome, curve)
        if len(self._failures) >= MAX_FAILURES_IN_A_ROW:
            raise UserError(
                f"{len(self._failures)} trials in a row failed; the first with:\n"
                f"{self._failures[0].reason}: {self._failures[0].detail.rstrip()}"
            )

    def interrupt(self) -> None:
        """Fail what is running, so that the next start queues it again."""
        for key in list(self._running):
            self._end(key, Outcome(reason="interrupted"), {})

    def _begin_next(self) -> Job | None:
        if self._queue:
            queued = self._queue.popleft()
        elif self._next_slot < self.num_trials:
            proposal = self._proposer.propose(self._next_slot)
            cost = float(self.objective.metric(proposal.architecture))
            queued = _Queued(self._next_slot, Retries(), proposal, cost)
            self._next_slot += 1
        else:
            return None
        slot, retries, proposal, cost = queued
        trial_id, number = self._record.begin(
            proposal.params,
            proposal.distributions,
            attributes_of(slot, retries, proposal, cost),
            self._proposer.state(slot),
        )
        return self._job(queued, trial_id, number)

    def _job(self, queued: _Queued, trial_id: int, number: int) -> Job:
        slot, retries, proposal, cost = queued
        epochs = proposal.epochs
        return Job(
            slot=slot,
            retries=retries,
            trial_id=trial_id,
            number=number,
            proposal=proposal,
            cost=cost,
            rungs=(epochs,) if self._halving is None else self._halving.rungs(epochs),
        )

    def _source(self, job: Job) -> str:
        return f"{self._record.name} #{job.number}"

    def _end(self, key: MeasurementKey, outcome: Outcome, curve: Mapping[int, float]) -> None:
        """End the job that was handed out for a measurement, and those that wait for it."""
        first, *sharing = self._running.pop(key)
        shared = _reused(outcome, outcome.reused_from or self._source(first))
        for job, its_outcome in [(first, outcome), *((job, shared) for job in sharing)]:
            result = self._end_job(job, its_outcome, curve)
            if result is not None:
                failed = result.values is None and not result.pruned
                self._failures = [*self._failures, its_outcome] if failed else []
                self._on_result(result)

    def _end_job(self, job: Job, outcome: Outcome, curve: Mapping[int, float]) -> Result | None:
        """Write how a job ended; the result, if its slot is not queued again.

        The outcome is on disk before anybody learns of it, and the trial ends after its proposer
        had its say, for an ended trial takes no more attributes.
        """
        self._record.conclude(job.trial_id, outcome, curve)
        if self._race is not None and outcome.accuracy is None:
            self._race.forget(job.slot)
        if (retries := job.retries.after(outcome)) is not None:
            self._queue_again(job, retries)
            self._record.end(job.trial_id, None, outcome, {})
            return None
        result = self._result(job, outcome, curve)
        self._finish(result)
        self._proposer.observe(result)
        self._record.end(job.trial_id, result.values, outcome, self._proposer.state(job.slot))
        return result

    def _queue_again(self, job: Job, retries: Retries) -> None:
        self._queue.append(_Queued(job.slot, retries, job.proposal, job.cost))

    def _result(self, job: Job, outcome: Outcome, curve: Mapping[int, float]) -> Result:
        cost = count(job.proposal.architecture)
        values = None
        if outcome.accuracy is not None and not outcome.reason:
            values = self.objective(outcome.accuracy, job.cost)
        return Result(
            job=job,
            outcome=outcome,
            values=values,
            macs=cost.macs,
            params=cost.params,
            curve=dict(curve),
        )

    def _finish(self, result: Result) -> None:
        self.results.append(result)
        if result.outcome.reused_from:
            return
        key = result.job.proposal.key
        if result.values is not None:
            self._known.setdefault(key, (self._source(result.job), result.outcome))
        elif result.pruned:
            self._stopped.setdefault(key, result)

    def _restore(self) -> int:
        """Read the record; the number of slots that were proposed already."""
        attempts: defaultdict[int, list[FrozenTrial]] = defaultdict(list)
        for trial in self._record.trials():
            attempts[trial.user_attrs["slot"]].append(trial)
        for slot in sorted(attempts):
            *before, last = attempts[slot]
            self._restore_slot(last, retries_after(map(outcome_of, before)))
        return len(attempts)

    def _restore_slot(self, trial: FrozenTrial, retries: Retries) -> None:
        proposal, attributes = proposal_of(trial), trial.user_attrs
        slot = attributes["slot"]
        queued = _Queued(slot, retries, proposal, cost_of(trial))
        job = self._job(queued, trial._trial_id, trial.number)
        ended = "outcome" in attributes
        orphaned = Outcome(reason="orphaned", detail="The process that ran it died.")
        outcome = outcome_of(trial) if ended else orphaned
        curve = trial.intermediate_values if outcome.accuracy is not None else {}
        if self._race is not None and not outcome.reused_from:
            self._race.restore(slot, {e: v for e, v in curve.items() if e in job.rungs[:-1]})
        if trial.state == TrialState.RUNNING:  # its process died, perhaps while it ended the trial
            proposal = self._proposer.restore(slot, proposal, trial.system_attrs, None)
            self._end_job(replace(job, proposal=proposal), outcome, curve)
            return
        more = retries.after(outcome)
        result = None if more is not None else self._result(job, outcome, curve)
        proposal = self._proposer.restore(slot, proposal, trial.system_attrs, result)
        job = replace(job, proposal=proposal)
        if more is not None:
            self._queue_again(job, more)
        elif result is not None:
            self._finish(replace(result, job=job))


def _reused(outcome: Outcome, source: str) -> Outcome:
    return replace(outcome, reused_from=source, seconds=0.0)
