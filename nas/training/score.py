"""What a trained network is worth: batch-norm statistics estimated anew, then accuracy."""

import math

import numpy as np
import torch
from torch import nn

from nas.data.dataset import Split
from nas.training.augment import at_resolution, normalise

NORM_IMAGES = 2048
"""Images that batch-norm statistics are estimated from."""


class DivergedError(RuntimeError):
    """The loss, or a logit at evaluation, is no finite number."""


@torch.no_grad()
def estimate_norms(
    network: nn.Module,
    split: Split,
    *,
    seed: int,
    device: torch.device,
    batch_size: int = 256,
) -> None:
    """Set every batch norm's running statistics to their mean over up to 2,048 images, in place.

    With EfficientNet's momentum of 0.01 the running statistics still carry their initial 0 and 1
    after hundreds of steps, and an average of weights never had any of its own. A long training
    loses nothing by the estimate. Images are as in evaluation, and dropout and stochastic depth
    rest, which `torch.optim.swa_utils.update_bn` would leave active. Leaves the network in eval
    mode.

    Args:
        network: On `device`.
        split: Training images at the network's resolution.
        seed: Chooses the images.
        device: Where to compute.
        batch_size: Images at once.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    chosen = np.random.default_rng(seed).permutation(len(split))[:NORM_IMAGES]
    batches = np.array_split(chosen, math.ceil(len(chosen) / batch_size))
    for number, batch in enumerate(batches, 1):
        for norm in norms:  # None, PyTorch's sign for a cumulative average, waits for a GPU
            norm.momentum = 1 / number
        network(normalise(torch.from_numpy(split.images[batch]), device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def accuracy(
    module: nn.Module,
    split: Split,
    *,
    resolution: int,
    device: torch.device,
    balanced: bool = False,
) -> float:
    """Share of the images whose class has the greatest logit, in [0, 1].

    Args:
        module: As for `answers`, as the rest.
        split: The images.
        resolution: That the network sees.
        device: Where to compute.
        balanced: The mean of that share over the classes that have images, instead.

    Raises:
        DivergedError: A logit is NaN or infinite.
    """
    found = answers(module, split, resolution=resolution, device=device)
    right = found == split.labels
    return class_means(split.labels, right) if balanced else float(right.mean())


def class_means(labels: np.ndarray, values: np.ndarray) -> float:
    """The mean over the classes that occur of each one's mean value."""
    images, sums = np.bincount(labels), np.bincount(labels, weights=values)
    return float((sums[images > 0] / images[images > 0]).mean())


@torch.inference_mode()
def answers(
    module: nn.Module,
    split: Split,
    *,
    resolution: int,
    device: torch.device,
    batch_size: int = 256,
) -> np.ndarray:
    """The class that a network gives each image, that of the greatest logit; always in fp32.

    On Nvidia's GPUs from Ampere on, convolutions in fp32 round what they read to TF32's 10 bits, as
    is PyTorch's default.

    Args:
        module: On `device`; put into eval mode.
        split: Images of any size; resized to `resolution` pixels.
        resolution: Side of the images that the network sees, in pixels.
        device: Where to compute.
        batch_size: Images at once.

    Returns:
        int64 (N,).

    Raises:
        DivergedError: A logit is NaN or infinite (`argmax` would call NaN class 0).
    """
    split = at_resolution(split, resolution)
    module.eval()
    guesses, finite = [], []
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        logits = module(normalise(torch.from_numpy(split.images[part].copy()), device))
        finite.append(torch.isfinite(logits).all())
        guesses.append(logits.argmax(1))
    # Asked for at the end only: a GPU idles when a batch is waited for.
    if not torch.stack(finite).all():
        raise DivergedError("nan or infinite logits at evaluation")
    return torch.cat(guesses).cpu().numpy()
