"""`python -m nas.train`: train one network on a data set, for keeps.

Writes `model.safetensors`, `model.json` (architecture, classes, preprocessing, metrics) and
`history.csv` to one folder, and a checkpoint after every epoch: the same command goes on where it
stopped, and ends with the weights of a training that was never stopped.
"""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from nas import cli
from nas.data.dataset import ImageData, Split, load_for_training, majority_share
from nas.models.saved import CARD, sha256
from nas.models.trained import (
    WEIGHTS,
    Metrics,
    export_command,
    finished_training,
    report,
    write_model,
)
from nas.training import checkpoint
from nas.training.proxy import mirrors
from nas.training.recipe import Augment, Optimizer, Precision, Recipe
from nas.training.trainer import (
    NORM_IMAGES,
    DivergedError,
    Trainer,
    accuracy,
    build_network,
    choose_device,
    seconds_per_image,
)
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.files import atomic_write, differences, exclusive
from search_spaces.network import Network
from search_spaces.weights import load_weights, read_weights
from search_spaces.zoo import load_architecture

HISTORY = "history.csv"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train, on what, and how."""

    arch: str
    """A zoo name, an architecture's JSON or a model.json."""
    data: str
    """`digits`, an image folder, or a torchvision data set by name."""
    out: Path
    """Folder for the model, its history and the checkpoints."""
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
    """Start from these weights, a safetensors file in our, timm's or torchvision's naming. The
    classifier starts anew where the number of classes differs."""
    seed: int = 0
    """Fixes every draw."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    precision: Precision = "auto"
    """auto: fp32 on the CPU, bf16 (else fp16) on CUDA."""
    threads: int | None = None
    """CPU threads. Default: PyTorch's choice."""
    loader_workers: int | None = None
    """Processes that augment, where each image has its own crop. Default: none on the CPU, which
    is busy anyway; up to 8 with CUDA."""
    dry_run: bool = False
    """Show the plan and stop; nothing is written."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Settings, made definite by what they name."""

    settings: Settings
    architecture: Architecture
    """With the data's number of classes."""
    data: ImageData
    recipe: Recipe
    device: torch.device
    workers: int
    conditions: dict[str, Any]
    """What the outcome depends on; a training goes on only under the same."""

    def network(self) -> Network:
        """The network to start from."""
        network = build_network(self.architecture, self.settings.seed)
        if self.settings.init_weights is not None:
            state = read_weights(self.settings.init_weights)
            naming = load_weights(
                network, state, reset_classifier=_other_classes(state, self.architecture)
            )
            print(f"init    {self.settings.init_weights} ({naming} naming)")
        return network


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
    for flag, least in (("threads", 1), ("seed", 0), ("loader_workers", 0), ("batch_size", 2)):
        value = getattr(settings, flag)
        if value is not None and value < least:
            name = flag.replace("_", "-")
            raise cli.UserError(f"`--{name}` must be at least {least}, but got {value}.")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.dry_run:
        _show_plan(prepare(settings))
        print("dry run: nothing was trained or written")
        return 0
    with exclusive(settings.out, "--out"):
        job = prepare(settings)
        finished = finished_training(settings.out)
        if finished is not None:
            _refuse_changes(job, finished.conditions)
            print(f"done    {settings.out} holds this training, finished; nothing was repeated")
            report(settings.out, finished.metrics)
            print(f"next    {export_command(settings.out)}")
            return 0
        try:
            return _train(job)
        except DivergedError as error:
            print(
                f"error: the training diverged, {error}. Lower --learning-rate "
                f"({settings.learning_rate:g}), with another --out.",
                file=sys.stderr,
            )
            return 1
        except KeyboardInterrupt:
            print(f"\n^C      finished epochs are saved. Resume with: {command}")
            raise


