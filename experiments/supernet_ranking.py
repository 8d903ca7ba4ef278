"""`python -m experiments.supernet_ranking`: do shared weights rank networks as training does?

Networks spread over a space are trained alone with several seeds, and measured with the weights of
supernets of several seeds. How far two trainings of the same networks agree is the ceiling for any
ranking of them; multiply-adds, which cost nothing, are the floor. The same command on the same
folder resumes; what is trained is not trained again when more networks, seeds or other supernets
are asked for.
"""

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.agreement import Ranking, summary
from nas.cli import (
    OptionalNumber,
    UserError,
    command_line,
    format_duration,
    format_number,
    plural,
)
from nas.cli import main as cli_main
from nas.costs.metrics import typical
from nas.proxies.rank import MIN_NETWORKS, Array
from nas.search.options import TrialOptions
from nas.search.session import about, estimate, run_session
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.spaces import Space, default_target_macs

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.search.task import Task
    from nas.supernet.job import SupernetJob
    from nas.trials.runner import TrialRunner
    from nas.trials.trial import Proposal
    from nas.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of the experiment; `--epochs` are those of a network that is trained alone."""

    run_dir: Path = Path("runs/supernet-ranking")
    """Where the record is kept."""
    space: str = "mnasnet"
    """As for nas.run."""
    target_flops: OptionalNumber = None
    """Multiply-adds that the space lies around."""
    resolution: int | None = None
    """Side of the images in px; by default their own, at most 224."""
    networks: int = 20
    """How many, spread over the space."""
    seeds: int = 2
    """Trainings of each network alone."""
    supernet_epochs: int = 60
    """Epochs of a supernet."""
    supernet_drawn: int = 2
    """Networks drawn at random for each of its steps."""
    supernet_seeds: int = 2
    """Supernets."""
    out: Path = Path("experiments/results")
    """Folder for the tables, dated."""
    name: str = "supernet-ranking"
    """First part of the names of these files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluator is not None:
            raise UserError("A supernet is trained on images: leave out `--evaluator`.")
        if self.networks < MIN_NETWORKS:
            raise UserError(
                f"`--networks` must be at least {MIN_NETWORKS} to rank, but got {self.networks}."
            )
        for flag in ("seeds", "supernet_seeds"):
            if getattr(self, flag) < 2:
                raise UserError(
                    f"`--{flag.replace('_', '-')}` must be at least 2 to see noise, but got "
                    f"{getattr(self, flag)}."
                )
        self._check_positive("supernet_epochs", "supernet_drawn")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Settings, made definite by what they name."""

    settings: Settings
    task: "Task"
    space: Space
    target_macs: float
    networks: tuple[Architecture, ...]
    workers: "Workers"

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when the run goes on; numbers of networks and seeds, and supernets,
        may."""
        settings = self.settings
        return {
            "space": settings.space,
            "resolution": self.task.resolution,
            "target_macs": self.target_macs,
            "epochs": settings.epochs,
            "seed": settings.seed,
            **self.task.conditions,
        }

    def job(self, index: int) -> "SupernetJob":
        """The training of one of the supernets."""
        from nas.supernet.job import SupernetJob

        assert self.task.training is not None
        return SupernetJob(
            space=self.space,
            training=self.task.training,
            epochs=self.settings.supernet_epochs,
            drawn=self.settings.supernet_drawn,
            seed=self.settings.seed + index,
        )

    def describe(self) -> list[str]:
        """What is about to happen, and how long it takes."""
        settings, macs = self.settings, sorted(count(a).macs for a in self.networks)
        epochs = settings.epochs * settings.seeds * len(self.networks)
        alone = estimate(self.task, self.workers, [(typical(self.networks), epochs)], studies=1)
        shared = self.job(0).seconds_of_training() * settings.supernet_seeds
        whole = None if alone is None else alone + shared
        parts = "" if alone is None else f"alone {format_duration(alone)}, "
        return [
            *self.task.describe(),
            f"space   {self.space.name} · {plural(len(macs), 'network')} of "
            f"{format_number(macs[0])} to {format_number(macs[-1])} multiply-adds, spread over "
            "the space",
            *self.job(0).describe(),
            f"plan    {plural(len(macs), 'network')} x {plural(settings.seeds, 'seed')} x "
            f"{plural(settings.epochs, 'epoch')} alone, "
            f"{plural(settings.supernet_seeds, 'supernet')}, {self.workers.describe()} · "
            f"{about(whole)} ({parts}supernets {format_duration(shared)})",
        ]


def run(settings: Settings) -> int:
    """Train, measure, compare; the exit status."""
    return run_session(
        "experiments.supernet_ranking",
        settings,
        prepare=_prepare,
        train=_train,
        conclude=_conclude,
    )


