"""`python -m scaling_search.grid`: find alpha, beta, gamma by training scaled candidates."""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nas.cli import Sections, UserError, command_line
from nas.cli import main as cli_main
from nas.search.options import CARRIED_OVER
from nas.search.session import run_session
from nas.untrusted import csv_text
from scaling_search.candidates import Candidate
from scaling_search.compound import Coefficients, finer_roundings
from scaling_search.grid_plan import Plan, prepare
from scaling_search.options import ScalingOptions
from scaling_search.triples import COEFFICIENTS, Selection
from search_spaces.zoo import file_argument

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.trials.trial import Proposal
    from scaling_search.race import Schedule

MODULE = "scaling_search.grid"

_CENTURY = 876_600.0
"""In hours."""


@dataclass(frozen=True, kw_only=True)
class Settings(ScalingOptions):
    """Flags of `scaling_search.grid`."""

    SECTIONS: ClassVar[Sections] = {
        "candidate": (
            "candidates",
            "step",
            "tolerance",
            "ratio",
            "max_alpha",
            "max_beta",
            "max_gamma",
            "select",
        ),
    }

    run_dir: Path = Path("runs/grid")
    """Where the record is kept; the same command on the same folder resumes."""
    step: float = 0.05
    """Distance of neighbouring values of alpha, beta and gamma."""
    tolerance: float = 0.05
    """Largest relative distance of the cost from `--ratio`."""
    ratio: float = 2.0
    """Cost of a candidate as a multiple of the baseline's. Constants are per doubling all the same;
    a larger ratio costs more and resolves more, depth above all."""
    max_alpha: float | None = None
    """Upper bound of the grid for depth, by default what `--ratio` allows; lower bounds are 1."""
    max_beta: float | None = None
    """Upper bound for width."""
    max_gamma: float | None = None
    """Upper bound for resolution."""
    select: Selection = "measured"
    """What must be near `--ratio`: the cost of the built network (measured), or alpha * beta^2 *
    gamma^2 (formula, as in the paper), which can be far off it."""
    candidates: int = 24
    """Networks to compare at most, spread over the triangle of shares; 0: all."""
    trials: int | None = None
    """Trainings in all, at most; by default a third of all candidates with all seeds."""
    hours: float | None = None
    """Time of this start, at most: no training begins that would end later."""
    full: bool = False
    """Train all candidates with all seeds instead of racing them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("trials")
        if self.candidates < 0:
            raise UserError(f"`--candidates` must not be negative; got {self.candidates}.")
        if not 1 < self.ratio < math.inf:
            raise UserError(
                f"`--ratio` must be above 1, for candidates cost more than the baseline; got "
                f"{self.ratio:g}. For smaller networks, scale by a negative phi "
                "(scaling_search.family)."
            )
        if 0 <= self.tolerance < 1 and self.ratio * (1 - self.tolerance) <= 1:
            raise UserError(
                f"`--ratio {self.ratio:g}` with `--tolerance {self.tolerance:g}` admits networks "
                "that cost no more than the baseline, whose growth has no shares. Lower the "
                "tolerance, or raise the ratio."
            )
        for axis in COEFFICIENTS:
            highest = getattr(self, f"max_{axis}")
            if highest is not None and not 1 <= highest < math.inf:
                raise UserError(f"`--max-{axis}` must be at least 1; got {highest:g}.")
        if self.hours is not None and not 0 < self.hours < _CENTURY:
            raise UserError(f"`--hours` must be above 0, and below a century; got {self.hours:g}.")
        if self.full and self.trials is not None:
            raise UserError("`--full` trains all; leave it out, or `--trials`.")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the trials gave."""

    schedule: "Schedule"
    trials: int
    failed: int
    stopped: bool
    """Whether time was up before the schedule's end."""


def run(settings: Settings) -> int:
    """Train the candidates and choose; the exit status."""
    return run_session(
        MODULE,
        settings,
        prepare=prepare,
        train=_train,
        conclude=_conclude,
        base=lambda plan: plan.base,
    )


def _train(plan: Plan, folder: "RunFolder") -> Trained:
    """Round by round, what the schedule says."""
    from nas.costs.objective import AccuracyObjective
    from nas.trials.runner import TrialRunner
    from scaling_search.fit import accuracies_by_seed

    runner = TrialRunner(
        folder.database,
        plan.task.evaluator,
        AccuracyObjective(plan.metric),
        plan.workers,
        probe=plan.task.reference is not None,
        describe=_describe,
    )
    schedule, trials, failed, slowest = plan.schedule, 0, 0, None
    while runs := schedule.next_round(plan.affordable(slowest), plan.is_known):
        print(schedule.describe(len(runs)), flush=True)
        study = runner.run_all("grid", [_proposal(plan, *run) for run in runs])
        trials += study.num_finished
        failed += study.num_finished - len(list(study.completed))
        measured = [r.outcome.seconds for r in study.completed if not r.outcome.reused_from]
        slowest = max([slowest or 0.0, *measured]) or None
        schedule.tell(accuracies_by_seed(study.results, first=plan.settings.seed))
    return Trained(schedule=schedule, trials=trials, failed=failed, stopped=not schedule.is_over)


