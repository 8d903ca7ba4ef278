"""Accuracy from shared weights: no training, batch-norm statistics and a look at the held-out."""

from dataclasses import dataclass

import numpy as np
import torch

from nas.data.dataset import Split
from nas.supernet.network import Supernet
from nas.training.augment import at_resolution
from nas.training.parts import choose_device
from nas.training.proxy import ProxyTraining
from nas.training.score import accuracy, estimate_norms
from search_spaces.architecture import Architecture
from search_spaces.network import Network

NORM_IMAGES = 512
"""Training images that a network's batch-norm statistics are estimated from: as many as the time
of an evaluation can bear (`nas.training.score.NORM_IMAGES` are for trainings)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SupernetAccuracy:
    """Accuracy on the held-out part of the training images with a supernet's weights.

    An evaluator like any other. It holds the weights and the few images that it looks at, so that
    Ray ships it to a worker once, on any machine, and nothing is read from disk.
    """

    supernet: Supernet
    norms: Split
    """Training images for batch-norm statistics, at the networks' resolution."""
    validation: Split
    """Images that networks are judged on, at the networks' resolution."""
    device: str = "auto"
    balanced: bool = False
    """Whether accuracy is the mean of the classes' own."""

    @classmethod
    def of(cls, supernet: Supernet, training: ProxyTraining, *, seed: int) -> "SupernetAccuracy":
        """Judge by the images that `training` judges by.

        Args:
            supernet: Trained on the images that `training` trains on.
            training: Has the images.
            seed: Chooses those for batch-norm statistics: the same for all networks.
        """
        train, resolution = training.data.train, supernet.envelope.like.resolution
        chosen = np.random.default_rng(seed).permutation(len(train))[:NORM_IMAGES]
        return cls(
            supernet=supernet.requires_grad_(False).cpu(),
            norms=at_resolution(Split(train.images[chosen], train.labels[chosen]), resolution),
            validation=at_resolution(training.validation, resolution),
            device=training.device,
            balanced=training.balanced,
        )

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        """The accuracy, in [0, 1]; the supernet's training has fixed epochs and seed.

        Raises:
            SharingError: The network is not among those that the weights are for.
            DivergedError: A logit is no finite number.
        """
        device = choose_device(self.device)
        network = self.network(architecture, device)
        resolution = architecture.resolution
        return accuracy(
            network,
            self.validation,
            resolution=resolution,
            device=device,
            balanced=self.balanced,
        )

    def network(self, architecture: Architecture, device: torch.device | None = None) -> Network:
        """The network with its part of the weights, ready to be evaluated or trained further."""
        device = device or torch.device("cpu")
        network = self.supernet.extract(architecture)
        network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore
        estimate_norms(network, self.norms, seed=0, device=device)
        return network
