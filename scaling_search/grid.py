"""`python -m scaling_search.grid`: find alpha, beta, gamma by training scaled candidates."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nas.cli import UserError, command_line, format_duration, format_number
from nas.cli import main as cli_main
from scaling_search.candidates import (
    Candidate,
    Grid,
    Selection,
    candidates_table,
    find_candidates,
)
from scaling_search.compound import default_rounding
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import load_architecture

if TYPE_CHECKING:
    from nas.search.execution import Workers
    from nas.search.record import RunFolder
    from nas.search.study import Study
    from nas.search.task import Task
    from scaling_search.constants import Ranking


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of `scaling_search.grid`."""

    baseline: str
    """The network to scale: the baseline.json of nas.run, or a zoo name."""
    data: str = "digits"
    """Images, as for nas.run."""
    evaluator: str | None = None
    """my_module:function, called as f(architecture, epochs=..., seed=...), that returns accuracy
    in [0, 1]; `--data` is not used then."""
    run_dir: Path = Path("runs/grid")
    """Where the record is kept; the same command on the same folder resumes."""
    step: float = 0.05
    """Distance of neighbouring values of alpha, beta and gamma."""
    tolerance: float = 0.05
    """Largest relative distance of the cost from `--ratio`; the paper's constants need 0.04."""
    ratio: float = 2.0
    """Cost of a candidate as a multiple of the baseline's."""
    max_alpha: float = 2.0
    """Upper bound of the grid for depth; lower bounds are 1."""
    max_beta: float = 1.5
    """Upper bound for width."""
    max_gamma: float = 1.5
    """Upper bound for resolution."""
    select: Selection = "formula"
    """What must be near `--ratio`: alpha * beta^2 * gamma^2 (formula, as in the paper), or the
    multiply-adds of the built network (measured)."""
    depth_rounding: Literal["ceil", "round"] = "ceil"
    """Repeats are rounded up (as published) or half up, which resolves alpha better."""
    resolution_step: int | None = None
    """Pixels that resolutions are a multiple of; by default 8 at 224 px, less below."""
    seeds: int = 3
    """Trainings of each candidate."""
    epochs: int = 5
    """Epochs of a training."""
    max_images: int | None = None
    """Use at most this many training images."""
    flip: bool | None = None
    """Mirror images in training; by default for all data but digits."""
    workers: int = 1
    """Trials at a time; more than one run on Ray Tune."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, fractions too; by default 1 where there is one."""
    ray_address: str | None = None
    """A Ray cluster to run on; by default this machine, whatever cluster is about."""
    seed: int = 0
    """The first of the seeds."""
    dry_run: bool = False
    """Print the candidates and the estimated time, and stop."""

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"`--{name}` must be at least 1, but got {getattr(self, name)}.")
        if self.seed < 0:
            raise UserError(f"`--seed` must not be negative, but got {self.seed}.")


def run(settings: Settings) -> int:
    """Train the candidates and choose; the exit status."""
    from nas.search.execution import workers_for
    from nas.search.record import RunFolder

    workers = workers_for(
        settings.workers, settings.gpus_per_trial, settings.ray_address, settings.evaluator
    )
    base = load_architecture(settings.baseline)
    task, base = _load_task(settings, base)
    candidates = _candidates(settings, base)
    for line in _plan(settings, task, base, candidates, workers):
        print(line, flush=True)
    if settings.dry_run:
        return 0

    with RunFolder(settings.run_dir) as folder:
        conditions = {
            "command": "scaling_search.grid",
            "baseline": base.digest,
            "step": settings.step,
            "tolerance": settings.tolerance,
            "ratio": settings.ratio,
            "bounds": [settings.max_alpha, settings.max_beta, settings.max_gamma],
            "select": settings.select,
            "rounding": asdict(_rounding(settings, base)),
            "epochs": settings.epochs,
            "seed": settings.seed,
            **task.conditions,
        }
        folder.bind(conditions, asdict(settings))
        try:
            study = _train(settings, task, candidates, workers, folder)
        except KeyboardInterrupt:
            resume = command_line("scaling_search.grid", settings)
            print(f"\n^C      saved. Resume with: {resume}")
            raise
        finally:
            _write_trials(folder)
        _conclude(settings, task, base, candidates, study, folder)
    return 0


