"""What trials are measured on: the user's images, or the user's evaluator.

`nas.run` and `scaling_search.grid` share these options.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.cli import UserError
from nas.search.evaluate import Evaluator, load_object

if TYPE_CHECKING:
    from nas.data.dataset import ImageData

MIN_RESOLUTION = 8


@dataclass(frozen=True, kw_only=True)
class Task:
    """An evaluator, and what is known of the images behind it."""

    evaluator: Evaluator
    data: "ImageData | None"
    """None for an evaluator of the user's own."""
    resolution: int
    """Base resolution, in px."""
    num_classes: int
    reference: str | None = None
    """``my_module:function`` of the user's own evaluator, which may be cheap; else None."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when a run goes on."""
        if self.data is None:
            return {"evaluator": self.reference}
        assert self.data.search_validation is not None
        return {
            "data": self.data.name,
            "fingerprint": self.data.fingerprint,
            "images": [len(self.data.train), len(self.data.search_validation)],
            "flip": self.evaluator.recipe(1).flip,  # type: ignore[attr-defined]
        }

    def describe(self) -> list[str]:
        """Lines for the terminal."""
        if self.data is None:
            return [f"data    none: accuracy comes from {self.reference}"]
        from nas.data.dataset import majority_share

        assert self.data.search_validation is not None
        share = majority_share(self.data.search_validation)
        notices = [f"note    {notice}" for notice in self.data.notices]
        return [f"data    {self.data.summary()} · largest class {share:.1%}", *notices]

    def seconds_per_epoch(self, architecture: Any) -> float | None:
        """Estimated seconds that one epoch takes one worker; None if there is no telling."""
        if self.data is None:
            return None
        seconds = self.evaluator.seconds_per_image(architecture)  # type: ignore[attr-defined]
        return seconds * len(self.data.train)

    @property
    def majority(self) -> float:
        """Accuracy of always answering the largest class; 0 without data."""
        if self.data is None or self.data.search_validation is None:
            return 0.0
        from nas.data.dataset import majority_share

        return majority_share(self.data.search_validation)


def load_task(
    *,
    data: str | None,
    evaluator: str | None,
    resolution: int | None,
    store_size: int | None = None,
    num_classes: int | None = None,
    max_images: int | None = None,
    flip: bool | None = None,
) -> Task:
    """Load what the flags name.

    Args:
        data: Images, as `nas.data.dataset.load_for_search` takes them.
        evaluator: ``my_module:function`` instead; then `data` is not used.
        resolution: Base resolution in px; None: the images' own, 224 px without images.
        store_size: Side of the stored images; None: `resolution`.
        num_classes: Classes where there are no images that tell them.
        max_images: Images of the training split to use at most.
        flip: Whether training mirrors images; None: unless the data is `digits`.

    Raises:
        UserError: The flags contradict one another, or the images cannot be used.
    """
    if resolution is not None and resolution < MIN_RESOLUTION:
        raise UserError(f"`--resolution` must be at least {MIN_RESOLUTION}, but got {resolution}.")
    if evaluator is not None:
        function = load_object(evaluator, "--evaluator")
        if not callable(function):
            raise UserError(f"`--evaluator {evaluator}` names {function!r}, which is no function.")
        return Task(
            evaluator=function,
            data=None,
            resolution=resolution or 224,
            num_classes=num_classes or 1000,
            reference=evaluator,
        )
    if data is None:
        raise UserError("Name images with `--data`, or a function with `--evaluator`.")
    from nas.data.dataset import load_for_search, native_size
    from nas.training.proxy import ProxyTraining

    resolution = resolution or max(MIN_RESOLUTION, min(224, native_size(data)))
    images = load_for_search(data, size=store_size or resolution, limit=max_images)
    return Task(
        evaluator=ProxyTraining(data=images, flip=flip),
        data=images,
        resolution=resolution,
        num_classes=len(images.classes),
    )
