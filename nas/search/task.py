"""What trials are measured on: the user's images, or the user's evaluator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nas.cli import UserError, load_function
from nas.trials.evaluate import Evaluator
from search_spaces.builder import AnyNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from nas.training.engine import Choice
    from nas.training.proxy import ProxyTraining

MIN_RESOLUTION = 8
_OVERHEAD = 1.1
"""Time of a trial over that of its training steps, but for the judging: its start, its batch-norm
statistics, and what a busy machine takes."""
_FORWARD = 1 / 3
"""Time of judging an image over that of training on it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """An evaluator, and what is known of the images behind it."""

    evaluator: Evaluator
    resolution: int
    """Base resolution, in px."""
    num_classes: int
    training: "ProxyTraining | None" = None
    """The evaluator if it trains on images of ours."""
    engine: "Choice | None" = None
    """How the trainings compute (`nas.search.tuning`); None: as by default, or not ours."""
    engine_line: str = ""
    """The same for people."""
    reference: str | None = None
    """``my_module:function`` of the user's own evaluator, which may be cheap; else None."""
    drawn: dict[str, int | None] = field(default_factory=dict)
    """What chose the images where their numbers do not tell: the flags' names and values."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when a run goes on."""
        if self.training is None:
            return {"evaluator": self.reference}
        data, judged = self.training.data, self.training.validation
        return {
            "data": data.name,
            "fingerprint": data.fingerprint,
            "images": [len(data.train), len(judged)],
            **self.drawn,
            "flip": self.training.recipe(1).flip,
            "batch_size": self.training.batch_size,
        }

    def describe(self) -> list[str]:
        """Lines for the terminal."""
        if self.training is None:
            return [f"data    none: accuracy comes from {self.reference}"]
        data = self.training.data
        notices = [f"note    {notice}" for notice in data.notices]
        engine = [f"engine  {self.engine_line}"] if self.engine_line else []
        return [f"data    {data.summary()} · largest class {self.majority:.1%}", *notices, *engine]

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that were left out, and why."""
        return () if self.training is None else self.training.data.skipped

    def seconds_of(self, architecture: AnyNetwork) -> "Callable[[float], float] | None":
        """Estimated seconds that a trial of so many epochs takes one worker, from a few timed steps
        of the network; None if there is no telling."""
        if self.training is None:
            return None
        image = self.training.seconds_per_image(architecture)
        trained, judged = len(self.training.data.train), len(self.training.validation)
        return lambda epochs: image * (_OVERHEAD * trained * epochs + _FORWARD * judged)

    @property
    def majority(self) -> float:
        """Accuracy of always answering the largest class; 0 without images."""
        if self.training is None:
            return 0.0
        from nas.data.dataset import majority_share

        return majority_share(self.training.validation)


def load_task(
    *,
    data: str | None,
    evaluator: str | None,
    resolution: int | None,
    store_size: int | None = None,
    num_classes: int | None = None,
    max_images: int | None = None,
    val_images: int | None = None,
    skip_bad: bool = False,
    follow_links: bool = False,
    cache: Path | None = None,
    batch_size: int = 128,
    flip: bool = True,
    device: str = "auto",
) -> Task:
    """Load what the flags name.

    Args:
        data: Images, as `nas.data.dataset.load_for_search` takes them.
        evaluator: ``my_module:function`` instead; then `data` is not used.
        resolution: Base resolution in px; None: the images' own, 224 px without images.
        store_size: Side of the stored images; None: `resolution`.
        num_classes: Classes where there are no images that tell them.
        max_images: Images of the training split to use at most.
        val_images: Images to judge by; None: a tenth of these.
        skip_bad: Whether images that cannot be used are left out instead of refused.
        follow_links: Whether symbolic links may lead out of the folder of `data`.
        cache: Folder for decoded images that the workers of this machine map; None: in memory.
        batch_size: Images of a training step at most.
        flip: Whether training mirrors images; those of `digits` never are.
        device: Where trials train: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: The flags contradict one another, or the images cannot be used.
    """
    if resolution is not None and resolution < MIN_RESOLUTION:
        raise UserError(f"`--resolution` must be at least {MIN_RESOLUTION}, but got {resolution}.")
    if evaluator is not None:
        return Task(
            evaluator=cast(Evaluator, load_function(evaluator, "--evaluator")),
            resolution=resolution or 224,
            num_classes=num_classes or 1000,
            reference=evaluator,
        )
    if data is None:
        raise UserError("Name images with `--data`, or a function with `--evaluator`.")
    from nas.data.dataset import load_for_search, native_size
    from nas.training.proxy import ProxyTraining, mirrors

    resolution = resolution or max(
        MIN_RESOLUTION, min(224, native_size(data, follow_links=follow_links))
    )
    images = load_for_search(
        data,
        size=store_size or resolution,
        limit=max_images,
        judges=val_images,
        skip_bad=skip_bad,
        follow_links=follow_links,
        cache=cache,
    )
    training = ProxyTraining(
        data=images, batch_size=batch_size, flip=flip and mirrors(images), device=device
    )
    return Task(
        evaluator=training,
        training=training,
        resolution=resolution,
        num_classes=len(images.classes),
        drawn={} if val_images is None else {"max_images": max_images, "val_images": val_images},
    )