def _load_task(settings: Settings, base: Architecture) -> "tuple[Task, Architecture]":
    """The task at the base's resolution, and the base with the task's classes."""
    from nas.search.task import load_task

    store = None
    if settings.evaluator is None:
        from nas.data.dataset import native_size

        largest = max(c.architecture.resolution for c in _candidates(settings, base))
        # Store the pixels that the largest candidate can use, and none that are not there.
        store = max(base.resolution, min(largest, native_size(settings.data)))
    task = load_task(
        data=settings.data,
        evaluator=settings.evaluator,
        resolution=base.resolution,
        store_size=store,
        num_classes=base.num_classes,
        max_images=settings.max_images,
        flip=settings.flip,
    )
    if task.num_classes != base.num_classes:
        print(
            f"note    classifier of {base.name}: {base.num_classes} -> {task.num_classes} classes"
        )
        base = replace(base, num_classes=task.num_classes)
    return task, base


def _rounding(settings: Settings, base: Architecture) -> Rounding:
    rounding = replace(default_rounding(base, 1), depth=settings.depth_rounding)
    if settings.resolution_step is not None:
        rounding = replace(rounding, resolution_divisor=settings.resolution_step)
    return rounding


def _candidates(settings: Settings, base: Architecture) -> tuple[Candidate, ...]:
    grid = Grid(
        step=settings.step,
        alpha=(1.0, settings.max_alpha),
        beta=(1.0, settings.max_beta),
        gamma=(1.0, settings.max_gamma),
        target=settings.ratio,
        tolerance=settings.tolerance,
        selection=settings.select,
    )
    return find_candidates(base, grid, _rounding(settings, base))


def _plan(
    settings: Settings,
    task: "Task",
    base: Architecture,
    candidates: Sequence[Candidate],
    workers: "Workers",
) -> list[str]:
    triples = sum(len(c.triples) for c in candidates)
    ratios = [c.ratio for c in candidates]
    low, high = settings.ratio * (1 - settings.tolerance), settings.ratio * (1 + settings.tolerance)
    outside = sum(not low <= ratio <= high for ratio in ratios)
    lines = [
        *task.describe(),
        f"base    {base.name} · {base.resolution} px · {format_number(count(base).macs)} "
        f"multiply-adds · digest {base.digest}",
        f"grid    {triples} triples near x{settings.ratio:g} ({settings.select}) make "
        f"{len(candidates)} networks, measured x{min(ratios):.2f} to x{max(ratios):.2f}",
        candidates_table(candidates),
    ]
    if outside:
        lines.append(
            f"note    {outside} of {len(candidates)} networks really cost more or less than the "
            "tolerance allows; a costlier one has an edge. --select measured compares at equal cost"
        )
    jobs = len(candidates) * settings.seeds
    lines.append(
        f"plan    {len(candidates)} networks x {settings.seeds} seeds x {settings.epochs} epochs, "
        f"{workers.describe()} · {_estimate(settings, task, candidates, workers, jobs)}"
    )
    return lines


