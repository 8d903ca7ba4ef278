"""`python -m scaling_search.grid`: find alpha, beta, gamma by training scaled candidates."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.cli import command_line, format_duration, format_number
from nas.cli import main as cli_main
from nas.search.options import TrialOptions
from scaling_search.candidates import (
    Candidate,
    Grid,
    Selection,
    candidates_table,
    find_candidates,
)
from scaling_search.compound import Coefficients, default_rounding
from search_spaces.adapt import adapt_resolution
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import load_architecture

if TYPE_CHECKING:
    from nas.search.execution import Workers
    from nas.search.record import RunFolder
    from nas.search.study import Study
    from nas.search.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of `scaling_search.grid`."""

    baseline: str
    """The network to scale: the baseline.json of nas.run, or a zoo name."""
    resolution: int | None = None
    """Side of the base's images in px, by default the baseline's own; strides that a smaller image
    does not survive are dropped."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("seeds", "resolution", "resolution_step")


def run(settings: Settings) -> int:
    """Train the candidates and choose; the exit status."""
    from nas.search.record import RunFolder

    workers = settings.where()
    base = load_architecture(settings.baseline)
    if settings.resolution is not None:
        base = adapt_resolution(base, settings.resolution)
    task, base = _load_task(settings, base, workers)
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


def _load_task(
    settings: Settings, base: Architecture, workers: "Workers"
) -> "tuple[Task, Architecture]":
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
        device="auto" if workers.gpus_per_trial else "cpu",
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
    from nas.cores import limit_threads

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
        describe=_describe,
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


def _describe(labels: Mapping[str, Any]) -> str:
    return Coefficients(labels["alpha"], labels["beta"], labels["gamma"]).label


def _write_trials(folder: "RunFolder") -> None:
    from nas.search.record import all_records
    from nas.search.report import trials_frame

    if not folder.database.exists():
        return
    records = all_records(folder.database)
    trials = [(record.name, trial) for record in records for trial in record.trials()]
    frame = trials_frame((trial for _, trial in trials), "value")
    frame.insert(0, "study", [study for study, _ in trials])
    folder.write("trials.csv", frame.to_csv(index=False))
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
    from scaling_search.report import ranking_plot, summary

    ranking = rank(candidates, accuracies_by_digest(study.results))
    failed = study.num_finished - len(list(study.completed))
    evidence = {
        "epochs": settings.epochs,
        "seeds": settings.seeds,
        "trials": study.num_finished,
        "failed_trials": failed,
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
    if failed:
        print(f"note    {failed} of {study.num_finished} trials failed; trials.csv has the reasons")
    if lost := len(candidates) - len(ranking.standings):
        print(
            f"note    {lost} of {len(candidates)} networks are not ranked: all their trials failed"
        )
    for line in summary(ranking, task.majority if task.training else None):
        print(line)
    print(f"wrote   {folder.path}/constants.json, grid.csv, trials.csv, grid.png")
    print(f"next    {_family_command(settings, folder.path, baseline)}")


def _family_command(settings: Settings, folder: Path, baseline: Path) -> str:
    """The command that scales as the grid did, rounding included."""
    words = ["python", "-m", "scaling_search.family", "--baseline", str(baseline)]
    words += ["--constants", f"{folder}/constants.json", "--out", f"{folder}/family"]
    if settings.depth_rounding != "ceil":
        words += ["--depth-rounding", settings.depth_rounding]
    if settings.resolution_step is not None:
        words += ["--resolution-step", str(settings.resolution_step)]
    return shlex.join(words)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(
        run, Settings, argv, prog="python -m scaling_search.grid", description=__doc__ or ""
    )


if __name__ == "__main__":
    sys.exit(main())