def _proposal(plan: Plan, candidate: Candidate, seed: int) -> "Proposal":
    from nas.trials.trial import Proposal

    return Proposal(
        architecture=candidate.architecture,
        epochs=plan.settings.epochs,
        seed=plan.settings.seed + seed,
        labels={
            **asdict(candidate.coefficients),
            "product": candidate.product,
            "measured_ratio": candidate.ratio,
        },
    )


def _describe(labels: Mapping[str, Any]) -> str:
    return Coefficients(labels["alpha"], labels["beta"], labels["gamma"]).label


def _conclude(plan: Plan, folder: "RunFolder", trained: Trained, _: list[str]) -> None:
    """Fit, write and print what came out."""
    from scaling_search.constants import content, grid_frame, to_json
    from scaling_search.report import more_trainings, remedies, summary, triangle_plot

    settings, schedule = plan.settings, trained.schedule
    fit = schedule.fit
    if fit is None:
        failed = f"; {trained.failed} failed, see trials.csv" if trained.failed else ""
        raise UserError(f"Time was up (--hours) before a training gave an accuracy{failed}.")
    baseline = {"name": plan.base.name, "digest": plan.base.digest}
    left_out = plan.found - len(plan.candidates)
    finer = tuple(finer_roundings(plan.base, plan.rounding))
    advice = remedies(fit, settings.ratio, left_out, finer)
    made = content(fit, baseline, _evidence(plan, trained), advice, settings.ratio)
    folder.write("constants.json", to_json(made))
    folder.write("grid.csv", csv_text(grid_frame(fit)))
    folder.write("grid.png", triangle_plot(fit))
    file = folder.write("baseline.json", plan.base.to_json())
    for line in _notes(plan, trained):
        print(f"note    {line}")
    majority = plan.task.majority if plan.task.training else None
    for line in summary(fit, majority, settings.ratio, left_out, finer):
        print(line)
    print(f"wrote   {folder.path}/constants.json, grid.csv, grid.png, trials.csv")
    if more := more_trainings(fit):
        print(f"next    {command_line(MODULE, replace(settings, **more, full=True, trials=None))}")
    for name in ("family", "validate"):
        print(f"next    {_next_command(name, plan, folder.path, file)}")


def _evidence(plan: Plan, trained: Trained) -> dict[str, Any]:
    """What the constants rest on, beside what the fit says."""
    settings = plan.settings
    return {
        "epochs": settings.epochs,
        "seeds": settings.seeds,
        "trials": trained.trials,
        "failed_trials": trained.failed,
        "schedule": "full grid" if settings.full else "race",
        "all_trainings": len(plan.candidates) * settings.seeds,
        "cost": plan.metric.name,
        "target_ratio": settings.ratio,
        "tolerance": settings.tolerance,
        "selection": settings.select,
        "rounding": asdict(plan.rounding),
        **plan.task.conditions,
    }


def _notes(plan: Plan, trained: Trained) -> list[str]:
    notes = []
    every = len(plan.candidates) * plan.settings.seeds
    if not plan.settings.full:
        notes.append(
            f"{trained.trials} trainings, {trained.trials / every:.0%} of the full grid's {every}"
        )
    if trained.stopped:
        notes.append(f"time was up (--hours {plan.settings.hours:g}); the same command goes on")
    if trained.failed:
        notes.append(
            f"{trained.failed} of {trained.trials} trials failed; trials.csv has the reasons"
        )
    assert trained.schedule.fit is not None
    ranked = len(trained.schedule.fit.standings)
    if not trained.stopped and (lost := len(plan.candidates) - ranked):
        notes.append(
            f"{lost} of {len(plan.candidates)} networks are not ranked: all their trials failed"
        )
    return notes


def _next_command(name: str, plan: Plan, folder: Path, baseline: Path) -> str:
    """The command that scales, and trains, as the grid did."""
    flags = ["depth_rounding", "resolution_step"]
    if name == "validate":
        flags += ["epochs", "cost", "latency_batch", *CARRIED_OVER]
    shared = command_line(f"scaling_search.{name}", plan.settings, only=flags)
    words = ["--baseline", file_argument(plan.base, baseline)]
    words += ["--constants", f"{folder}/constants.json"]
    words += ["--out" if name == "family" else "--run-dir", f"{folder}/{name}"]
    return f"{shared} {shlex.join(words)}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(run, Settings, argv, prog=f"python -m {MODULE}", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
