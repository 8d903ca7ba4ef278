"""What a training is put together from: network, device, optimizer, precision, moving average."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

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
    with initial_draws(seed):
        return module_of(architecture)


@contextmanager
def initial_draws(seed: int) -> Iterator[None]:
    """Torch's global generator of the CPU starts at `seed` for a while; those of GPUs, from which a
    training that is under way draws, are left alone (`torch.manual_seed` seeds them too)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


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
    sgd = torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )
    if recipe.momentum > 0:
        # Else the first step makes it of memory as it is, and leaves that so where a gradient
        # overflows, which in fp16 the first often does. From 0 the first step is the same.
        for parameter in (*kernels, *rest):
            if parameter.requires_grad:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


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
    return "bf16" if has_bf16() else "fp16"


def has_bf16() -> bool:
    """Whether the GPU computes in bf16; one before Ampere only emulates it, slower than fp32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


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


def give_memory_back(device: torch.device) -> None:
    """Free what this process only keeps of a GPU's memory; trials may be other processes' there."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def network_randomness(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Dropout and stochastic depth draw from torch's global generators: borrow those for an epoch
    of a training from `seed`."""
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive_seed(seed, epoch, _NETWORK_DRAWS))
        yield


class MovingAverage(AveragedModel):
    """EMA with the released code's warm form, min(decay, (1 + t) / (10 + t)).

    PyTorch's own update waits for a GPU, and copies buffers one by one.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the weights of `model`; buffers are its own."""
        t = int(self.n_averaged)  # on the CPU, wherever the network is
        decay = min(self._decay, (1 + t) / (10 + t))
        of = itertools.chain(self.module.parameters(), self.module.buffers())
        new = itertools.chain(model.parameters(), model.buffers())
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
        for pair in zip(of, new, strict=True):
            is_averaged = t > 0 and pair[0].requires_grad
            (averaged if is_averaged else copied[pair[0].is_floating_point()]).append(pair)
        if averaged:
            own, others = map(list, zip(*averaged, strict=True))
            get_ema_multi_avg_fn(decay)(own, others, None)
        for pairs in filter(None, copied.values()):
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))  # pyright: ignore
        self.n_averaged += 1
