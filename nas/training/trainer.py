"""The training loop that every stage shares: proxy trials, the grid and `nas.train`.

What differs between them is the `Recipe`. A training is a `Trainer` that advances one epoch at a
time; its state at an epoch's end, with seed and recipe, fixes the rest, because every draw is made
from seed and epoch. On a CPU the same seed and thread count give the same weights, bit for bit.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nas.data.dataset import Split
from nas.ram import keep_freed_memory
from nas.training.augment import Batches, at_resolution, normalise
from nas.training.parts import (
    build_network,
    build_optimizer,
    check_fit,
    memory_format,
    mixed_precision,
    moving_average,
    network_randomness,
)
from nas.training.recipe import Recipe
from nas.training.score import NORM_IMAGES, DivergedError, estimate_norms
from search_spaces.builder import AnyNetwork
from search_spaces.network import AnyModule


class Trainer:
    """One training, advanced epoch by epoch."""

    def __init__(
        self,
        network: AnyModule,
        train: Split,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        """Prepare to train `network`, which is moved to `device` and changed in place.

        Args:
            network: From `build_network`, or with weights loaded.
            train: Images of any size; resized once to the architecture's resolution, unless the
                recipe crops each.
            recipe: Everything else that the outcome depends on.
            seed: Fixes order, augmentation, dropout and stochastic depth.
            device: Where to train.
            workers: Loader processes, see `Batches`.
        """
        architecture = network.architecture
        check_fit(architecture, train)
        if device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.seed, self.device = recipe, seed, device
        self._memory_format = memory_format(recipe)
        self.network = network.to(device).to(memory_format=self._memory_format)
        self.epoch = 0
        """Epochs finished."""
        self._train = train if recipe.crops else at_resolution(train, architecture.resolution)
        self._batches = Batches(
            self._train,
            recipe,
            resolution=architecture.resolution,
            seed=seed,
            device=device,
            workers=workers,
        )
        self._steps = recipe.steps(len(train))
        self._optimizer = build_optimizer(self.network, recipe)
        self._autocast, self._scaler = mixed_precision(recipe, device)
        decay = recipe.average_decay(len(train))
        self._average = moving_average(self.network, decay) if decay else None

    def run_epoch(self) -> float:
        """Train one epoch; the mean loss of its steps.

        Raises:
            DivergedError: The loss of a step is no finite number. The network is of no use then.
        """
        losses = []
        with self._training():
            for images, labels in self._batches.epoch(self.epoch):
                losses.append(self._step(images, labels, self.epoch * self._steps + len(losses)))
        self.epoch += 1
        return sum(losses) / len(losses)

    def run_until(self, epoch: int) -> None:
        """Train until so many epochs are finished.

        Raises:
            DivergedError: As `run_epoch`.
        """
        while self.epoch < epoch:
            self.run_epoch()

    def evaluable(self) -> AnyModule:
        """A copy, in eval mode, of the averaged network (or of the network, without averaging)
        with batch-norm statistics estimated anew by `estimate_norms`."""
        source = self.network if self._average is None else self._average.module
        network = copy.deepcopy(source).to(memory_format=torch.channels_last)
        assert isinstance(network, AnyModule)
        estimate_norms(network, self._as_evaluated, seed=self.seed, device=self.device)
        return network

    def state(self) -> dict[str, Any]:
        """What `load_state` needs at the end of an epoch: tensors and plain types only."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of the same architecture, recipe, data and seed."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    def seconds_per_image(self, steps: int = 3, *, patience: float = math.inf) -> float:
        """Time of a training step over its images, from `steps` steps after one to warm up.

        The steps are real: use a trainer of its own for this. After `patience` seconds no further
        step begins, and the answer is infinity.
        """
        with self._training():
            seconds = time_steps(self._batches, self._step, steps, patience=patience)
        return seconds / self.recipe.batch(len(self._train))

    @cached_property
    def _as_evaluated(self) -> Split:
        """Train images at the network's resolution, as many as batch norms are estimated from."""
        resolution, train = self.network.architecture.resolution, self._train
        if train.images.shape[-1] == resolution:
            return train
        chosen = np.random.default_rng(self.seed).permutation(len(train))[:NORM_IMAGES]
        return at_resolution(Split(train.images[chosen], train.labels[chosen]), resolution)

    @contextmanager
    def _training(self) -> Iterator[None]:
        with network_randomness(self.seed, self.epoch, self.device):
            self.network.train()
            yield

    def _step(self, images: Tensor, labels: Tensor, step: int) -> float:
        recipe = self.recipe
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate(step, len(self._train))
        with self._autocast:
            logits = self.network(normalise(images, self.device, memory_format=self._memory_format))
            loss = cross_entropy(
                logits.float(), labels.to(self.device), label_smoothing=recipe.label_smoothing
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        value = loss.item()  # last, since a GPU idles while it is waited for
        if not math.isfinite(value):
            raise DivergedError(f"{value} loss at step {step}")
        if self._average is not None:
            self._average.update_parameters(self.network)
        return value


def fit(
    network: AnyModule,
    train: Split,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
    on_epoch: Callable[[Trainer, float], None] | None = None,
) -> AnyModule:
    """Train from the start to the end; see `Trainer` for the arguments.

    Args:
        network: Changed in place.
        train: The images.
        recipe: How to train.
        seed: Of all draws.
        device: Where.
        workers: Loader processes.
        on_epoch: Called with the trainer and the epoch's mean loss at the end of every epoch.

    Returns:
        The trained network (averaged, where the recipe averages), ready to be evaluated.

    Raises:
        DivergedError: A loss is no finite number.
    """
    trainer = Trainer(network, train, recipe, seed=seed, device=device, workers=workers)
    while trainer.epoch < recipe.epochs:
        loss = trainer.run_epoch()
        if on_epoch is not None:
            on_epoch(trainer, loss)
    return trainer.evaluable()


def seconds_per_image(
    architecture: AnyNetwork,
    train: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    workers: int = 0,
    patience: float = math.inf,
) -> float:
    """Measured seconds of training an image, augmentation included, for estimates of a run.

    Infinity, if the few steps of this are not done after `patience` seconds.
    """
    trainer = short_training(architecture, train, recipe, device=device, workers=workers)
    return trainer.seconds_per_image(patience=patience)


def short_training(
    architecture: AnyNetwork,
    train: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    workers: int = 0,
) -> Trainer:
    """A training on a few of the images, in batches as on all of them, to be timed."""
    few, exact = excerpt(train, recipe)
    return Trainer(
        build_network(architecture, 0), few, exact, seed=0, device=device, workers=workers
    )


def time_steps(
    batches: Batches,
    step: Callable[[Tensor, Tensor, int], float],
    number: int,
    *,
    patience: float = math.inf,
) -> float:
    """Seconds of a training step, the mean of `number` after one to warm up.

    Args:
        batches: Repeated, where they are too few.
        step: Trains on images, labels and the step's index; done when it returns, on a GPU too.
        number: Of the steps that are timed.
        patience: After so many seconds no further step begins, and the answer is infinity.
    """
    start, marks = time.perf_counter(), []
    endless = itertools.cycle(batches.epoch(0))
    for index, (images, labels) in enumerate(itertools.islice(endless, number + 1)):
        if time.perf_counter() - start > patience:
            return math.inf
        step(images, labels, index)
        marks.append(time.perf_counter())
    return (marks[-1] - marks[0]) / number


def excerpt(train: Split, recipe: Recipe) -> tuple[Split, Recipe]:
    """A few of the images, and the recipe that batches them as it does all."""
    batch = recipe.batch(len(train))
    few = replace(train, images=train.images[: 4 * batch], labels=train.labels[: 4 * batch])
    return few, replace(recipe, batch_size=batch, min_steps=1)
