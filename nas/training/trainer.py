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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.data.dataset import Split
from nas.training.augment import Batches, at_resolution, derive_seed, normalise
from nas.training.recipe import Recipe, RecipeError
from nas.training.score import NORM_IMAGES, DivergedError, accuracy, estimate_norms
from search_spaces.architecture import Architecture
from search_spaces.network import Network

__all__ = [
    "NORM_IMAGES",
    "DivergedError",
    "Recipe",
    "RecipeError",
    "Trainer",
    "TrainingError",
    "accuracy",
    "build_network",
    "choose_device",
    "estimate_norms",
    "fit",
    "seconds_per_image",
]


_NETWORK_DRAWS = 1
"""Keeps the seed of dropout and stochastic depth apart from that of order and augmentation."""


class TrainingError(ValueError):
    """Network, data and recipe that do not go together."""


def build_network(architecture: Architecture, seed: int) -> Network:
    """A freshly initialised network; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(architecture)


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


class Trainer:
    """One training, advanced epoch by epoch."""

    def __init__(
        self,
        network: Network,
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
            train: Images of any size; resized once to the architecture's resolution.
            recipe: Everything else that the outcome depends on.
            seed: Fixes order, augmentation, dropout and stochastic depth.
            device: Where to train.
            workers: Loader processes, see `Batches`.
        """
        architecture = network.architecture
        _check_fit(architecture, train)
        self.recipe, self.seed, self.device = recipe, seed, device
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.epoch = 0
        """Epochs finished."""
        self._train = at_resolution(train, architecture.resolution)
        self._batches = Batches(
            self._train,
            recipe,
            resolution=architecture.resolution,
            seed=seed,
            device=device,
            workers=workers,
        )
        self._steps = recipe.steps(len(train))
        self._optimizer = _optimizer(self.network, recipe)
        dtype = _autocast_dtype(recipe, device)
        self._autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        decay = recipe.average_decay(len(train))
        self._average = None
        if decay:
            self._average = AveragedModel(self.network, multi_avg_fn=_average_function(decay))

    def run_epoch(self) -> float:
        """Train one epoch; the mean loss of its steps.

        Raises:
            DivergedError: The loss of a step is no finite number. The network is of no use then.
        """
        losses = []
        with self._own_randomness():
            for images, labels in self._batches.epoch(self.epoch):
                losses.append(self._step(images, labels, self.epoch * self._steps + len(losses)))
        self.epoch += 1
        return sum(losses) / len(losses)

    def evaluable(self) -> Network:
        """A copy, in eval mode, of the averaged network (or of the network, without averaging)
        with batch-norm statistics estimated anew by `estimate_norms`."""
        source = self.network if self._average is None else self._average.module
        network = copy.deepcopy(source)
        assert isinstance(network, Network)
        estimate_norms(network, self._train, seed=self.seed, device=self.device)
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

    def seconds_per_image(self, steps: int = 3) -> float:
        """Time of a training step over its images, from `steps` steps after one to warm up.

        The steps are real: use a trainer of its own for this.
        """
        marks = []
        with self._own_randomness():
            batches = itertools.islice(itertools.cycle(self._batches.epoch(0)), steps + 1)
            for step, (images, labels) in enumerate(batches):
                self._step(images, labels, step)  # its check of the loss waits for the device
                marks.append(time.perf_counter())
        return (marks[-1] - marks[0]) / (steps * self.recipe.batch(len(self._train)))

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout and stochastic depth draw from torch's global generators: borrow those."""
        cuda = [torch.cuda.current_device()] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derive_seed(self.seed, self.epoch, _NETWORK_DRAWS))
            self.network.train()
            yield

    def _step(self, images: Tensor, labels: Tensor, step: int) -> float:
        recipe = self.recipe
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate(step, len(self._train))
        with self._autocast:
            logits = self.network(normalise(images, self.device))
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
    network: Network,
    train: Split,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
    on_epoch: Callable[[Trainer, float], None] | None = None,
) -> Network:
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
    architecture: Architecture,
    train: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    workers: int = 0,
) -> float:
    """Measured seconds of training an image, augmentation included, for estimates of a run."""
    batch = recipe.batch(len(train))
    few = replace(train, images=train.images[: 4 * batch], labels=train.labels[: 4 * batch])
    exact = replace(recipe, batch_size=batch, min_steps=1)
    trainer = Trainer(
        build_network(architecture, 0), few, exact, seed=0, device=device, workers=workers
    )
    return trainer.seconds_per_image()


def _check_fit(architecture: Architecture, train: Split) -> None:
    channels = train.images.shape[1]
    if channels != architecture.in_channels:
        raise TrainingError(
            f"{architecture.name} takes images of {architecture.in_channels} channels, the data "
            f"have {channels}. Set the architecture's `in_channels` to {channels}."
        )
    if len(train) < 2:
        raise TrainingError(f"Training needs at least 2 images, but got {len(train)}.")
    largest = int(train.labels.max())
    if largest >= architecture.num_classes:
        raise TrainingError(
            f"{architecture.name} has {architecture.num_classes} classes, but the data have a "
            f"label {largest}. Set the architecture's `num_classes`."
        )


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
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


def _autocast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """fp32 stands for no autocast."""
    if recipe.precision == "fp16" and device.type != "cuda":
        raise TrainingError(
            f"precision fp16 needs a CUDA device, but training is on {device.type}. Use auto."
        )
    if recipe.precision != "auto":
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return dtypes[recipe.precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _average_function(decay: float) -> Callable[[Any, Any, Any], None]:
    """EMA with the released code's warm form, min(decay, (1 + t) / (10 + t))."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        t = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + t) / (10 + t)))(averaged, current, count)

    return update
