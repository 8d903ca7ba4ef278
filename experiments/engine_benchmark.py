"""`python -m experiments.engine_benchmark`: is a trial as fast as this machine allows?

Every number is a ratio to something measured in the same run, taken in turn, or a share of a trial.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tabulate import tabulate

from experiments.measuring import Clock, Row
from nas.cli import UserError, command_line
from nas.cli import main as cli_main
from nas.cores import limit_threads, num_cores
from search_spaces.files import atomic_write

if TYPE_CHECKING:
    from nas.data.dataset import ImageData
    from nas.training.proxy import ProxyTraining

Section = Literal["loops", "overhead", "workers", "growth", "gpu", "gpu-trials"]
_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of the benchmark."""

    data: Path = Path("tiny-imagenet-10")
    """A folder with train/ of class folders, ten of them."""
    sections: tuple[Section, ...] = (
        *("loops", "overhead", "workers", "growth"),
        *("gpu", "gpu-trials"),
    )
    """Which; those of a GPU are left out where there is none."""
    resolutions: tuple[int, ...] = (32, 64)
    """Sides of the images in px."""
    widths: tuple[float, ...] = (0.25, 1.0)
    """Of EfficientNet-B0."""
    batch: int = 128
    """Images a step."""
    steps: int = 4
    """Training steps of a timing."""
    rounds: int = 7
    """Timings of each, in turn."""
    threads: int = 1
    """CPU threads of a training."""
    loader_jobs: int = 0
    """Loader processes of timm's defaults. With as many cores as `--threads`, more only compete."""
    epochs: int = 4
    """Of a real trial; choose so many that it takes about 5 s."""
    max_images: int = 1500
    """Of the folder, for the trials and the loops in memory."""
    late_trial: int = 5000
    """What trial 50 is compared with."""
    most_trials: int = 10_000
    """At which memory is read."""
    strategies: tuple[str, ...] = ("random", "evolution")
    """Of these studies."""
    clock: Clock = "wall"
    """`cpu` counts this process's own time, for cores that others use too; never for workers."""
    out: Path = Path("experiments/results")
    """Folder for the table, dated."""
    name: str = "engine-benchmark"
    """First part of its name."""

    def __post_init__(self) -> None:
        for flag in ("batch", "steps", "rounds", "threads", "epochs", "late_trial"):
            if getattr(self, flag) < 1:
                name = flag.replace("_", "-")
                raise UserError(f"`--{name}` must be at least 1, but got {getattr(self, flag)}.")


def run(settings: Settings) -> int:
    """Measure section by section, print each, write the table; the exit status."""
    from experiments.engine_loops import load_timm

    timm = load_timm()
    limit_threads(settings.threads)
    conditions = _conditions(timm.__version__)
    print(f"machine   {conditions}", flush=True)
    sections: dict[Section, Callable[[Settings], Iterator[Row]]] = {
        "loops": _loops,
        "overhead": _overhead,
        "workers": _workers,
        "growth": _growth,
        "gpu": _gpu,
        "gpu-trials": _gpu_trials,
    }
    rows: list[Row] = []
    for name in settings.sections:
        for row in sections[name](settings):
            cells = row.cells()
            print(
                f"{name:<9} {cells['measured']}: {cells['value']} ({cells['spread']}) "
                f"{cells['target']}",
                flush=True,
            )
            rows.append(row)
    table = tabulate([row.cells() for row in rows], headers="keys", tablefmt="github")
    command = command_line("experiments.engine_benchmark", settings)
    file = settings.out / f"{date.today().isoformat()}-{settings.name}.md"
    settings.out.mkdir(parents=True, exist_ok=True)
    atomic_write(file, f"{conditions}\n\n    {command}\n\n{table}\n")
    print(f"\n{table}\n\nwrote     {file}")
    return 0


