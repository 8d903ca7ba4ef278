"""Runs the studies of a run folder, one after another; what one measured, the next need not."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.costs.objective import Objective
from nas.trials.attributes import known_measurements
from nas.trials.console import TrialLines
from nas.trials.evaluate import Evaluator
from nas.trials.execution import execute
from nas.trials.halving import Halving
from nas.trials.proposers import FixedProposer
from nas.trials.record import Record
from nas.trials.study import Study
from nas.trials.trial import Proposal, Proposer
from nas.workers import Workers


class TrialRunner:
    """Runs named studies of one database with one evaluator; measurements are shared.

    Args:
        database: The SQLite file.
        evaluator: What measures a network.
        objective: What the studies optimise.
        workers: How many trials at a time, and with what.
        probe: Whether the evaluator may be so cheap that workers gain nothing.
        describe: What a trial is called in its line, from its labels.
    """

    def __init__(
        self,
        database: Path,
        evaluator: Evaluator,
        objective: Objective,
        workers: Workers,
        *,
        probe: bool = False,
        describe: Callable[[Mapping[str, Any]], str] = lambda labels: "",
    ) -> None:
        self._database, self._evaluator, self._objective = database, evaluator, objective
        self._workers, self._probe, self._describe = workers, probe, describe
        self._known = known_measurements(database)
        self.measured = 0
        """Trials that were measured by it, and not reused."""

    def run(
        self,
        name: str,
        proposer: Proposer,
        num_trials: int,
        *,
        halving: Halving | None = None,
        called: str | None = None,
    ) -> Study:
        """Run a study to its end; it goes on where an earlier process stopped.

        Args:
            name: Of the study in the database.
            proposer: Fills its trials.
            num_trials: How many.
            halving: Stops trials early; None: all train to the end.
            called: What people call it; None: its name.

        Raises:
            UserError: Too many trials failed, or the workers cannot be had.
            KeyboardInterrupt: What is finished is kept.
        """
        record = Record(self._database, name, directions=self._objective.directions)
        lines = TrialLines(self._objective, self._describe)
        try:
            study = Study(
                record,
                proposer,
                self._objective,
                num_trials,
                halving=halving,
                known=self._known,
                on_result=lines,
            )
            lines.follow(study)
            if study.num_finished:
                some = f"{study.num_finished} of {num_trials}"
                are = f"{some if study.num_finished < num_trials else 'all'} trials are finished"
                print(f"resume  {called or name}: {are}", flush=True)
            execute(study, self._evaluator, self._workers, probe=self._probe)
            return study
        finally:
            self.measured += lines.measured
            record.close()

    def run_all(self, name: str, proposals: Sequence[Proposal]) -> Study:
        """Run a fixed list; another list under the same name is another study."""
        study = study_name(name, proposals)
        return self.run(study, FixedProposer(list(proposals)), len(proposals), called=name)


def study_name(name: str, proposals: Sequence[Proposal]) -> str:
    """Of the study that `TrialRunner.run_all` makes of a list."""
    keys = hashlib.sha256(repr([p.key for p in proposals]).encode()).hexdigest()[:8]
    return f"{name}-{keys}"
