"""What a training is put together from: network, device, optimizer, precision, moving average."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.data.dataset import Split
from nas.training.augment import derive_seed
from nas.training.recipe import MemoryFormat, Precision, Recipe
from search_spaces.builder import AnyNetwork
from search_spaces.network import AnyModule, module_of

_NETWORK_DRAWS = 1
"""Keeps the seed of dropout and stochastic depth apart from that of order and augmentation."""


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "channels-last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


class TrainingError(ValueError):
    """Network, data and recipe that do not go together."""


def build_network(architecture: AnyNetwork, seed: int) -> AnyModule:
    """A freshly initialised network; torch's global generator stays as it was.

    Raises:
        BuilderError: A user's builder cannot be had, or breaks a rule.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module_of(architecture)


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: the first CUDA device that this process sees, else the CPU.

    Raises:
        TrainingError: `cuda` is asked for where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError("This process sees no CUDA device; use `auto` or `cpu`.")
    return torch.device(name)


def check_fit(architecture: AnyNetwork, train: Split) -> None:
    """Raise unless the network can be trained on these images.

    Raises:
        TrainingError: Their channels or classes differ, or there are too few.
    """
    channels = train.images.shape[1]
    if channels != architecture.in_channels:
        raise TrainingError(
            f"{architecture.name} takes images of {architecture.in_channels} channels, the data "
            f"have {channels}. Let the network take {channels}."
        )
    if len(train) < 2:
        raise TrainingError(f"Training needs at least 2 images, but got {len(train)}.")
    largest = int(train.labels.max())
    if largest >= architecture.num_classes:
        raise TrainingError(
            f"{architecture.name} has {architecture.num_classes} classes, but the data have a "
            f"label {largest}. Let the network have a class for every label."
        )


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Two groups: kernels, which decay, and batch norms and biases, which do not."""
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=True
        )
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def definite_precision(precision: Precision, device: torch.device) -> Precision:
    """What `auto` is on `device`; fp32, bf16 or fp16.

    Raises:
        TrainingError: The precision is not to be had on `device`.
    """
    if precision == "fp16" and device.type != "cuda":
        raise TrainingError(
            f"precision fp16 needs a CUDA device, but training is on {device.type}. Use auto."
        )
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def autocast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """What autocast computes in; fp32 stands for none.

    Raises:
        TrainingError: As `definite_precision`.
    """
    return _DTYPES[definite_precision(recipe.precision, device)]


def memory_format(recipe: Recipe) -> torch.memory_format:
    """What torch calls the recipe's."""
    return _FORMATS[recipe.memory_format]


def mixed_precision(
    recipe: Recipe, device: torch.device
) -> tuple[torch.autocast, torch.amp.GradScaler]:
    """The context of a forward pass, and what scales its loss; in fp32 neither does anything.

    Raises:
        TrainingError: As `autocast_dtype`.
    """
    dtype = autocast_dtype(recipe, device)
    return (
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
    )


@contextmanager
def network_randomness(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Dropout and stochastic depth draw from torch's global generators: borrow those for an epoch
    of a training from `seed`."""
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive_seed(seed, epoch, _NETWORK_DRAWS))
        yield


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """EMA with the released code's warm form, min(decay, (1 + t) / (10 + t))."""

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        t = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + t) / (10 + t)))(averaged, current, count)

    return AveragedModel(network, multi_avg_fn=update)