def _loops(settings: Settings) -> Iterator[Row]:
    """Images a second of our loop over those of the two others, network by network."""
    from experiments.engine_apart import Contest, seconds_apart
    from experiments.measuring import number_row, ratio_row

    for resolution in settings.resolutions:
        _images(settings, resolution)  # decoded once, and complaints before the first process
        for width in settings.widths:
            contest = Contest(
                data=settings.data,
                num_classes=_CLASSES,
                max_images=settings.max_images,
                width=width,
                resolution=resolution,
                batch=settings.batch,
                steps=settings.steps,
                threads=settings.threads,
                jobs=settings.loader_jobs,
                clock=settings.clock,
            )
            seconds = seconds_apart(contest, settings.rounds)
            how = (
                f"batch {settings.batch}, {settings.rounds} x {settings.steps} steps in turn, "
                f"a process each, {settings.threads} thread, {settings.clock} clock"
            )
            name = f"B0 x {width:g} at {resolution} px"
            images = settings.steps * settings.batch
            yield number_row(name, images / seconds["ours"], unit=" images/s", detail=how)
            for other, target in (("hand-tuned", ">= 1.0"), ("timm's defaults", ">= 2")):
                what = f"{name}, over {other}"
                yield ratio_row(what, seconds[other], seconds["ours"], target=target, detail=how)


def _overhead(settings: Settings) -> Iterator[Row]:
    from experiments.engine_loops import b0
    from experiments.engine_trials import empty_trial, empty_trial_on_ray, real_trial

    yield empty_trial(100, settings.clock)
    yield empty_trial_on_ray(40, 2)
    resolution, width = settings.resolutions[0], settings.widths[0]
    network = b0(width, resolution, _CLASSES)
    training = _training(settings, resolution)
    yield from real_trial(training, network, settings.epochs, settings.rounds)


def _workers(settings: Settings) -> Iterator[Row]:
    from experiments.engine_loops import b0
    from experiments.engine_trials import two_workers

    if num_cores() < 2:
        raise UserError("Two workers need two cores; leave `workers` out of --sections.")
    resolution, width = settings.resolutions[0], settings.widths[0]
    network = b0(width, resolution, _CLASSES)
    yield two_workers(_training(settings, resolution), network, 12, 3)


def _growth(settings: Settings) -> Iterator[Row]:
    from experiments.engine_trials import growth

    for i, strategy in enumerate(settings.strategies):
        most = settings.most_trials if i == 0 else 0
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(growth, strategy, settings.late_trial, most, 4, settings.clock)
            yield from found.result()


def _gpu(settings: Settings) -> Iterator[Row]:
    if _has_gpu():
        from experiments.engine_gpu import throughput

        yield from throughput(max(20, settings.steps), settings.rounds)


def _gpu_trials(settings: Settings) -> Iterator[Row]:
    if _has_gpu():
        from experiments.engine_gpu import trials_per_hour

        for resolution in settings.resolutions:
            yield from trials_per_hour(resolution, epochs=5, trials=8)


def _has_gpu() -> bool:
    import torch

    if not torch.cuda.is_available():
        print("gpu       none here: not measured", flush=True)
    return torch.cuda.is_available()


def _training(settings: Settings, resolution: int) -> "ProxyTraining":
    from nas.training.proxy import ProxyTraining

    return ProxyTraining(data=_images(settings, resolution), flip=True, device="cpu")


def _images(settings: Settings, resolution: int) -> "ImageData":
    from nas.data.dataset import load_for_search

    images = load_for_search(str(settings.data), size=resolution, limit=settings.max_images)
    if len(images.classes) != _CLASSES:
        raise UserError(f"`--data` must have {_CLASSES} classes, but has {len(images.classes)}.")
    return images


def _conditions(timm: str) -> str:
    """Machine, versions and date, for what follows."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{date.today().isoformat()}: {platform.machine()}, {num_cores()} cores, {device}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm}, "
        f"Optuna {version('optuna')}, Ray {version('ray')}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    prog = "python -m experiments.engine_benchmark"
    return cli_main(run, Settings, argv, prog=prog, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
