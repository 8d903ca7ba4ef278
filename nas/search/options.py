"""The flags that every command with trials has: what to measure on, and where."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nas.cli import MAX_SEED, Sections, UserError
from nas.training.recipe import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.search.task import Task
    from nas.training.proxy import ProxyTraining
    from nas.workers import Workers
    from search_spaces.builder import AnyNetwork

MIN_RESOLUTION = 8


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """Base of the `Settings` of every command with trials."""

    SECTIONS: ClassVar[Sections] = {
        "image": ("max_images", "val_images", "skip_bad", "follow_links", "cache_dir"),
        "training": ("batch_size", "flip", "balanced", "precision", "memory_format"),
        "worker": ("gpus_per_trial", "trial_minutes", "ray_address"),
    }

    data: str = "digits"
    """Images: `digits` (embedded), a folder (train/ with val/ or test/, or class folders), or a
    torchvision dataset such as CIFAR10@/path."""
    evaluator: str | None = None
    """my_module:function, called as f(architecture, epochs=..., seed=...), that returns accuracy
    in [0, 1]; `--data` is not used then."""
    epochs: int = 5
    """Epochs of a trial's training."""
    max_images: int | None = None
    """Use at most this many training images, the held-out tenth included."""
    val_images: int | None = None
    """Held-out images that candidates are judged by, by default a tenth of those used, at least one
    of each class; above that such as `--max-images` leaves out. To judge costs little, and 500
    images tell two networks of accuracy .45 apart to .02 only."""
    skip_bad: bool = False
    """Leave out images that cannot be used instead of refusing; skipped.txt of the run folder names
    them."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder of `--data`."""
    cache_dir: Path | None = None
    """Folder for decoded images, so that no start decodes what another has and the workers share
    one copy; by default cache/ of the run folder. May be deleted at any time."""
    batch_size: int = 128
    """Images of a training step at most; small data get smaller ones. Where few steps are taken,
    fewer images a step teach a network more in the same time."""
    flip: bool = True
    """Mirror images in training; wrong for text and the like. Never done with `digits`."""
    balanced: bool = False
    """Let rare classes count as much as common ones: training draws them as often, and accuracy is
    the mean of the classes' own accuracies (balanced accuracy)."""
    precision: Precision = "auto"
    """What trainings compute in. `auto`: what a short probe of the device finds fastest at the
    first start; the run folder keeps it."""
    memory_format: Literal["auto", "channels-last", "contiguous"] = "auto"
    """Layout of images and weights in trainings; `auto`: as the probe finds."""
    workers: int | Literal["auto"] = 1
    """Trials at a time; more than one run on Ray Tune. `auto`: with GPUs as many as they hold, else
    one a core, as far as memory goes."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, fractions too; by default 1 where there is one."""
    trial_minutes: float | None = None
    """Minutes that a trial of `--epochs` may take, longer trainings in proportion; then it fails
    with reason `timeout`. By default as many as it takes. A call of C that hangs is ended on Ray
    Tune only (`--workers` above 1): in this process, Python alone can be interrupted."""
    ray_address: str | None = None
    """A Ray cluster to run on; by default this machine, whatever cluster is about."""
    seed: int = 0
    """Fixes every draw, of the search and of the trainings."""
    dry_run: bool = False
    """Print the plan and the estimated time, and stop."""

    def __post_init__(self) -> None:
        self._check_positive("epochs", "max_images", "val_images")
        if self.batch_size < 2:
            raise UserError(f"`--batch-size` must be at least 2, but got {self.batch_size}.")
        if self.trial_minutes is not None and not 0 < self.trial_minutes < math.inf:
            raise UserError(f"`--trial-minutes` must be above 0, but got {self.trial_minutes:g}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(
                f"`--seed` must not be negative, nor above {MAX_SEED}, but got {self.seed}."
            )

    def where(self) -> "Workers":
        """Where the trials run.

        Raises:
            UserError: The flags break a rule.
        """
        from nas.workers import workers_for

        minutes = self.trial_minutes
        workers = workers_for(
            self.workers,
            self.gpus_per_trial,
            self.ray_address,
            self.own_evaluator,
            None if minutes is None else 60 * minutes / self.epochs,
        )
        if self.precision == "fp16" and not (workers.gpus_per_trial or self.own_evaluator):
            raise UserError(
                "`--precision fp16` needs a GPU, and these trials train on the CPU. Use auto."
            )
        return workers

    def load_task(
        self,
        workers: "Workers",
        *,
        run_dir: Path,
        resolution: int | None,
        num_classes: int | None,
        store_size: int | None = None,
    ) -> "Task":
        """What the trials are measured on.

        Args:
            workers: Where the trials run.
            run_dir: Holds the decoded images in cache/, unless a flag says otherwise.
            resolution: Base resolution in px; None: the images' own, 224 px without images.
            num_classes: Classes where there are no images that tell them; None: 1000.
            store_size: Side of the stored images; None: `resolution`.

        Raises:
            ValueError: The flags contradict one another, or the images cannot be used.
        """
        from nas.search.task import Task

        if resolution is not None and resolution < MIN_RESOLUTION:
            raise UserError(
                f"`--resolution` must be at least {MIN_RESOLUTION}, but got {resolution}."
            )
        if (reference := self.own_evaluator) is not None:
            return Task.of_evaluator(
                reference, resolution=resolution or 224, num_classes=num_classes or 1000
            )
        if resolution is None:
            resolution = self._native_resolution()
        training = self._training(workers, run_dir, store_size or resolution)
        chosen = {"max_images": self.max_images, "val_images": self.val_images}
        return Task(
            evaluator=training,
            training=training,
            resolution=resolution,
            num_classes=len(training.data.classes),
            drawn={} if self.val_images is None else chosen,
        )

    def _native_resolution(self) -> int:
        from nas.data.dataset import MAX_NATIVE_SIZE, native_size

        native = native_size(self.data, follow_links=self.follow_links)
        return max(MIN_RESOLUTION, min(MAX_NATIVE_SIZE, native))

    def _training(self, workers: "Workers", run_dir: Path, size: int) -> "ProxyTraining":
        """Training on the images that the flags name, stored with `size` px."""
        from nas.data.cache import Cache
        from nas.data.dataset import load_for_search
        from nas.training.proxy import ProxyTraining, mirrors

        cache = None
        if workers.ray_address is None:  # a cluster's machines get them from Ray, not from our disk
            cache = Cache(self.cache_dir or run_dir / "cache", is_read_only=self.dry_run)
        images = load_for_search(
            self.data,
            size=size,
            limit=self.max_images,
            judges=self.val_images,
            skip_bad=self.skip_bad,
            follow_links=self.follow_links,
            cache=cache,
        )
        return ProxyTraining(
            data=images,
            batch_size=self.batch_size,
            flip=self.flip and mirrors(images),
            balanced=self.balanced,
            device="auto" if workers.gpus_per_trial else "cpu",
        )

    def tune(
        self,
        task: "Task",
        workers: "Workers",
        networks: "Sequence[AnyNetwork]",
        *,
        run_dir: Path,
    ) -> "tuple[Task, Workers]":
        """The task with its engine, and the workers that memory holds; see
        `nas.search.tuning.tuned`.

        Raises:
            ValueError: Flags, run folder and device do not go together.
        """
        from nas.search.tuning import tuned

        return tuned(
            task,
            workers,
            networks,
            run_dir=run_dir,
            precision=self.precision,
            memory_format=None if self.memory_format == "auto" else self.memory_format,
        )

    @property
    def own_evaluator(self) -> str | None:
        """``my_module:function`` of the user's; None: accuracy comes from images."""
        return self.evaluator

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise UserError(f"`--{flag}` must be at least 1, but got {value}.")


CARRIED_OVER = tuple(
    field.name
    for field in fields(TrialOptions)
    if field.name not in ("epochs", "trial_minutes", "dry_run")
)
"""Flags that the next command of the pipeline wants too; its trials are of another length."""
