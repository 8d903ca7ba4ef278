"""`python -m nas.train`: train one network on a data set, for keeps.

Writes `model.safetensors`, `model.json` (architecture, classes, preprocessing, metrics) and
`history.csv` to one folder, and a checkpoint after every epoch: the same command goes on where it
stopped, and ends with the weights of a training that was never stopped.
"""

import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nas import cli
from nas.cli import MAX_SEED
from nas.cores import num_cores
from nas.data.cache import Cache
from nas.data.dataset import load_for_training, majority_share
from nas.folder import RunFolder, warn_of_changes
from nas.models.saved import CARD, sha256
from nas.models.trained import (
    WEIGHTS,
    Metrics,
    export_command,
    finished_training,
    report,
    write_model,
)
from nas.ram import lack_of_memory
from nas.training.job import HISTORY, Job, Trained, plan, refuse_changes, train
from nas.training.parts import choose_device
from nas.training.proxy import mirrors
from nas.training.recipe import Augment, Optimizer, Precision, Recipe
from nas.training.score import DivergedError
from search_spaces.adapt import adapt_classes
from search_spaces.zoo import load_architecture

MAX_LOST = 2
"""How often a training goes on after one of its loader processes died."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train, on what, and how."""

    arch: str
    """A zoo name, an architecture's JSON or a model.json; of your own builder
    my_module:build@B1.json, or my_module:build@64 at 64 px."""
    data: str
    """`digits`, an image folder, or a torchvision data set by name."""
    out: Path
    """Folder for the model, its history and the checkpoints."""
    skip_bad: bool = False
    """Leave out images that cannot be used instead of refusing; skipped.txt of `--out` names
    them."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder of `--data`."""
    cache_dir: Path | None = None
    """Folder for decoded images, which are mapped: no start decodes what another has, and they may
    be more than memory holds. By default cache/ of `--out`. May be deleted once the training is
    finished."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int | None = None
    """Images a step. Default: 128, fewer on small data."""
    learning_rate: float = 0.4
    """Peak rate for 256 images a step; the rate used is in proportion to the batch. AdamW wants
    about 0.002."""
    optimizer: Optimizer = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    weight_decay: float = 5e-5
    """On kernels; never on batch norms and biases."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights; 0: none. Default: from the number of steps."""
    augment: Augment = "trivial"
    """flip-crop: small shifts, fastest. resized-crop: a crop for each image. trivial, randaugment:
    that and TrivialAugmentWide or RandAugment."""
    flip: bool = True
    """Mirror images; switch it off for text. Never done with `digits`."""
    min_crop_area: float = 0.25
    """Least share of the image in a resized crop."""
    erasing: float = 0.0
    """Probability of erasing a rectangle of an image."""
    resolution: int | None = None
    """Side of the images in pixels. Default: the architecture's."""
    init_weights: Path | None = None
    """Start from these weights, a safetensors file in our, timm's or torchvision's naming; with
    your own builder, of the very same network. The classifier starts anew where the number of
    classes differs, or the file has none."""
    seed: int = 0
    """Fixes every draw."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    precision: Precision = "auto"
    """auto: fp32 on the CPU, bf16 (else fp16) on CUDA."""
    threads: int | None = None
    """CPU threads. Default: all cores where a few timed steps are clearly faster with them, else
    one; a training that goes on keeps its number."""
    loader_workers: int | None = None
    """Processes that augment, where each image has its own crop. Default: none on the CPU, which
    is busy anyway; up to 8 with CUDA."""
    dry_run: bool = False
    """Show what is left to do and stop; nothing is written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    args = sys.argv[1:] if argv is None else list(argv)
    return cli.main(
        lambda settings: run(settings, shlex.join(["python", "-m", "nas.train", *args])),
        Settings,
        args,
        prog="python -m nas.train",
        description="Train a network on a data set; resumes where it stopped.",
    )


def run(settings: Settings, command: str) -> int:
    """Train as `settings` say.

    Args:
        settings: What to train.
        command: The command line that was given; printed as the one to resume with.

    Returns:
        The exit status: 0, or 1 if the training diverged.

    Raises:
        ValueError: Something the user can put right.
    """
    _check_numbers(settings)
    try:
        if settings.dry_run:
            _show(settings)
        else:
            _run(settings, command)
    except DivergedError as error:
        print(
            f"error: the training diverged, {error}. Lower --learning-rate "
            f"({settings.learning_rate:g}), with another --out.",
            file=sys.stderr,
        )
        return 1
    return 0


def _check_numbers(settings: Settings) -> None:
    for flag, least in (("threads", 1), ("seed", 0), ("loader_workers", 0), ("batch_size", 2)):
        value = getattr(settings, flag)
        if value is not None and value < least:
            name = flag.replace("_", "-")
            raise cli.UserError(f"`--{name}` must be at least {least}, but got {value}.")
    for flag, most in (("seed", MAX_SEED), ("loader_workers", max(64, 4 * num_cores()))):
        if (getattr(settings, flag) or 0) > most:
            name, value = flag.replace("_", "-"), getattr(settings, flag)
            raise cli.UserError(f"`--{name}` must be at most {most}, but got {value}.")


