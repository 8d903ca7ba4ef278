"""What trials are measured on: the user's images, or the user's evaluator."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from nas.cli import load_function, plural
from nas.trials.evaluate import Evaluator
from search_spaces.builder import AnyNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nas.training.engine import Choice
    from nas.training.proxy import ProxyTraining

_OVERHEAD = 1.1
"""Time of a trial over that of its training steps, but for the judging: its start, its batch-norm
statistics, and what a busy machine takes."""
_FORWARD = 1 / 3
"""Time of judging an image over that of training on it."""
_FEW_JUDGES = 100
"""Images below which the steps of an accuracy are worth a word: .01 and more."""


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

    @classmethod
    def of_evaluator(cls, reference: str, *, resolution: int, num_classes: int) -> "Task":
        """Of the user's own evaluator, ``my_module:function``.

        Raises:
            UserError: There is no such function.
        """
        evaluator = cast(Evaluator, load_function(reference, "--evaluator"))
        return cls(
            evaluator=evaluator,
            resolution=resolution,
            num_classes=num_classes,
            reference=reference,
        )

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
            **({"balanced": True} if self.training.balanced else {}),
        }

    def describe(self) -> list[str]:
        """Lines for the terminal."""
        if self.training is None:
            return [f"data    none: accuracy comes from {self.reference}"]
        from nas.data.dataset import majority_share

        data, judged = self.training.data, self.training.validation
        notices = (*data.notices, *self._judges(), *self._balance())
        engine = [f"engine  {self.engine_line}"] if self.engine_line else []
        largest = f"largest class of search-val {majority_share(judged):.1%}"
        notes = [f"note    {notice}" for notice in notices]
        return [f"data    {data.summary()} · {largest}", *notes, *engine]

    def _judges(self) -> "Iterator[str]":
        """What is to be said of few images to judge by."""
        assert self.training is not None
        number = len(self.training.validation)
        if number < _FEW_JUDGES:
            yield (
                f"{plural(number, 'image')} of search-val judge a trial, so accuracies differ by "
                f"{1 / number:.3f} or not at all; more images tell networks apart"
            )

    def _balance(self) -> "Iterator[str]":
        """What is to be said of large and small classes."""
        from nas.data.dataset import uneven

        assert self.training is not None
        data = self.training.data
        if self.training.balanced:
            yield (
                "classes count alike: drawn equally often in training, and accuracy is the mean of "
                "theirs"
            )
        elif words := uneven(data.train.labels, data.classes):
            yield words

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
        return 0.0 if self.training is None else self.training.majority
