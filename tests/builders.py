"""Builders as users write them, good and bad; tests name them `tests.builders:NAME`."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.resnet import BasicBlock

from scaling_search.compound import Coefficients, scale_by
from search_spaces.architecture import Architecture
from search_spaces.builder import BuiltNetwork
from search_spaces.network import Network
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO

ROUNDING = Rounding()
PAPER = Coefficients(1.2, 1.1, 1.15)


def built(function: str, resolution: int = 8, depth: float = 1, width: float = 1) -> BuiltNetwork:
    """What a builder of this module makes, described."""
    reference = f"tests.builders:{function}"
    return BuiltNetwork(
        name=function, reference=reference, resolution=resolution, depth=depth, width=width
    )


class Plain(nn.Module):
    """A few convolutions; learns digits in seconds."""

    def __init__(self, blocks: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(blocks))
        self.last = nn.BatchNorm1d(channels)
        self.out = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            features = torch.relu(norm(block(features))) + features
        return self.out(self.last(features.mean((2, 3))))


def plain(*, depth: float, width: float, resolution: int) -> nn.Module:
    """Two blocks of 8 channels, ten classes."""
    return Plain(math.ceil(2 * depth - 1e-9), round(8 * width), 10)


def evaluate(architecture: BuiltNetwork, *, epochs: int, seed: int) -> float:
    """An evaluator that is best where depth, width and resolution grow alike."""
    logs = [math.log(f) for f in (architecture.depth, architecture.width)]
    logs.append(math.log(architecture.resolution / 16))
    distance = sum(abs(log - 0.14) for log in logs)
    return 0.9 * math.exp(-distance) + 1e-3 * math.sin(99 * seed + sum(logs))


def three_classes(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Plain(math.ceil(2 * depth - 1e-9), round(8 * width), 3)


def zoo(name: str, depth: float, width: float, resolution: int) -> Network:
    """A scaled network of the zoo, as if a user had written it."""
    return Network(scaled(ZOO[name](), depth, width, resolution))


def scaled(architecture: Architecture, depth: float, width: float, resolution: int) -> Architecture:
    return scale_by(
        architecture, depth=depth, width=width, resolution=resolution, rounding=ROUNDING
    )


def efficientnet(*, depth: float, width: float, resolution: int) -> nn.Module:
    return zoo("efficientnet-b0", depth, width, resolution)


def resnet50(*, depth: float, width: float, resolution: int) -> nn.Module:
    return zoo("resnet-50", depth, width, resolution)


def resnet(*, depth: float, width: float, resolution: int) -> nn.Module:
    """torchvision's, with blocks by stage and channels of the residual branch."""
    blocks = [math.ceil(2 * depth - 1e-9)] * 4
    return ResNet(BasicBlock, blocks, num_classes=10, groups=1, width_per_group=64)


def mobilenet(*, depth: float, width: float, resolution: int) -> nn.Module:
    """torchvision's; its inverted residuals by expansion, channels, repeats, stride."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    setting = [[t, c, math.ceil(n * depth - 1e-9), s] for t, c, n, s in rows]
    return MobileNetV2(num_classes=10, width_mult=width, inverted_residual_setting=setting)


class Functional(nn.Module):
    """A convolution without a module, a transposed one, attention, and a number read at once."""

    def __init__(self, depth: float, width: float) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(round(8 * width), 3, 3, 3))
        self.up = nn.ConvTranspose2d(round(8 * width), 4, 2, stride=2, groups=2)
        self.rates = [float(rate) for rate in torch.linspace(0, 0.2, math.ceil(2 * depth)).numpy()]
        self.rows = nn.ModuleList(nn.Linear(4, 4) for _ in self.rates)
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        features = self.up(conv2d(images, self.kernel, stride=2, padding=1))
        tokens = features.flatten(2).transpose(1, 2)  # (N, positions, 4)
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        for row in self.rows:
            mixed = row(mixed)
        return mixed.mean(1)


def functional(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Functional(depth, width)


def positional(a: float, b: float, c: int) -> nn.Module:
    """Wrong: other names."""
    return Plain(2, 8, 10)


def fails(*, depth: float, width: float, resolution: int) -> nn.Module:
    raise RuntimeError(f"no {depth}")


def no_module(*, depth: float, width: float, resolution: int) -> Any:
    return [depth]


def a_map(*, depth: float, width: float, resolution: int) -> nn.Module:
    """Wrong: puts out a map of features."""
    return nn.Conv2d(3, round(8 * width), math.ceil(depth))


def other_channels(*, depth: float, width: float, resolution: int) -> nn.Module:
    return nn.Conv2d(4, 8, 1)


def lazy(*, depth: float, width: float, resolution: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def no_depth(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Plain(2, round(8 * width), 10)


def no_width(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Plain(math.ceil(2 * depth), 8, 10)


class Patches(nn.Module):
    """A small vision transformer: images are whole patches of 16 px."""

    def __init__(self, blocks: int, channels: int, resolution: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 16, 16)
        self.positions = nn.Parameter(torch.zeros((resolution // 16) ** 2, channels))
        self.mixers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(blocks))
        self.out = nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] % 16:
            raise ValueError(f"no whole patches in {images.shape[-1]} px")
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for mixer in self.mixers:
            tokens = tokens + mixer(tokens).relu()
        return self.out(tokens.mean(1))


def patches(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Patches(math.ceil(2 * depth - 1e-9), round(8 * width), resolution)


def only_64(*, depth: float, width: float, resolution: int) -> nn.Module:
    """No resolution but one."""
    if resolution != 64:
        raise ValueError("64 px or nothing")
    return plain(depth=depth, width=width, resolution=resolution)


def shallow(*, depth: float, width: float, resolution: int) -> nn.Module:
    """Any resolution, but no depth above 2."""
    if depth > 2:
        raise ValueError("too deep")
    return plain(depth=depth, width=width, resolution=resolution)


class Auxiliary(Plain):
    """Wrong: two outputs in training."""

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


def auxiliary(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Auxiliary(math.ceil(2 * depth), round(8 * width), 10)


class Tied(nn.Module):
    """Two layers with one kernel."""

    def __init__(self, blocks: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3)
        self.first = nn.Conv2d(channels, channels, 1)
        self.others = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(blocks))
        for other in self.others:
            assert isinstance(other, nn.Conv2d)
            other.weight = self.first.weight
        self.out = nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(self.stem(images).relu())
        for other in self.others:
            features = other(features.relu())
        return self.out(features.mean((2, 3)))


def tied(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Tied(math.ceil(2 * depth), round(8 * width))


class Hungry(Plain):
    """Asks for a petabyte in its 16th training step; its timing takes 4."""

    steps = 16

    def forward(self, images: Tensor) -> Tensor:
        self.steps -= self.training and len(images) > 2  # two are its check
        if self.steps == 0:
            torch.empty(10**15)
        return super().forward(images)


def hungry(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Hungry(math.ceil(2 * depth), round(8 * width), 10)


class Hungriest(Hungry):
    """In its first."""

    steps = 1


def hungriest(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Hungriest(math.ceil(2 * depth), round(8 * width), 10)


not_callable = 7