def _show(settings: Settings) -> None:
    """What the same command would do without `--dry-run`, or refuse."""
    RunFolder(settings.out, flag="--out").check()
    job = prepare(settings)
    if not _is_finished(job, settings.out):
        with _lack_of_memory(job):
            plan(job, settings.out)
    print("dry run: nothing was trained or written")


def _run(settings: Settings, command: str) -> None:
    with RunFolder(settings.out, "nas.train", "--out") as folder:
        job = prepare(settings)
        if _is_finished(job, settings.out):
            return
        try:
            with _lack_of_memory(job):
                _finish(job, _train(job, folder), folder)
        except KeyboardInterrupt:
            print(f"\n^C      finished epochs are saved. Resume with: {command}")
            raise


def _lack_of_memory(job: Job) -> AbstractContextManager[None]:
    batch = job.recipe.batch(len(job.data.train))
    return lack_of_memory(
        f"Lower --batch-size ({batch}), with another --out where a training has begun, for that "
        "is another; finished epochs are kept."
    )


def _is_finished(job: Job, out: Path) -> bool:
    """Whether the folder holds this training to its end, which is then shown.

    Raises:
        UserError: It holds another.
    """
    finished = finished_training(out)
    if finished is None:
        return False
    refuse_changes(job, finished.conditions, out)
    print(f"done    {out} holds this training, finished; nothing was repeated")
    report(out, finished.metrics)
    print(f"next    {export_command(out, job.architecture)}")
    return True


def _train(job: Job, folder: RunFolder) -> Trained:
    """Train; an epoch whose loader process is killed starts again, a few times."""
    lost = 0
    while True:
        try:
            return train(job, folder)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):  # torch has no type for it
                raise
            lost += 1
            if lost > MAX_LOST:
                raise cli.UserError(
                    f"A loader process died {lost} times: {error} Memory may be short: use fewer "
                    "--loader-workers. The same command goes on."
                ) from error
            print(f"note    a loader process died, and its epoch starts again: {error}")


def prepare(settings: Settings) -> Job:
    """Read what the settings name, and check that it goes together.

    Raises:
        ValueError: It does not, or cannot be read.
    """
    warn_of_changes(settings.arch)
    architecture = load_architecture(settings.arch)
    if settings.resolution is not None:
        architecture = replace(architecture, resolution=settings.resolution)
    recipe = _recipe(settings)
    device = choose_device(settings.device)
    data = load_for_training(
        settings.data,
        size=architecture.resolution,
        skip_bad=settings.skip_bad,
        follow_links=settings.follow_links,
        cache=Cache(settings.cache_dir or settings.out / "cache", is_read_only=settings.dry_run),
    )
    print(f"data    {data.summary()}")
    for notice in data.notices:
        print(f"note    {notice}")
    if architecture.num_classes != len(data.classes):
        before, architecture = architecture, adapt_classes(architecture, len(data.classes))
        print(
            f"note    {architecture.name} has {before.num_classes} classes, the data have "
            f"{len(data.classes)}: the classifier gets {len(data.classes)}"
        )
    recipe = replace(recipe, flip=recipe.flip and mirrors(data))
    weights = settings.init_weights
    conditions = {
        "arch": f"{architecture.name} ({architecture.digest})",
        "data": f"{data.name} ({data.fingerprint})",
        "seed": settings.seed,
        "init_weights": None if weights is None else _digest_of(weights),
        "recipe": _binding(recipe),
    }
    workers = settings.loader_workers
    if workers is None:
        workers = min(8, num_cores()) if device.type == "cuda" else 0
    return Job(
        architecture=architecture,
        data=data,
        recipe=recipe,
        init_weights=weights,
        seed=settings.seed,
        device=device,
        workers=workers,
        threads=settings.threads,
        conditions=conditions,
    )


def _recipe(settings: Settings) -> Recipe:
    recipe = Recipe.full(
        settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        augment=settings.augment,
        flip=settings.flip,
        erasing=settings.erasing,
        ema_decay=settings.ema_decay,
    )
    return replace(
        recipe,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        min_crop_area=settings.min_crop_area,
        precision=settings.precision,
    )


def _finish(job: Job, trained: Trained, folder: RunFolder) -> None:
    """Evaluate the last weights and write the model."""
    data, out = job.data, folder.path
    metrics: Metrics = {"train_loss": trained.history[-1]["loss"]}
    for name, split in (("validation", data.validation), ("test", data.test)):
        measured = None if split is None else job.accuracy(trained.network, split)
        metrics[f"{name}_accuracy"] = measured
        metrics[f"{name}_majority_share"] = None if split is None else majority_share(split)
    write_model(
        folder, trained.network, classes=data.classes, conditions=job.conditions, metrics=metrics
    )
    report(out, metrics)
    print(f"wrote   {out}/{{{WEIGHTS},{CARD},{HISTORY}}}")
    print(f"next    {export_command(out, job.architecture)}")


def _binding(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe but the memory format, which is channels-last here and was always so."""
    return {name: value for name, value in asdict(recipe).items() if name != "memory_format"}


def _digest_of(weights: Path) -> str:
    if not weights.is_file():
        raise cli.UserError(f"There is no weights file {weights}; name one with --init-weights.")
    return sha256(weights)[:12]


if __name__ == "__main__":
    sys.exit(main())