def _estimate(
    settings: Settings,
    task: "Task",
    candidates: Sequence[Candidate],
    workers: "Workers",
    jobs: int,
) -> str:
    from nas.search.execution import limit_threads

    limit_threads(workers.threads)
    typical = sorted(candidates, key=lambda c: c.cost.macs)[len(candidates) // 2]
    seconds = task.seconds_per_epoch(typical.architecture)
    if seconds is None:
        return "time known after the first trials"
    return f"about {format_duration(1.1 * seconds * settings.epochs * jobs / workers.count)}"


def _train(
    settings: Settings,
    task: "Task",
    candidates: Sequence[Candidate],
    workers: "Workers",
    folder: "RunFolder",
) -> "Study":
    """All candidates with the first seed, then all with the second, and so on."""
    from nas.search.baseline import TrialRunner
    from nas.search.study import Proposal

    runner = TrialRunner(
        folder.database,
        task.evaluator,
        lambda accuracy, macs: accuracy,
        workers,
        probe=task.reference is not None,
        label="accuracy",
    )
    proposals = [
        Proposal(
            architecture=candidate.architecture,
            epochs=settings.epochs,
            seed=settings.seed + s,
            labels={
                **asdict(candidate.coefficients),
                "product": candidate.product,
                "measured_ratio": candidate.ratio,
            },
        )
        for s in range(settings.seeds)
        for candidate in candidates
    ]
    return runner.run_all("grid", proposals)


def _write_trials(folder: "RunFolder") -> None:
    from nas.search.record import all_records
    from nas.search.report import trials_frame

    if not folder.database.exists():
        return
    records = all_records(folder.database)
    trials = [trial for record in records for trial in record.trials()]
    folder.write("trials.csv", trials_frame(trials, "value").to_csv(index=False))
    for record in records:
        record.close()


def _conclude(
    settings: Settings,
    task: "Task",
    base: Architecture,
    candidates: Sequence[Candidate],
    study: "Study",
    folder: "RunFolder",
) -> None:
    from scaling_search.constants import accuracies_by_digest, constants, grid_frame, rank

    ranking = rank(candidates, accuracies_by_digest(study.results))
    evidence = {
        "epochs": settings.epochs,
        "seeds": settings.seeds,
        "trials": study.num_finished,
        "target_ratio": settings.ratio,
        "tolerance": settings.tolerance,
        "selection": settings.select,
        "rounding": asdict(_rounding(settings, base)),
        **task.conditions,
    }
    content = constants(ranking, evidence)
    content["baseline"] = {"name": base.name, "digest": base.digest}
    folder.write("constants.json", json.dumps(content, indent=2) + "\n")
    folder.write("grid.csv", grid_frame(ranking).to_csv(index=False))
    folder.write("grid.png", ranking_plot(ranking))
    baseline = folder.write("baseline.json", base.to_json())
    for line in _summary(ranking, task):
        print(line)
    print(f"wrote   {folder.path}/constants.json, grid.csv, trials.csv, grid.png")
    print(
        f"next    python -m scaling_search.family --baseline {baseline} "
        f"--constants {folder.path}/constants.json --out {folder.path}/family"
    )


def _summary(ranking: "Ranking", task: "Task") -> list[str]:
    best = ranking.best
    alpha, beta, gamma = best.candidate.coefficients.values
    lines = [
        f"best    alpha {alpha:g}, beta {beta:g}, gamma {gamma:g} · accuracy {best.mean:.4f} (mean "
        f"of {len(best.accuracies)} seeds) · product {best.candidate.product:.3f} · measured "
        f"x{best.candidate.ratio:.2f}"
    ]
    if task.data is not None and best.mean <= task.majority + 0.02:
        lines.append(
            f"WARNING no candidate is better than the largest class ({task.majority:.1%}): train "
            "longer (--epochs), or look at the data."
        )
    if ranking.freedom == 0:
        return [*lines, "NOT RESOLVED: one seed says nothing about noise; use --seeds 3 or more."]
    lines.append(
        f"noise   {ranking.noise:.4f} between seeds of one network (standard deviation, "
        f"{ranking.freedom} d.o.f.)"
    )
    if ranking.tied:
        names = ["/".join(f"{v:g}" for v in s.candidate.coefficients.values) for s in ranking.tied]
        lines.append(
            f"NOT RESOLVED: {len(names)} of the other {len(ranking.standings) - 1} cannot be told "
            f"apart from the best: {', '.join(names)}"
        )
        lines.append("        more --seeds, --epochs or images would tell more of them apart")
    else:
        lines.append("        ahead of all others by more than the seed noise explains")
    return lines


def ranking_plot(ranking: "Ranking") -> bytes:
    """PNG of every candidate's mean accuracy and seed spread against its measured cost."""
    from matplotlib.figure import Figure

    from nas.search.report import spread

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    tied = {id(s) for s in (ranking.best, *ranking.tied)}
    for is_tied, color, label in ((True, "C1", "best and tied"), (False, "C0", "behind")):
        group = [s for s in ranking.standings if (id(s) in tied) == is_tied]
        if not group:
            continue
        errors = [0.0 if len(s.accuracies) < 2 else spread(s.accuracies) for s in group]
        axes.errorbar(
            [s.candidate.ratio for s in group],
            [s.mean for s in group],
            yerr=errors,
            fmt="o",
            capsize=2,
            color=color,
            label=label,
        )
    best = ranking.best
    name = "/".join(f"{value:g}" for value in best.candidate.coefficients.values)
    axes.annotate(
        f"best: {name}", (best.candidate.ratio, best.mean), (5, 5), textcoords="offset points"
    )
    axes.set(xlabel="measured multiply-adds over the baseline's", ylabel="accuracy")
    axes.legend(fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(
        run, Settings, argv, prog="python -m scaling_search.grid", description=__doc__ or ""
    )


if __name__ == "__main__":
    sys.exit(main())
