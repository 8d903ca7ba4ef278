"""The flags that grid and validate share: the network to scale, its cost, and how it is rounded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nas.cli import Sections
from nas.costs.metrics import Metric
from nas.costs.named import CostName, load_metric
from nas.folder import warn_of_changes
from nas.search.options import TrialOptions
from scaling_search.compound import default_rounding
from search_spaces.adapt import adapt_classes, adapt_resolution
from search_spaces.builder import AnyNetwork
from search_spaces.rounding import Rounding
from search_spaces.zoo import load_architecture

if TYPE_CHECKING:
    from nas.search.task import Task
    from nas.workers import Workers

FINEST = 1.5
"""Pixels that a network of a measured cost may need, over what the formula says; images are stored
with no more."""


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(TrialOptions):
    """Base of the `Settings` of `scaling_search.grid` and `scaling_search.validate`."""

    SECTIONS: ClassVar[Sections] = {
        "scaling": ("cost", "latency_batch", "depth_rounding", "resolution_step"),
    }

    baseline: str
    """The network to scale: the baseline.json of nas.run, a zoo name, or your own builder as
    my_module:build@64, called as build(depth, width, resolution) at a base of 64 px."""
    resolution: int | None = None
    """Side of the base's images in px, by default the baseline's own; strides that a smaller image
    does not survive are dropped."""
    run_dir: Path
    """Where the record is kept; the same command on the same folder resumes."""
    cost: CostName = "macs"
    """The cost that networks to compare have in common. `latency` is measured on the device that
    trials run on, and kept in latency.json of the run folder; `memory` is the peak of a training
    step of --batch-size images."""
    latency_batch: int = 1
    """Images of an inference in `--cost latency`."""
    depth_rounding: Literal["ceil", "round"] = "ceil"
    """Repeats are rounded up (as published) or half up, which resolves alpha better."""
    resolution_step: int | None = None
    """Pixels that resolutions are a multiple of; by default 8 at 224 px, less below. A
    builder whose module takes multiples of 16 px alone, as with patches of 16, needs 16."""
    seeds: int = 6
    """Trainings of a network, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("seeds", "resolution", "resolution_step", "latency_batch")

    def load_base(self) -> AnyNetwork:
        """The network to scale, at the resolution asked for.

        Raises:
            ArchitectureError: There is no such network.
        """
        warn_of_changes(self.baseline)
        base = load_architecture(self.baseline)
        return base if self.resolution is None else adapt_resolution(base, self.resolution)

    def rounding(self, base: AnyNetwork) -> Rounding:
        """How scaled networks are rounded."""
        rounding = replace(default_rounding(base, 1), depth=self.depth_rounding)
        if self.resolution_step is None:
            return rounding
        return replace(rounding, resolution_divisor=self.resolution_step)

    def metric(self, workers: "Workers") -> Metric:
        """The cost.

        Raises:
            UserError: Latencies of the folder were measured under other conditions.
        """
        return load_metric(
            self.cost,
            run_dir=self.run_dir,
            workers=workers,
            latency_batch=self.latency_batch,
            batch_size=self.batch_size,
            writes=not self.dry_run,
        )

    def load_scaling_task(
        self, base: AnyNetwork, largest: int, workers: "Workers"
    ) -> "tuple[Task, int | None]":
        """The task, and the side of its images as they come (None without images).

        Images are stored with the pixels that networks of up to `largest` px can use, and none
        that are not there.

        Raises:
            ValueError: The flags contradict one another, or the images cannot be used.
        """
        store = native = None
        if self.evaluator is None:
            from nas.data.dataset import native_size

            native = native_size(self.data, follow_links=self.follow_links)
            store = max(base.resolution, min(largest, native))
        task = self.load_task(
            workers,
            run_dir=self.run_dir,
            resolution=base.resolution,
            num_classes=base.num_classes,
            store_size=store,
        )
        return task, native


def with_classes(base: AnyNetwork, num_classes: int) -> tuple[AnyNetwork, tuple[str, ...]]:
    """`base` with the classes of the images, and what is to be said of it.

    Raises:
        BuilderError: It is a user's builder's, with another number of classes.
    """
    if num_classes == base.num_classes:
        return base, ()
    change = f"{base.num_classes} -> {num_classes} classes"
    return adapt_classes(base, num_classes), (f"classifier of {base.name}: {change}",)