def _prepare(settings: Settings) -> Prepared:
    from nas.proxies.plan import spread
    from nas.search.space import load_space

    workers = settings.where()
    task = settings.load_task(
        workers, run_dir=settings.run_dir, resolution=settings.resolution, num_classes=None
    )
    target = settings.target_flops or default_target_macs(task.resolution, task.num_classes)
    space = load_space(
        settings.space,
        resolution=task.resolution,
        num_classes=task.num_classes,
        target_macs=target,
    )
    chosen = spread(space, settings.networks, seed=settings.seed)
    networks = tuple(space.decode(choices) for choices in chosen)
    task, workers = settings.tune(task, workers, networks, run_dir=settings.run_dir)
    return Prepared(
        settings=settings,
        task=task,
        space=space,
        target_macs=target,
        networks=networks,
        workers=workers,
    )


def _train(prepared: Prepared, folder: "RunFolder") -> Ranking:
    from nas.costs.objective import AccuracyObjective
    from nas.supernet.job import seconds_spent
    from nas.trials.runner import TrialRunner

    settings = prepared.settings

    def runner(evaluator: Any) -> TrialRunner:
        return TrialRunner(
            folder.database,
            evaluator,
            AccuracyObjective(),
            prepared.workers,
            describe=lambda labels: f"network {labels['network'] + 1:>2}",
        )

    print("trial   every network alone", flush=True)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    proposals = _proposals(prepared, settings.epochs, seeds)
    alone = _accuracies(runner(prepared.task.evaluator), "alone", proposals, len(seeds))
    shared, spent = [], []
    for index in range(settings.supernet_seeds):
        print(f"trial   supernet {index + 1} of {settings.supernet_seeds}", flush=True)
        job = prepared.job(index)
        name = "-".join(["supernet", *map(str, job.conditions.values()), str(index)])
        evaluator = job.train(folder.path / name, lambda line: print(line, flush=True))
        # A seed of their own keeps measurements with these weights apart from all others.
        own = zlib.crc32(name.encode())
        proposals = _proposals(prepared, settings.supernet_epochs, [own])
        shared.append(_accuracies(runner(evaluator), name, proposals, 1))
        spent.append(seconds_spent(folder.path / name))
    return Ranking(
        macs=np.array([count(network).macs for network in prepared.networks], dtype=float),
        alone=alone[0],
        alone_seconds=alone[1],
        shared=np.hstack([values for values, _ in shared]),
        shared_seconds=np.hstack([seconds for _, seconds in shared]),
        supernet_seconds=np.array(spent),
    )


def _proposals(prepared: Prepared, epochs: int, seeds: Sequence[int]) -> "list[Proposal]":
    from nas.trials.trial import Proposal

    return [
        Proposal(architecture=network, epochs=epochs, seed=seed, labels={"network": i})
        for seed in seeds
        for i, network in enumerate(prepared.networks)
    ]


def _accuracies(
    runner: "TrialRunner", name: str, proposals: "list[Proposal]", seeds: int
) -> tuple[Array, Array]:
    """Accuracies and seconds, `(n, seeds)`.

    Raises:
        UserError: A network could not be measured.
    """
    results = sorted(runner.run_all(name, proposals).results, key=lambda r: r.job.slot)
    if failed := [r for r in results if r.outcome.accuracy is None]:
        raise UserError(
            f"{len(failed)} measurements failed ({failed[0].outcome.reason}); trials.csv has the "
            "reasons."
        )
    values = np.array([(r.outcome.accuracy, r.outcome.seconds) for r in results])
    accuracies, seconds = values.T.reshape(2, seeds, -1)
    return accuracies.T, seconds.T


def _conclude(prepared: Prepared, folder: "RunFolder", ranking: Ranking, lines: list[str]) -> None:
    from search_spaces.files import atomic_write

    settings = prepared.settings
    frame = pd.DataFrame({"digest": [a.digest for a in prepared.networks], "macs": ranking.macs})
    for name, values in (("alone", ranking.alone), ("supernet", ranking.shared)):
        for seed, column in enumerate(values.T):
            frame[f"{name}_{seed}"] = column
    words = summary(ranking, settings.seed)
    print(f"\n{words}\n")
    stem = settings.out / f"{date.today().isoformat()}-{settings.name}"
    command = command_line("experiments.supernet_ranking", settings)
    plan = "\n".join(f"    {line}" for line in lines)
    atomic_write(Path(f"{stem}.md"), f"    {command}\n\n{plan}\n\n{words}\n")
    atomic_write(Path(f"{stem}.csv"), frame.to_csv(index=False))
    print(f"wrote   {stem}.md, .csv; trials.csv in {folder.path}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    prog = "python -m experiments.supernet_ranking"
    return cli_main(run, Settings, argv, prog=prog, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
