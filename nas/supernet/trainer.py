"""The sandwich rule with in-place distillation: all networks of a space trained at once.

A step adds the gradients of several networks on the same images: the largest, which learns from
the labels, the smallest and some drawn at random, which learn from what the largest says of the
images (Yu et al. 2020, "BigNAS", arXiv:2003.11142, sections 3.1 and 3.2). From the paper too:
dropout and stochastic depth for the largest alone.

Ours: over the first half of the steps the others' targets go from the labels to the largest's
probabilities, because at first it knows nothing, and in a short training the smallest then learns
nothing either; the short recipe of a trial, not ImageNet's; nothing of the paper's initialisation
of residual blocks, nor of its constant last rate.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from nas.data.dataset import Split
from nas.ram import keep_freed_memory
from nas.supernet.envelope import extremes
from nas.supernet.network import Supernet
from nas.training.augment import Batches, at_resolution, derive_seed, normalise
from nas.training.parts import (
    build_optimizer,
    check_fit,
    give_memory_back,
    memory_format,
    mixed_precision,
    network_randomness,
)
from nas.training.recipe import Recipe
from nas.training.score import DivergedError
from nas.training.trainer import excerpt, numbers, time_steps
from search_spaces.architecture import Architecture
from search_spaces.network import Network
from search_spaces.spaces import Space, sample_networks

_SUBNET_DRAWS = 2
"""Keeps the seed of the networks drawn apart from those of order, augmentation and dropout."""


@dataclass(frozen=True, kw_only=True)
class Sandwich:
    """The networks of a step."""

    space: Space
    largest: Architecture
    smallest: Architecture
    drawn: int
    """Networks drawn uniformly from the space for each step."""

    @classmethod
    def of(cls, space: Space, drawn: int) -> "Sandwich":
        """With the networks of most and fewest multiply-adds."""
        largest, smallest = extremes(space)
        return cls(space=space, largest=largest, smallest=smallest, drawn=drawn)

    def draw(self, seed: int) -> list[Architecture]:
        """The networks that are drawn for a step."""
        return sample_networks(self.space, self.drawn, seed)


class SupernetTrainer:
    """One training of a supernet, advanced epoch by epoch.

    As with `nas.training.trainer.Trainer`, the state at an epoch's end, with seed and recipe, fixes
    the rest: every draw is made from seed, epoch and step.
    """

    def __init__(
        self,
        supernet: Supernet,
        sandwich: Sandwich,
        train: Split,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Prepare to train `supernet`, which is moved to `device` and changed in place.

        Args:
            supernet: Of the sandwich's space.
            sandwich: Which networks are trained.
            train: Images of any size; resized once to the networks' resolution.
            recipe: How; of its moving average nothing is used.
            seed: Fixes order, augmentation, dropout, stochastic depth and the networks drawn.
            device: Where to train.
        """
        largest = sandwich.largest
        check_fit(largest, train)
        if device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.seed, self.device = recipe, seed, device
        self.supernet = supernet.to(device)
        self.epoch = 0
        """Epochs finished."""
        self._sandwich = sandwich
        self._largest = supernet.template(largest, regularised=True)
        self._smallest = supernet.template(sandwich.smallest, regularised=False)
        self._num_images = len(train)
        self._batches = Batches(
            at_resolution(train, largest.resolution),
            recipe,
            resolution=largest.resolution,
            seed=seed,
            device=device,
        )
        self._steps = recipe.steps(len(train))
        self._optimizer = build_optimizer(supernet, recipe)
        for parameter in supernet.parameters():
            # Not None: weights that no network of a step uses go on with their momentum.
            parameter.grad = torch.zeros_like(parameter)
        self._autocast, self._scaler = mixed_precision(recipe, device)

    def run_epoch(self) -> float:
        """Train one epoch; the mean loss of the largest network.

        Raises:
            DivergedError: The loss of a network is no finite number.
        """
        first = self.epoch * self._steps
        batches = enumerate(self._batches.epoch(self.epoch), first)
        with network_randomness(self.seed, self.epoch, self.device):
            steps = (self._step(*batch, step) for step, batch in batches)
            losses = [*map(self._finite, numbers(steps, self.device), itertools.count(first))]
        self.epoch += 1
        return sum(losses) / len(losses)

    def state(self) -> dict[str, Any]:
        """What `load_state` needs at the end of an epoch: tensors and plain types only."""
        return {
            "epoch": self.epoch,
            "supernet": self.supernet.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of the same space, recipe, data and seed."""
        self.epoch = state["epoch"]
        self.supernet.load_state_dict(state["supernet"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    def seconds_per_image(self, steps: int = 3) -> float:
        """Time of a step over its images, from `steps` steps after one to warm up.

        The steps are real: use a trainer of its own for this.
        """
        with network_randomness(self.seed, self.epoch, self.device):
            seconds = time_steps(self._batches, self._step, self._finite, steps)
        return seconds / self.recipe.batch(self._num_images)

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Train on a batch; the losses of the networks, the largest's first."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate(step, self._num_images)
        self._optimizer.zero_grad(set_to_none=False)
        layout = memory_format(self.recipe)
        pixels = normalise(images, self.device, memory_format=layout)
        truth = self._smoothed(labels)
        loss, logits = self._accumulate(self._largest, pixels, truth)
        losses = [loss]
        target = truth.lerp(logits.softmax(1), self.trust(step))
        for network in self._others(step):
            losses.append(self._accumulate(network, pixels, target)[0])
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return torch.stack(losses)

    def _finite(self, losses: list[float], step: int) -> float:
        """The largest network's."""
        if not all(map(math.isfinite, losses)):
            raise DivergedError(f"{losses} losses of the networks of step {step}")
        return losses[0]

    def trust(self, step: int) -> float:
        """Share of the largest network's word in the others' targets at step 0, 1, …"""
        return min(1.0, 2 * step / (self.recipe.epochs * self._steps))

    def _smoothed(self, labels: Tensor) -> Tensor:
        """Probabilities ``(N, classes)`` that stand for labels."""
        classes = self._sandwich.largest.num_classes
        smoothing = self.recipe.label_smoothing
        return one_hot(labels, classes) * (1 - smoothing) + smoothing / classes

    def _others(self, step: int) -> Iterator[Network]:
        yield self._smallest
        for architecture in self._sandwich.draw(derive_seed(self.seed, step, _SUBNET_DRAWS)):
            yield self.supernet.template(architecture, regularised=False)

    def _accumulate(
        self, network: Network, pixels: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add a network's gradients; its loss and logits, detached.

        Args:
            network: A template.
            pixels: The images.
            target: Probabilities, ``(N, classes)``.
        """
        network.train()
        with self._autocast:
            logits = self.supernet.compute(network, pixels).float()
            loss = cross_entropy(logits, target)
        self._scaler.scale(loss).backward()
        return loss.detach(), logits.detach()


def seconds_per_image(
    supernet: Supernet, sandwich: Sandwich, train: Split, recipe: Recipe, *, device: torch.device
) -> float:
    """Measured seconds of a step over its images, for estimates; `supernet` is of no use then."""
    few, exact = excerpt(train, recipe)
    try:
        trainer = SupernetTrainer(supernet, sandwich, few, exact, seed=0, device=device)
        return trainer.seconds_per_image()
    finally:
        trainer = None  # or its memory would not be free yet
        supernet.cpu()
        give_memory_back(device)
