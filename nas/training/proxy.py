"""The evaluator that trains: a short training of each candidate on the user's own images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nas.data.dataset import ImageData, Split, majority_share, single_answer
from nas.training.augment import at_resolution
from nas.training.engine import DEFAULT, Engine
from nas.training.parts import build_network, choose_device
from nas.training.recipe import Recipe
from nas.training.score import accuracy
from nas.training.trainer import Trainer, seconds_per_image
from search_spaces.builder import AnyNetwork

_KEPT = 2
"""Resolutions whose resized images are kept; a search has one, a grid a few in turn."""


@dataclass(frozen=True, kw_only=True)
class ProxyTraining:
    """Accuracy on the held-out part of the training images after a short training on the rest.

    A plain value that Ray can ship once; resized images are not shipped. The number of threads is
    the caller's business.
    """

    data: ImageData
    """From `load_for_search`: it has `search_validation`."""
    batch_size: int = 128
    """Images a step at most; see `Recipe.min_steps`."""
    learning_rate: float = 0.4
    """Peak rate for 256 images."""
    flip: bool | None = None
    """Whether images may be mirrored; None: all but those of `digits`."""
    balanced: bool = False
    """Whether classes count alike, however few their images: an epoch has as many of each
    (`Recipe.balanced`), and accuracy is the mean of the classes' own."""
    device: str = "auto"
    """`auto` (CUDA where this process sees one), `cpu` or `cuda`."""
    engine: Engine = DEFAULT
    """How steps are computed; the same in all trials that are to compare."""
    _resized: dict[int, tuple[Split, Split]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.data.search_validation is None:
            raise ValueError(
                f"{self.data.name} was loaded without a search-validation split. "
                "Load it with `nas.data.dataset.load_for_search`."
            )

    def __call__(self, architecture: AnyNetwork, *, epochs: int, seed: int) -> float:
        """Train from `seed` for `epochs`; the accuracy, in [0, 1].

        Raises:
            DivergedError: The loss, or a logit, is no finite number.
            torch.OutOfMemoryError: The GPU's memory does not suffice.
        """
        (final,) = self.stages(architecture, epochs=epochs, seed=seed, rungs=(epochs,))
        return final

    def stages(
        self, architecture: AnyNetwork, *, epochs: int, seed: int, rungs: Sequence[int]
    ) -> Iterator[float]:
        """Accuracies at `rungs` of the one training of `epochs` that a call makes.

        The rate falls over all of `epochs`, whoever stops listening earlier. Raises as a call
        does.
        """
        training, validation = self._splits(architecture.resolution)
        device = choose_device(self.device)
        network = build_network(architecture, seed)
        trainer = Trainer(network, training, self.recipe(epochs), seed=seed, device=device)
        for rung in rungs:
            trainer.run_until(rung)
            yield accuracy(
                trainer.evaluable(),
                validation,
                resolution=architecture.resolution,
                device=device,
                balanced=self.balanced,
            )

    def at_half_batch(self) -> "ProxyTraining":
        """The same with half as many images a step, at least the two of batch norm."""
        half = max(2, self.recipe(1).batch(len(self.data.train)) // 2)
        smaller = replace(self, batch_size=half)
        smaller._resized.update(self._resized)
        return smaller

    @property
    def validation(self) -> Split:
        """The images that candidates are judged on."""
        assert self.data.search_validation is not None
        return self.data.search_validation

    @property
    def majority(self) -> float:
        """Accuracy of always answering the largest class, in [0, 1]."""
        return single_answer(self.validation) if self.balanced else majority_share(self.validation)

    def recipe(self, epochs: int) -> Recipe:
        """The recipe of a trial, `Recipe.proxy` with this evaluator's settings."""
        recipe = Recipe.proxy(
            epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            flip=mirrors(self.data) if self.flip is None else self.flip,
            balanced=self.balanced,
        )
        return self.engine.applied(recipe)

    def seconds_per_image(self, architecture: AnyNetwork) -> float:
        """Measured seconds of training one image once, for estimates; takes a few steps."""
        return seconds_per_image(
            architecture, self.data.train, self.recipe(1), device=choose_device(self.device)
        )

    def _splits(self, resolution: int) -> tuple[Split, Split]:
        """Training and search-validation images at `resolution`."""
        if resolution not in self._resized:
            while len(self._resized) >= _KEPT:
                del self._resized[next(iter(self._resized))]
            self._resized[resolution] = (
                at_resolution(self.data.train, resolution),
                at_resolution(self.validation, resolution),
            )
        # Last used, last dropped.
        self._resized[resolution] = self._resized.pop(resolution)
        return self._resized[resolution]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_resized": {}}


def mirrors(data: ImageData) -> bool:
    """Whether mirrored images are still of their class, as far as the data's name tells."""
    return data.name != "digits"
