"""Fit a network to another image size or another budget of multiply-adds; pure."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork, BuilderError, BuiltNetwork
from search_spaces.cost import count
from search_spaces.layers import strided
from search_spaces.numbers import format_number
from search_spaces.rounding import round_width

_SMALLEST_MAP = 4
_MOST_STRIDES = 5
_SMALLEST_WIDTH, _LARGEST_WIDTH = 0.02, 32.0

N = TypeVar("N", bound=AnyNetwork)


def stride_budget(resolution: int) -> int:
    """How many stride-2 layers an image survives: its last map stays 4x4 or larger, at most five.

    224 px keep all five (7x7), 64 px four, 32 px three, as in the usual CIFAR variants.
    """
    strides = range(_MOST_STRIDES, 0, -1)
    return next((n for n in strides if strided(resolution, 2**n) >= _SMALLEST_MAP), 0)


def adapt_classes(architecture: N, num_classes: int) -> N:
    """The same network with another classifier.

    Raises:
        BuilderError: It is a user's builder's, whose classifier is not ours to change.
    """
    if architecture.num_classes == num_classes:
        return architecture
    if isinstance(architecture, BuiltNetwork):
        raise BuilderError(
            f"{architecture.call} puts out {architecture.num_classes} logits, but {num_classes} "
            f"classes are needed. Let its classifier put out {num_classes}."
        )
    return replace(architecture, num_classes=num_classes)


def adapt_resolution(architecture: N, resolution: int) -> N:
    """The same network for `resolution` pixels.

    Strides that the image does not survive (`stride_budget`) become 1, the earliest first: early
    ones cost the detail that a small image has least of. A user's builder is told the resolution,
    and sees to its strides itself.
    """
    if isinstance(architecture, BuiltNetwork):
        return replace(architecture, resolution=resolution)
    stem, stages = architecture.stem, list(architecture.stages)
    strides = int(stem.stride > 1) + stem.pool + sum(stage.stride > 1 for stage in stages)
    excess = strides - stride_budget(resolution)
    if excess > 0 and stem.stride > 1:
        stem, excess = replace(stem, stride=1), excess - 1
    if excess > 0 and stem.pool:
        stem, excess = replace(stem, pool=False), excess - 1
    for i, stage in enumerate(stages):
        if excess > 0 and stage.stride > 1:
            stages[i], excess = replace(stage, stride=1), excess - 1
    return replace(architecture, resolution=resolution, stem=stem, stages=tuple(stages))


def scale_widths(architecture: Architecture, multiplier: float, divisor: int = 8) -> Architecture:
    """Every width times `multiplier`, rounded by `round_width`."""
    stages = tuple(
        replace(stage, width=round_width(stage.width * multiplier, divisor))
        for stage in architecture.stages
    )
    head = architecture.head_width
    return replace(
        architecture,
        stem=replace(
            architecture.stem, width=round_width(architecture.stem.width * multiplier, divisor)
        ),
        stages=stages,
        head_width=round_width(head * multiplier, divisor) if head else 0,
    )


def fit_width(architecture: Architecture, target_macs: float, divisor: int = 8) -> float:
    """The width multiplier, to 1 %, whose network comes nearest to `target_macs`.

    Raises:
        ValueError: No multiplier between 0.02 and 32 comes within a factor of two.
    """
    what = f"{architecture.name} at {architecture.resolution} px"
    return fit_multiplier(
        lambda width: count(scale_widths(architecture, width, divisor)).macs, target_macs, what
    )


def fit_multiplier(macs: Callable[[float], float], target_macs: float, what: str) -> float:
    """The multiplier, to 1 %, at which `macs` comes nearest to a target; of equals, nearest to 1.

    Args:
        macs: Multiply-adds by multiplier; it does not fall.
        target_macs: Where to bring them.
        what: What is scaled, for the error.

    Raises:
        ValueError: No multiplier between 0.02 and 32 comes within a factor of two.
    """
    low, high = _SMALLEST_WIDTH, _LARGEST_WIDTH
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if macs(middle) < target_macs else (low, middle)
    step = 0.01 if low < 2 else 0.05
    near = {max(step, round(round(low / step + k) * step, 4)) for k in range(-3, 4)} | {1.0}
    best = min(near, key=lambda w: (round(abs(math.log(macs(w) / target_macs)), 9), abs(w - 1)))
    if abs(math.log2(macs(best) / target_macs)) > 1:
        raise ValueError(
            f"No width brings {what} near {format_number(target_macs)} multiply-adds "
            f"(nearest: {format_number(macs(best))}). Choose another target or resolution."
        )
    return best
