"""A small space whose networks share weights, and one whose networks cannot."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nas.data.dataset import ImageData, Split
from nas.training.proxy import ProxyTraining
from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.ops import Bottleneck, MBConv
from search_spaces.spaces import Choice, FactorizedSpace

_REFERENCE = Architecture(
    name="tiny",
    resolution=8,
    num_classes=3,
    stem=Stem(width=8),
    stages=(
        Stage(block=MBConv(), width=8, repeats=2, stride=1),
        Stage(block=MBConv(), width=16, repeats=1, stride=2),
    ),
    head_width=16,
    dropout=0.0,
    drop_path=0.0,
)

SPACE = FactorizedSpace(
    name="tiny",
    reference=_REFERENCE,
    ops=("conv", "dwconv", "mbconv3", "mbconv6"),
    kernels=(3, 5),
    skips=("identity", "pool", "none"),
    width_factors=(0.5, 1.0, 1.5),
    width_divisor=4,
)


def tiny_space(resolution: int, num_classes: int, target_macs: float) -> FactorizedSpace:
    """For `--space tests.supernets:tiny_space`."""
    reference = replace(_REFERENCE, resolution=resolution, num_classes=num_classes)
    return replace(SPACE, reference=reference)


def mbconv_space(resolution: int, num_classes: int, target_macs: float) -> FactorizedSpace:
    """For `--space tests.supernets:mbconv_space`: three stages of MBConvs with identity skips."""
    stages = ((8, 1), (16, 2), (32, 2))
    reference = Architecture(
        name="mbconv",
        resolution=resolution,
        num_classes=num_classes,
        stem=Stem(width=12),
        stages=tuple(Stage(block=MBConv(), width=w, repeats=2, stride=s) for w, s in stages),
        head_width=64,
        dropout=0.0,
        drop_path=0.0,
    )
    return replace(
        SPACE,
        name="mbconv",
        reference=reference,
        ops=("mbconv3", "mbconv6"),
        skips=("identity",),
    )


class ResidualSpace:
    """ResNets of one stage."""

    name = "residual"

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        return {"width": (8, 16)}

    def decode(self, choices: Mapping[str, Any]) -> Architecture:
        stage = Stage(block=Bottleneck(), width=choices["width"], repeats=1, stride=1)
        return replace(_REFERENCE, stages=(stage,))

    def encode(self, architecture: Architecture) -> dict[str, Choice]:
        return {"width": architecture.stages[0].width}


def residual_space(**_: Any) -> ResidualSpace:
    """For `--space tests.supernets:residual_space`."""
    return ResidualSpace()


def brightness(number: int, seed: int = 0) -> Split:
    """Images whose class is how bright they are."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    noise = rng.integers(0, 60, (number, 3, 8, 8))
    return Split((labels[:, None, None, None] * 80 + noise).astype(np.uint8), labels)


def training(number: int = 48) -> ProxyTraining:
    """An evaluator on a few of these images."""
    data = ImageData(
        name="brightness",
        classes=("dark", "grey", "bright"),
        fingerprint="0" * 12,
        native_size=8,
        train=brightness(number),
        search_validation=brightness(30, seed=1),
    )
    return ProxyTraining(data=data, batch_size=16, device="cpu")
