"""`python -m scaling_search.validate`: do the constants hold further up, against simpler rules?"""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nas.cli import UserError, command_line, format_duration
from nas.cli import main as cli_main
from nas.search.session import run_session
from nas.untrusted import csv_text
from scaling_search.options import ScalingOptions
from search_spaces.zoo import file_argument

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.trials.study import Study
    from scaling_search.validate_plan import Plan
    from scaling_search.verdict import Assessment

MODULE = "scaling_search.validate"


@dataclass(frozen=True, kw_only=True)
class Settings(ScalingOptions):
    """Give the constants by --constants, or by --alpha --beta --gamma."""

    constants: Path | None = None
    """The constants.json that scaling_search.grid wrote."""
    alpha: float | None = None
    """Growth of depth per unit of phi."""
    beta: float | None = None
    """Growth of width per unit of phi."""
    gamma: float | None = None
    """Growth of resolution per unit of phi."""
    phi: tuple[float, ...] = (2.0,)
    """Networks of 2^phi times the baseline's cost are compared; several values: at each."""
    run_dir: Path = Path("runs/validate")
    """Where the record is kept; the same command on the same folder resumes, and further --phi,
    --seeds or other constants reuse what was trained."""
    seeds: int = 5
    """Trainings of each network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.phi or not all(0 < phi <= 100 for phi in self.phi):
            given = " ".join(f"{phi:g}" for phi in self.phi) or "none"
            raise UserError(f"`--phi` needs numbers above 0 (and at most 100); got {given}.")


def run(settings: Settings) -> int:
    """Train the fitted network and its rivals, and judge; the exit status."""
    from scaling_search.validate_plan import prepare

    return run_session(
        MODULE,
        settings,
        prepare=prepare,
        train=_train,
        conclude=_conclude,
        base=lambda plan: plan.base,
    )


def _train(plan: "Plan", folder: "RunFolder") -> "Study":
    """All networks with the first seed, then all with the second, and so on."""
    from nas.costs.objective import AccuracyObjective
    from nas.trials.runner import TrialRunner
    from nas.trials.trial import Proposal

    settings, task = plan.settings, plan.task
    runner = TrialRunner(
        folder.database,
        task.evaluator,
        AccuracyObjective(plan.metric),
        plan.workers,
        probe=task.reference is not None,
        describe=lambda labels: labels["network"],
    )
    names = {plan.base.digest: plan.anchor.label} | {
        contestant.architecture.digest: f"{contestant.label} phi {level.phi:g}"
        for level in reversed(plan.levels)
        for contestant in level.contestants
    }
    proposals = [
        Proposal(
            architecture=architecture,
            epochs=settings.epochs,
            seed=settings.seed + s,
            labels={"network": names[digest]},
        )
        for s in range(settings.seeds)
        for digest, architecture in plan.networks.items()
    ]
    return runner.run_all("validate", proposals)


def _conclude(plan: "Plan", folder: "RunFolder", study: "Study", lines: list[str]) -> None:
    """Judge, write and print what came out."""
    from scaling_search import validate_report as report
    from scaling_search.fit import accuracies_by_seed
    from scaling_search.validate_words import verdict_lines
    from scaling_search.verdict import assess

    metric, task, anchor = plan.metric, plan.task, plan.anchor
    assessment = assess(anchor, plan.levels, accuracies_by_seed(study.results))
    more = _more(plan.settings, assessment) if assessment.kind == "NOT RESOLVED" else {}
    verdict = [*verdict_lines(assessment), *_price(plan, assessment, study, more)]
    notes = list(_notes(assessment, study, task.majority if task.training else None))
    following = _next_command(plan, assessment, more)
    frame = report.results_frame(assessment, anchor.cost)
    folder.write("validate.csv", csv_text(frame))
    folder.write("validate.png", report.scaling_plot(assessment, metric))
    content = report.markdown([*lines, *notes], assessment, metric, verdict, following)
    folder.write("validate.md", content)
    folder.write("baseline.json", plan.base.to_json())
    print(f"\n{report.results_table(assessment, metric)}\n")
    for line in notes:
        print(line)
    print(f"verdict {verdict[0]}")
    for line in verdict[1:]:
        print(f"        {line}")
    print(f"wrote   {folder.path}/validate.md, validate.csv, validate.png, trials.csv")
    print(f"next    {following}")


def _notes(assessment: "Assessment", study: "Study", majority: float | None) -> Iterable[str]:
    """What is to be known beside the verdict."""
    failed = study.num_finished - len(list(study.completed))
    if failed:
        yield f"note    {failed} of {study.num_finished} trials failed; trials.csv has the reasons"
    if assessment.base is None:
        yield "note    no trial of the base ended: differences in cost are not weighed"
    best = max(judged.fitted.mean for judged in assessment.levels)
    if majority is not None and best <= majority + 0.02:
        yield (
            f"WARNING the fitted network is no better than the largest class ({majority:.1%}): "
            "train longer (--epochs), or look at the data."
        )


def _next_command(plan: "Plan", assessment: "Assessment", more: Mapping[str, Any]) -> str:
    """Scaling by the constants that stand; where none do, this command with more to go by."""
    from scaling_search.validate_words import winner

    settings = plan.settings
    if more:
        return command_line(MODULE, replace(settings, **more))
    words = ["python", "-m", "scaling_search.family"]
    words += ["--baseline", file_argument(plan.base, f"{settings.run_dir}/baseline.json")]
    words += ["--out", f"{settings.run_dir}/family"]
    if assessment.kind == "HOLDS" and settings.constants is not None:
        words += ["--constants", str(settings.constants)]
    else:
        holds = assessment.kind == "HOLDS"
        best = plan.fitted if holds else winner(assessment).contestant.coefficients
        for name, value in asdict(best).items():
            words += [f"--{name}", f"{value:.6g}"]
    if settings.depth_rounding != "ceil":
        words += ["--depth-rounding", settings.depth_rounding]
    if settings.resolution_step is not None:
        words += ["--resolution-step", str(settings.resolution_step)]
    return shlex.join(words)


def _more(settings: Settings, assessment: "Assessment") -> Mapping[str, Any]:
    """Flags that may resolve what is open: the seeds that it takes, or a larger phi."""
    if (decisive := assessment.decisive) is not None and decisive.seeds_needed is not None:
        # Failed trials may have been the lack.
        return {"seeds": max(decisive.seeds_needed, settings.seeds + 1)}
    if assessment.comparisons and not any(judged.freedom for judged in assessment.levels):
        return {"seeds": max(3, settings.seeds + 1)}
    return {"phi": (*settings.phi, max(settings.phi) + 1)}


def _price(
    plan: "Plan", assessment: "Assessment", study: "Study", more: Mapping[str, Any]
) -> Iterable[str]:
    """What the further seeds cost, by the time that the trials took; nothing of a larger phi."""
    seconds: dict[str, list[float]] = {}
    for result in study.completed:
        if not result.outcome.reused_from:
            digest = result.job.proposal.architecture.digest
            seconds.setdefault(digest, []).append(result.outcome.seconds)
    if "seeds" in more and plan.networks.keys() <= seconds.keys():
        seeds = more["seeds"] - plan.settings.seeds
        needed = seeds * sum(map(fmean, seconds.values())) / plan.workers.count
        decisive = assessment.decisive
        why = "" if decisive is None else f" for {decisive.rival.contestant.label}, which decides,"
        yield (
            f"to do: --seeds {more['seeds']}{why} is {seeds * len(plan.networks)} trainings more, "
            f"about {format_duration(needed)}; --phi {max(plan.settings.phi) + 1:g} instead looks "
            "further up, where rules part"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(run, Settings, argv, prog=f"python -m {MODULE}", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
