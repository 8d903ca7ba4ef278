"""A training in a folder: it goes on from its checkpoint, under the same conditions only."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from nas.cli import UserError, format_duration, format_number, plural
from nas.conditions import changes
from nas.cores import num_cores
from nas.data.dataset import ImageData, Split
from nas.folder import RunFolder
from nas.training import checkpoint
from nas.training.pace import Pace, measure_pace
from nas.training.parts import build_network
from nas.training.recipe import Recipe
from nas.training.score import NORM_IMAGES, answers, class_means
from nas.training.trainer import Trainer
from nas.untrusted import printable
from search_spaces.builder import AnyNetwork, BuiltNetwork
from search_spaces.cost import count
from search_spaces.network import AnyModule
from search_spaces.weights import Naming, load_weights, read_weights

HISTORY = "history.csv"
_BALANCED = "val_balanced_accuracy"

_FOREIGN_EPS = 1e-5
"""Of batch norm in timm's efficientnet_ networks and in torchvision's B0 to B4."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a training needs, made definite."""

    architecture: AnyNetwork
    """With the data's number of classes."""
    data: ImageData
    recipe: Recipe
    init_weights: Path | None
    """Weights to start from."""
    seed: int
    device: torch.device
    workers: int
    """Loader processes."""
    threads: int | None
    """CPU threads; None: as before, or as measured."""
    conditions: dict[str, Any]
    """What the outcome depends on; a training goes on only under the same."""

    def network(self) -> AnyModule:
        """The network to start from."""
        network = build_network(self.architecture, self.seed)
        if self.init_weights is not None:
            state = read_weights(self.init_weights)
            _refuse_useless(state, self.init_weights)
            reset = _other_classes(state, self.architecture)
            naming = load_weights(network, state, reset_classifier=reset)
            classifier = "; the classifier starts anew" if reset else ""
            print(f"init    {self.init_weights} ({naming} naming{classifier})")
            _notice_other_rules(self.architecture, naming)
        return network

    def pace(self, threads: int | None) -> Pace:
        """How fast this training goes; sets torch's number of threads."""
        return measure_pace(
            self.architecture,
            self.data.train,
            self.recipe,
            device=self.device,
            workers=self.workers,
            threads=threads,
        )

    def answers(self, network: AnyModule, split: Split) -> np.ndarray:
        """The classes that the network gives the images of `split`, int (N,)."""
        resolution = self.architecture.resolution
        return answers(network, split, resolution=resolution, device=self.device)


class Trained(NamedTuple):
    """The end of a training."""

    network: AnyModule
    """Ready to be evaluated."""
    history: list[dict[str, Any]]
    """One row an epoch, as in history.csv."""


def train(job: Job, folder: RunFolder) -> Trained:
    """Train from the folder's newest checkpoint, or from the start, to the end.

    Raises:
        UserError: The folder holds a training under other conditions.
        CheckpointError: Its checkpoints cannot be read.
        DivergedError: A loss is no finite number.
    """
    epochs, validation = job.recipe.epochs, job.data.validation
    saved = _resume(job, folder.path)
    folder.start()
    if job.data.skipped:
        folder.write("skipped.txt", "\n".join(job.data.skipped) + "\n")
    network = job.network()
    threads = _set_threads(job, saved)
    trainer = Trainer(
        network,
        job.data.train,
        job.recipe,
        seed=job.seed,
        device=job.device,
        workers=job.workers,
    )
    history: list[dict[str, Any]] = []
    if saved:
        trainer.load_state(saved["trainer"])
        history = saved["history"]
        _write_history(folder, history)
    spent: list[float] = []
    while trainer.epoch < epochs:
        start = time.monotonic()
        row: dict[str, Any] = {"epoch": trainer.epoch + 1, "loss": trainer.run_epoch()}
        if validation is not None:
            right = job.answers(trainer.evaluable(), validation) == validation.labels
            row["val_accuracy"] = float(right.mean())
            if job.recipe.balanced:
                row[_BALANCED] = class_means(validation.labels, right)
        spent.append(time.monotonic() - start)
        history.append({**row, "seconds": round(spent[-1], 3)})
        state = {"conditions": job.conditions, "threads": threads, "history": history}
        checkpoint.save(folder.path, {**state, "trainer": trainer.state()})
        _write_history(folder, history)
        left = sum(spent) / len(spent) * (epochs - trainer.epoch)
        print(_epoch_line(history, epochs, left), flush=True)
    return Trained(trainer.evaluable(), history)


def plan(job: Job, folder: Path) -> None:
    """Print what `train` would do; nothing is written, and no lock is needed.

    Raises:
        ValueError: It would be refused.
        DivergedError: So soon that its timing tells.
    """
    saved = _resume(job, folder)
    job.network()  # refuses weights that do not fit
    _set_threads(job, saved)


def _resume(job: Job, folder: Path) -> dict[str, Any] | None:
    return checkpoint.resume(
        folder,
        folder,
        job.recipe.epochs,
        refuse=lambda conditions: refuse_changes(job, conditions, folder),
        announce=print,
    )


