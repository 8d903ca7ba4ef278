"""Three training loops over the same network: ours, the best we can write by hand, timm's defaults.

Each is a function that trains a number of steps; the device has done them when it returns. On a CPU
each runs in a process of its own, because the allocator's setting is the process's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nas.cli import UserError
from nas.data.dataset import Split
from nas.ram import keep_freed_memory
from nas.training.augment import MEAN, STD
from nas.training.parts import build_network
from nas.training.recipe import Recipe
from nas.training.trainer import Trainer
from search_spaces.adapt import adapt_classes, scale_widths
from search_spaces.architecture import Architecture
from search_spaces.zoo import load_architecture

Loop = Callable[[int], None]
"""Trains so many steps."""
_REACH = 8
"""Images are shifted by up to an eighth of their side, as in our proxy recipe."""


def load_timm() -> Any:
    """timm, which this benchmark alone needs.

    Raises:
        UserError: It is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError("This benchmark compares with timm: `pip install timm`.") from error
    return timm


def b0(width: float, resolution: int, num_classes: int) -> Architecture:
    """EfficientNet-B0 with its widths multiplied, all its strides kept."""
    published = load_architecture("efficientnet-b0")
    assert isinstance(published, Architecture)
    network = scale_widths(adapt_classes(published, num_classes), width)
    return replace(network, name=f"B0 x {width:g}", resolution=resolution)


def timm_b0(width: float, num_classes: int) -> nn.Module:
    """The same network of timm's, with `drop_path_rate` and dropout as ours."""
    load_timm()
    from timm.models.efficientnet import _gen_efficientnet

    network = _gen_efficientnet(
        "efficientnet_b0",
        channel_multiplier=width,
        num_classes=num_classes,
        drop_rate=0.2,
        drop_path_rate=0.2,
    )
    ours = build_network(b0(width, 64, num_classes), 0)
    assert _parameters(network) == _parameters(ours)
    return network


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def our_loop(architecture: Architecture, split: Split, batch: int, device: torch.device) -> Loop:
    """The trainer of a proxy trial, as a search runs it."""
    recipe = replace(Recipe.proxy(1000, batch_size=batch), min_steps=1)
    trainers: dict[int, Trainer] = {}

    def run(steps: int) -> None:
        if steps not in trainers:  # an epoch is as many steps as its images make
            images = _repeated(split, steps * batch)
            network = build_network(architecture, 0)
            trainers[steps] = Trainer(network, images, recipe, seed=0, device=device)
        trainers[steps].run_epoch()

    return run


def tuned_loop(
    network: nn.Module,
    split: Split,
    batch: int,
    device: torch.device,
    *,
    amp: bool = False,
    compiled: bool = False,
) -> Loop:
    """All of the data as one uint8 tensor on the device, whole batches augmented by one gather and
    normalised plane by plane, channels-last, activations not in place (autograd would copy what
    they overwrite), a fused optimizer with one group, which costs less than two, and never a wait
    for the device before the last step. On a CPU with `nas.ram.keep_freed_memory`, as ours.

    The layers are timm's: what `search_spaces.faster` does inside of a layer, it has not.
    """
    if device.type == "cpu":
        keep_freed_memory()
    network = network.to(device).to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if isinstance(module, nn.SiLU):
            module.inplace = False
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-5, fused=True
    )
    images = torch.from_numpy(split.images.copy()).to(device)
    labels = torch.from_numpy(split.labels).to(device)
    scale = torch.tensor([1 / (255 * s) for s in STD], device=device)[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)], device=device)
    forward: Any = torch.compile(network) if compiled else network

    def run(steps: int) -> None:
        for _ in range(steps):
            chosen = torch.randint(len(labels), (batch,), device=device)
            pixels = _crop_and_flip(images, chosen).to(torch.float32)
            pixels = pixels.mul_(scale).add_(shift[:, None, None])
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                logits = forward(pixels)
            loss = cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def timm_loop(
    network: nn.Module, folder: Path, resolution: int, batch: int, device: torch.device, jobs: int
) -> Loop:
    """timm's train.py with its defaults: an ImageFolder decoded and transformed image by image,
    SGD of `create_optimizer_v2`, contiguous tensors, no mixed precision, the allocator as it is.

    Args:
        network: timm's.
        folder: Class folders of the training images.
        resolution: Side of the images in px.
        batch: Images a step.
        device: Where to train.
        jobs: Loader processes. On a CPU they take the cores of the training.
    """
    load_timm()
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
    from timm.optim._optim_factory import create_optimizer_v2

    network = network.to(device).train()
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.1, weight_decay=2e-5, momentum=0.9)
    criterion = LabelSmoothingCrossEntropy(0.1)
    dataset: Any = create_dataset("", root=str(folder), is_training=True, batch_size=batch)
    loader = create_loader(
        dataset,
        input_size=(3, resolution, resolution),
        batch_size=batch,
        is_training=True,
        interpolation="random",
        num_workers=jobs,
        device=device,
        persistent_workers=jobs > 0,
    )

    batches = _endless(loader)

    def run(steps: int) -> None:
        for images, labels in islice(batches, steps):
            loss = criterion(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _crop_and_flip(images: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images, shifted with a reflected border and mirrored at random."""
    count, side, device = len(chosen), images.shape[-1], images.device
    reach = max(1, side // _REACH)
    offsets = torch.randint(-reach, reach + 1, (2, count, 1), device=device)
    pixels, last = torch.arange(side, device=device), side - 1
    rows, columns = last - (last - (pixels + offsets).abs()).abs()
    mirrored = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    places = (rows[:, :, None] * side + columns[:, None, :]).reshape(count, 1, -1)
    planes = images[chosen].flatten(2)
    return planes.gather(2, places.expand(-1, images.shape[1], -1)).unflatten(2, (side, side))


def _repeated(split: Split, count: int) -> Split:
    """A split of so many images, with repetitions if need be."""
    chosen = torch.arange(count).remainder(len(split)).numpy()
    return Split(split.images[chosen], split.labels[chosen])
