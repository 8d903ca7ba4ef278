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
    from nas.search.record import RunFolder
    from nas.search.study import Study
    from nas.search.task import Task
    from nas.search.workers import Workers


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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Settings, made definite by what they name."""

    settings: Settings
    task: "Task"
    base: Architecture
    """The baseline, with the task's resolution and classes."""
    rounding: Rounding
    candidates: tuple[Candidate, ...]
    workers: "Workers"

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when the run goes on."""
        settings = self.settings
        return {
            "command": "scaling_search.grid",
            "baseline": self.base.digest,
            "step": settings.step,
            "tolerance": settings.tolerance,
            "ratio": settings.ratio,
            "bounds": [settings.max_alpha, settings.max_beta, settings.max_gamma],
            "select": settings.select,
            "rounding": asdict(self.rounding),
            "epochs": settings.epochs,
            "seed": settings.seed,
            **self.task.conditions,
        }


def run(settings: Settings) -> int:
    """Train the candidates and choose; the exit status."""
    from nas.search.record import RunFolder

    if settings.dry_run:
        _print_plan(_prepare(settings))
        return 0
    with RunFolder(settings.run_dir) as folder:  # before the images: a busy folder ends it here
        prepared = _prepare(settings)
        _print_plan(prepared)
        folder.bind(prepared.conditions, asdict(settings))
        try:
            study = _train(prepared, folder.database)
        except KeyboardInterrupt:
            resume = command_line("scaling_search.grid", settings)
            print(f"\n^C      saved. Resume with: {resume}")
            raise
        finally:
            _write_trials(folder)
        _conclude(prepared, study, folder)
    return 0


def _prepare(settings: Settings) -> Prepared:
    workers = settings.where()
    base = load_architecture(settings.baseline)
    if settings.resolution is not None:
        base = adapt_resolution(base, settings.resolution)
    rounding = replace(default_rounding(base, 1), depth=settings.depth_rounding)
    if settings.resolution_step is not None:
        rounding = replace(rounding, resolution_divisor=settings.resolution_step)
    grid = Grid(
        step=settings.step,
        alpha=(1.0, settings.max_alpha),
        beta=(1.0, settings.max_beta),
        gamma=(1.0, settings.max_gamma),
        target=settings.ratio,
        tolerance=settings.tolerance,
        selection=settings.select,
    )
    candidates = find_candidates(base, grid, rounding)
    task = _load_task(settings, base, candidates, workers)
    if task.num_classes != base.num_classes:
        change = f"{base.num_classes} -> {task.num_classes} classes"
        print(f"note    classifier of {base.name}: {change}")
        base = replace(base, num_classes=task.num_classes)
        candidates = find_candidates(base, grid, rounding)
    return Prepared(
        settings=settings,
        task=task,
        base=base,
        rounding=rounding,
        candidates=candidates,
        workers=workers,
    )


def _load_task(
    settings: Settings,
    base: Architecture,
    candidates: Sequence[Candidate],
    workers: "Workers",
) -> "Task":
    store = None
    if settings.evaluator is None:
        from nas.data.dataset import native_size

        largest = max(candidate.architecture.resolution for candidate in candidates)
        # Store the pixels that the largest candidate can use, and none that are not there.
        store = max(base.resolution, min(largest, native_size(settings.data)))
    return settings.load_task(
        workers, resolution=base.resolution, num_classes=base.num_classes, store_size=store
    )


def _print_plan(prepared: Prepared) -> None:
    """Print what is about to be trained, and how long it takes."""
    settings, base, candidates = prepared.settings, prepared.base, prepared.candidates
    triples = sum(len(c.triples) for c in candidates)
    ratios = [c.ratio for c in candidates]
    low, high = settings.ratio * (1 - settings.tolerance), settings.ratio * (1 + settings.tolerance)
    outside = sum(not low <= ratio <= high for ratio in ratios)
    lines = [
        *prepared.task.describe(),
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
    lines.append(
        f"plan    {len(candidates)} networks x {settings.seeds} seeds x {settings.epochs} epochs, "
        f"{prepared.workers.describe()} · {_estimate(prepared)}"
    )
    for line in lines:
        print(line, flush=True)


def _estimate(prepared: Prepared) -> str:
    """Time for all trainings, from a few timed steps of the candidate of median cost."""
    from nas.cores import limit_threads

    settings, workers, candidates = prepared.settings, prepared.workers, prepared.candidates
    limit_threads(workers.threads)
    typical = sorted(candidates, key=lambda c: c.cost.macs)[len(candidates) // 2]
    seconds = prepared.task.seconds_per_epoch(typical.architecture)
    if seconds is None:
        return "time known after the first trials"
    epochs = settings.epochs * settings.seeds * len(candidates)
    return f"about {format_duration(1.1 * seconds * epochs / workers.count)}"


def _train(prepared: Prepared, database: Path) -> "Study":
    """All candidates with the first seed, then all with the second, and so on."""
    from nas.search.objective import AccuracyObjective
    from nas.search.runner import TrialRunner
    from nas.search.trial import Proposal

    settings, task = prepared.settings, prepared.task
    runner = TrialRunner(
        database,
        task.evaluator,
        AccuracyObjective(),
        prepared.workers,
        probe=task.reference is not None,
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
        for candidate in prepared.candidates
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


def _conclude(prepared: Prepared, study: "Study", folder: "RunFolder") -> None:
    """Rank, write and print what came out."""
    from scaling_search.constants import accuracies_by_digest, constants, grid_frame, rank
    from scaling_search.report import ranking_plot, summary

    settings, candidates = prepared.settings, prepared.candidates
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
        "rounding": asdict(prepared.rounding),
        **prepared.task.conditions,
    }
    content = constants(ranking, evidence)
    content["baseline"] = {"name": prepared.base.name, "digest": prepared.base.digest}
    folder.write("constants.json", json.dumps(content, indent=2) + "\n")
    folder.write("grid.csv", grid_frame(ranking).to_csv(index=False))
    folder.write("grid.png", ranking_plot(ranking))
    baseline = folder.write("baseline.json", prepared.base.to_json())
    if failed:
        print(f"note    {failed} of {study.num_finished} trials failed; trials.csv has the reasons")
    if lost := len(candidates) - len(ranking.standings):
        print(
            f"note    {lost} of {len(candidates)} networks are not ranked: all their trials failed"
        )
    for line in summary(ranking, prepared.task.majority if prepared.task.training else None):
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