def prepare(settings: Settings) -> Job:
    """Read what the settings name, and check that it goes together.

    Raises:
        ValueError: It does not, or cannot be read.
    """
    architecture = load_architecture(settings.arch)
    if settings.resolution is not None:
        architecture = replace(architecture, resolution=settings.resolution)
    recipe = _recipe(settings)
    device = choose_device(settings.device)
    data = load_for_training(settings.data, size=architecture.resolution)
    print(f"data    {data.summary()}")
    for notice in data.notices:
        print(f"note    {notice}")
    if architecture.num_classes != len(data.classes):
        print(
            f"note    {architecture.name} has {architecture.num_classes} classes, the data have "
            f"{len(data.classes)}: the classifier gets {len(data.classes)}"
        )
        architecture = replace(architecture, num_classes=len(data.classes))
    recipe = replace(recipe, flip=recipe.flip and mirrors(data))
    weights = settings.init_weights
    conditions = {
        "arch": f"{architecture.name} ({architecture.digest})",
        "data": f"{data.name} ({data.fingerprint})",
        "seed": settings.seed,
        "init_weights": None if weights is None else _digest_of(weights),
        "recipe": asdict(recipe),
    }
    workers = settings.loader_workers
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    return Job(
        settings=settings,
        architecture=architecture,
        data=data,
        recipe=recipe,
        device=device,
        workers=workers,
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


def _show_plan(job: Job, finished: int = 0) -> None:
    architecture, recipe, images = job.architecture, job.recipe, len(job.data.train)
    cost = count(architecture)
    print(
        f"model   {architecture.name} · {cli.format_number(cost.params)} params · "
        f"{cli.format_number(cost.macs)} MACs · {architecture.resolution} px"
    )
    each = seconds_per_image(
        architecture, job.data.train, recipe, device=job.device, workers=job.workers
    )
    batch, steps, epochs = recipe.batch(images), recipe.steps(images), recipe.epochs - finished
    # Evaluation runs forward only: a third of a training step's work, with no augmentation.
    judged = 0 if job.data.validation is None else NORM_IMAGES + len(job.data.validation)
    seconds = each * epochs * (steps * batch + judged / 3)
    mirrored = "mirrored" if recipe.flip and recipe.augment != "none" else "not mirrored"
    print(
        f"plan    {epochs} epochs x {steps} steps of {batch} images · "
        f"{recipe.augment}, {mirrored} · {recipe.optimizer}, peak rate "
        f"{recipe.peak_rate(images):.3g} · {job.device.type} · "
        f"about {cli.format_duration(seconds)}"
    )


def _train(job: Job) -> int:
    """Train from the newest checkpoint, or from the start, to the end."""
    folder, recipe, data = job.settings.out, job.recipe, job.data
    trainer = Trainer(
        job.network(),
        data.train,
        recipe,
        seed=job.settings.seed,
        device=job.device,
        workers=job.workers,
    )
    history = _resume(job, trainer)
    if trainer.epoch < recipe.epochs:
        _show_plan(job, trainer.epoch)
    spent: list[float] = []
    while trainer.epoch < recipe.epochs:
        start = time.monotonic()
        row: dict[str, Any] = {"epoch": trainer.epoch + 1, "loss": trainer.run_epoch()}
        if data.validation is not None:
            row["val_accuracy"] = _accuracy(trainer.evaluable(), data.validation, job)
        spent.append(time.monotonic() - start)
        history.append({**row, "seconds": round(spent[-1], 3)})
        state = {"conditions": job.conditions, "history": history, "trainer": trainer.state()}
        checkpoint.save(folder, state)
        atomic_write(folder / HISTORY, pd.DataFrame(history).to_csv(index=False))
        left = sum(spent) / len(spent) * (recipe.epochs - trainer.epoch)
        print(_epoch_line(history, recipe.epochs, left), flush=True)
    return _finish(job, trainer, history)


def _resume(job: Job, trainer: Trainer) -> list[dict[str, Any]]:
    """Bring the trainer to the newest checkpoint, if there is one; the history until there."""
    folder = job.settings.out
    loaded = checkpoint.load(folder)
    for name in loaded.damaged:
        print(f"WARNING {folder / name} is damaged and was not used")
    if loaded.state is None:
        return []
    _refuse_changes(job, loaded.state["conditions"])
    trainer.load_state(loaded.state["trainer"])
    print(f"resume  {folder} after epoch {trainer.epoch} of {job.recipe.epochs}")
    return loaded.state["history"]


def _refuse_changes(job: Job, old: dict[str, Any]) -> None:
    changes = differences(old, job.conditions)
    if changes:
        raise cli.UserError(
            f"{job.settings.out} holds a training with other settings: {'; '.join(changes)}. "
            "Restore them, or choose another --out."
        )


def _epoch_line(history: list[dict[str, Any]], epochs: int, left: float) -> str:
    last = history[-1]
    parts = [f" {last['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {last['loss']:.4f}"]
    if "val_accuracy" in last:
        best = max(row["val_accuracy"] for row in history)
        mark = "*" if last["val_accuracy"] == best else " "
        parts.append(f"val {last['val_accuracy']:.4f} {mark} best {best:.4f}")
    return "   ".join([*parts, f"eta {cli.format_duration(left)}"])


def _finish(job: Job, trainer: Trainer, history: list[dict[str, Any]]) -> int:
    """Evaluate the last weights and write the model."""
    folder, data = job.settings.out, job.data
    network = trainer.evaluable()
    metrics: Metrics = {"train_loss": history[-1]["loss"]}
    for name, split in (("validation", data.validation), ("test", data.test)):
        metrics[f"{name}_accuracy"] = None if split is None else _accuracy(network, split, job)
        metrics[f"{name}_majority_share"] = None if split is None else majority_share(split)
    write_model(folder, network, classes=data.classes, conditions=job.conditions, metrics=metrics)
    report(folder, metrics)
    print(f"wrote   {folder}/{{{WEIGHTS},{CARD},{HISTORY}}}")
    print(f"next    {export_command(folder)}")
    return 0


def _accuracy(network: Network, split: Split, job: Job) -> float:
    return accuracy(network, split, resolution=job.architecture.resolution, device=job.device)


def _digest_of(weights: Path) -> str:
    if not weights.is_file():
        raise cli.UserError(f"There is no weights file {weights}; name one with --init-weights.")
    return sha256(weights)[:12]


def _other_classes(state: dict[str, torch.Tensor], architecture: Architecture) -> bool:
    """Whether the classifier of `state`, in whatever naming, is for another number of classes."""
    return any(
        name.startswith("classifier.") and len(tensor) != architecture.num_classes
        for name, tensor in state.items()
    )


if __name__ == "__main__":
    sys.exit(main())