def _show_plan(job: Job, pace: Pace, finished: int) -> None:
    """Print what will be done, and how long it takes after `finished` epochs."""
    architecture, recipe, images = job.architecture, job.recipe, len(job.data.train)
    print(
        f"model   {architecture.name} · {format_number(count(architecture).params)} params · "
        f"{format_number(count(architecture).macs)} MACs · {architecture.resolution} px"
    )
    batch, steps, epochs = recipe.batch(images), recipe.steps(images), recipe.epochs - finished
    # Evaluation runs forward only: a third of a training step's work, with no augmentation.
    judged = 0 if job.data.validation is None else NORM_IMAGES + len(job.data.validation)
    seconds = pace.seconds_per_image * epochs * (steps * batch + judged / 3)
    mirrored = "mirrored" if recipe.flip and recipe.augment != "none" else "not mirrored"
    stored = job.data.train.images.shape[-1]
    pixels = "" if stored == architecture.resolution else f" from {stored} px"
    print(
        f"plan    {plural(epochs, 'epoch')} x {plural(steps, 'step')} of {batch} images · "
        f"{recipe.augment}{pixels}, {mirrored} · {recipe.optimizer}, peak rate "
        f"{recipe.peak_rate(images):.3g} · {job.device.type}, {pace.describe()} · "
        f"about {format_duration(seconds)}"
    )
    if job.data.validation is None and job.data.test is None:
        print("note    neither test nor validation images: the accuracy will be unknown")


def refuse_changes(job: Job, old: Mapping[str, Any], folder: Path) -> None:
    """Raise unless `old`, which a folder says of itself, are the conditions of this training.

    Raises:
        UserError: They differ; the message names how.
    """
    if changed := changes(old, job.conditions):
        raise UserError(
            f"{folder} holds a training with other settings: {'; '.join(changed)}. "
            "Restore them, or choose another --out."
        )


def _write_history(folder: RunFolder, history: list[dict[str, Any]]) -> None:
    folder.write(HISTORY, pd.DataFrame(history).to_csv(index=False))


def _set_threads(job: Job, saved: dict[str, Any] | None) -> int:
    """As asked for, else as before the interruption, else as measured; shows the plan, if any.

    With another number of threads sums are made in another order, and round otherwise.
    """
    threads, before = job.threads, saved["threads"] if saved else None
    if threads is None and before is not None and before <= num_cores():
        threads = before
    if before is not None and threads != before:
        print(f"note    trained with {before} threads until here: the last bits may differ")
    finished = saved["trainer"]["epoch"] if saved else 0
    left = finished < job.recipe.epochs
    if threads is None or left:
        pace = job.pace(threads)
        threads = pace.threads
        if left:
            _show_plan(job, pace, finished)
    torch.set_num_threads(threads)
    return threads


def _epoch_line(history: list[dict[str, Any]], epochs: int, left: float) -> str:
    last = history[-1]
    parts = [f" {last['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {last['loss']:.4f}"]
    judged = _BALANCED if _BALANCED in last else "val_accuracy"
    if judged in last:
        best = max(row[judged] for row in history)
        mark = "*" if last[judged] == best else " "
        name = "val" if judged == "val_accuracy" else f"val {last['val_accuracy']:.4f}   balanced"
        parts.append(f"{name} {last[judged]:.4f} {mark} best {best:.4f}")
    return "   ".join([*parts, f"eta {format_duration(left)}"])


def _other_classes(state: Mapping[str, torch.Tensor], architecture: AnyNetwork) -> bool:
    """Whether `state`, in whatever naming, has no classifier, or one for another number of classes.

    Where a builder's classifier is, only the builder knows.
    """
    if isinstance(architecture, BuiltNetwork):
        return False
    classifier = [tensor for name, tensor in state.items() if name.startswith("classifier.")]
    return not classifier or any(
        tensor.ndim and len(tensor) != architecture.num_classes for tensor in classifier
    )


def _refuse_useless(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """
    Raises:
        UserError: The training would diverge at once, whatever its learning rate.
    """
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise UserError(
            f"{path} has numbers that are not finite, in {printable(bad[0], 80)} and "
            f"{len(bad) - 1} other tensors: a training diverged. Start from other weights."
        )


def _notice_other_rules(architecture: AnyNetwork, naming: Naming) -> None:
    """Say what foreign weights do not tell of the network that they were trained in."""
    if naming == "own" or isinstance(architecture, BuiltNetwork):
        return
    if architecture.norm_eps != _FOREIGN_EPS:
        print(
            f"note    timm's efficientnet_ and torchvision's B0 to B4 were trained with norm_eps "
            f"{_FOREIGN_EPS:g}, {architecture.name} has {architecture.norm_eps:g}: change it in a "
            "copy of its JSON if these are theirs"
        )
    if naming == "timm":
        print("note    timm's tf_ weights want TensorFlow's padding, which no network here has")
