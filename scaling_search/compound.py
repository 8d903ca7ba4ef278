"""Compound scaling: one number, phi, makes a network deeper, wider and finer at once.

Depth grows by alpha^phi, width by beta^phi and resolution by gamma^phi (Tan & Le 2019, Eq. 3).
Multiply-adds are linear in depth and quadratic in width and resolution, so the invariant is::

    MACs(scale(network, coefficients, phi)) ~ MACs(network) * (alpha * beta^2 * gamma^2) ** phi

It holds up to rounding, which is large for small networks: whole repeats, rounded up, make
EfficientNet-B0 at phi = 1 cost 2.23 times the base where the formula says 1.92. Count, do not
assume (`search_spaces.cost.count`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from search_spaces.architecture import MAX_BLOCKS, Architecture, Stage
from search_spaces.builder import AnyNetwork, BuiltNetwork
from search_spaces.rounding import Rounding, round_width

DROPOUT_PER_PHI = 0.05
"""Our rule; starting from B0's .2 it stays within .05 of the released B0..B7 (.2 ... .5)."""
MAX_DROPOUT = 0.5
MAX_FACTOR = 1e6
MAX_PHI = 1000

N = TypeVar("N", bound=AnyNetwork)


class ScalingError(ValueError):
    """Coefficients, factors or a grid from which no network can be made."""


@dataclass(frozen=True, order=True)
class Coefficients:
    """Growth per unit of phi."""

    alpha: float
    """Depth."""
    beta: float
    """Width."""
    gamma: float
    """Resolution."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in self.values):
            raise ScalingError(f"`alpha, beta, gamma > 0` and finite must hold; got {self}.")
        if not all(1 / MAX_FACTOR <= value <= MAX_FACTOR for value in self.values):
            raise ScalingError(
                f"`1 / {MAX_FACTOR:g} <= alpha, beta, gamma <= {MAX_FACTOR:g}` must hold, or no "
                f"network can be meant; got {self}."
            )

    @property
    def values(self) -> tuple[float, float, float]:
        return self.alpha, self.beta, self.gamma

    @property
    def product(self) -> float:
        """alpha * beta^2 * gamma^2: by how much MACs grow per unit of phi, before rounding."""
        return self.alpha * self.beta**2 * self.gamma**2

    @property
    def label(self) -> str:
        """`1.2/1.1/1.15`, for tables and lists."""
        return "/".join(f"{value:g}" for value in self.values)

    def factors(self, phi: float) -> tuple[float, float, float]:
        """`(depth, width, resolution)` factors at `phi`.

        Raises:
            ScalingError: `phi` is no number, or so far from 0 that no network can be meant.
        """
        if not abs(phi) <= MAX_PHI:
            raise ScalingError(f"`-{MAX_PHI} <= phi <= {MAX_PHI}` must hold; got {phi}.")
        if not all(abs(phi * math.log(value)) <= math.log(MAX_FACTOR) for value in self.values):
            raise ScalingError(
                f"{self} to the power phi = {phi:g} is beyond {MAX_FACTOR:g} or its reciprocal. "
                "Choose a phi nearer to 0."
            )
        return self.alpha**phi, self.beta**phi, self.gamma**phi

    def __str__(self) -> str:
        return f"alpha={self.alpha:g} beta={self.beta:g} gamma={self.gamma:g}"


def scale(
    architecture: N,
    coefficients: Coefficients,
    phi: float,
    rounding: Rounding | None = None,
    name: str | None = None,
) -> N:
    """The network at `phi`: 0 is the base itself, negative values are smaller networks.

    Args:
        architecture: The base; not changed.
        coefficients: Growth per unit of phi.
        phi: Any finite number.
        rounding: How factors become whole numbers; None: `default_rounding`.
        name: None: the base's name with `-phi<phi>`, and the base's own at phi = 0.

    Raises:
        ScalingError: phi is no number, or so large that no network can be made.
    """
    if phi == 0:
        return replace(architecture, name=architecture.name if name is None else name)
    rounding = default_rounding(architecture, phi) if rounding is None else rounding
    depth, width, factor = coefficients.factors(phi)
    return scale_by(
        architecture,
        depth=depth,
        width=width,
        resolution=scale_resolution(architecture.resolution, factor, rounding),
        rounding=rounding,
        dropout=_dropout(architecture, phi),
        name=f"{architecture.name}-phi{phi:g}" if name is None else name,
    )


def scale_by(
    architecture: N,
    *,
    depth: float,
    width: float,
    resolution: int,
    rounding: Rounding,
    dropout: float | None = None,
    name: str | None = None,
) -> N:
    """The network with its repeats times `depth`, its widths times `width`, at `resolution`.

    Every stage is scaled, the first and the last included, and so are stem and head (the released
    EfficientNet code does the same). Inner widths (expansion, squeeze-excite, bottleneck) are
    shares of the block's, so they follow. A factor of exactly 1 leaves its dimension as it is.
    A user's own builder gets both factors as they are: its rounding and dropout are its own.

    Args:
        architecture: The base; not changed.
        depth: Factor of every stage's repeats.
        width: Factor of every width.
        resolution: Side of the input in pixels, taken as it is.
        rounding: How scaled repeats and widths become whole numbers.
        dropout: Rate before the classifier; None: the base's.
        name: None: the base's.

    Raises:
        ScalingError: A factor is not within (0, `MAX_FACTOR`], or blocks exceed `MAX_BLOCKS`.
    """
    for label, factor in (("depth", depth), ("width", width)):
        if not 0 < factor <= MAX_FACTOR:
            raise ScalingError(f"`0 < {label} <= {MAX_FACTOR:g}` must hold; got {factor}.")
    name = architecture.name if name is None else name
    if isinstance(architecture, BuiltNetwork):
        return replace(
            architecture,
            name=name,
            depth=architecture.depth * depth,
            width=architecture.width * width,
            resolution=resolution,
        )
    stem, head = architecture.stem, architecture.head_width
    return replace(
        architecture,
        name=name,
        resolution=resolution,
        stem=replace(stem, width=_wider(stem.width, width, rounding)),
        stages=_scaled_stages(architecture.stages, depth, width, rounding),
        head_width=_wider(head, width, rounding) if head else 0,
        dropout=architecture.dropout if dropout is None else dropout,
    )


def _wider(channels: int, factor: float, rounding: Rounding) -> int:
    return channels if factor == 1 else round_width(channels * factor, rounding.width_divisor)


def _scaled_stages(
    stages: Sequence[Stage], depth: float, width: float, rounding: Rounding
) -> tuple[Stage, ...]:
    scaled = tuple(
        replace(
            stage,
            width=_wider(stage.width, width, rounding),
            repeats=stage.repeats if depth == 1 else rounding.round_depth(stage.repeats * depth),
        )
        for stage in stages
    )
    if (blocks := sum(stage.repeats for stage in scaled)) > MAX_BLOCKS:
        raise ScalingError(
            f"A depth factor of {depth:.4g} makes {blocks:,} blocks; at most {MAX_BLOCKS:,} are "
            "supported. Choose a smaller phi or alpha."
        )
    return scaled


def default_rounding(architecture: AnyNetwork, phi: float) -> Rounding:
    """Steps that fit the base; depth is rounded up, and to the nearest where it shrinks.

    Rounded up, a factor below 1 would hardly shrink a short stage, and never one of one repeat.
    """
    depth = "ceil" if phi >= 0 else "round"
    return Rounding.for_base(architecture.resolution, architecture.widths, depth)


def finer_roundings(network: AnyNetwork, rounding: Rounding) -> dict[str, Rounding]:
    """By their flags: the roundings that leave smaller gaps, the one of repeats first. A user's
    builder has its own way with repeats, and one pixel is the smallest step."""
    finer = {}
    if rounding.depth == "ceil" and isinstance(network, Architecture):
        finer["--depth-rounding round"] = replace(rounding, depth="round")
    if rounding.resolution_divisor > 1:
        step = rounding.resolution_divisor // 2
        finer[f"--resolution-step {step}"] = replace(rounding, resolution_divisor=step)
    return finer


def scale_resolution(resolution: int, factor: float, rounding: Rounding) -> int:
    """`resolution * factor` as `rounding` has it, in pixels; a factor of 1 changes nothing."""
    return resolution if factor == 1 else rounding.round_resolution(resolution * factor)


def shift_dropout(rate: float, shift: float) -> float:
    """`rate + shift` within [0, .5]; a base without dropout, or with more, keeps its rate."""
    if rate == 0 or rate > MAX_DROPOUT:
        return rate
    # Nine decimals: .2 + .05 * 3 must read .35 in the JSON.
    return round(min(max(rate + shift, 0.0), MAX_DROPOUT), 9)


def _dropout(architecture: AnyNetwork, phi: float) -> float | None:
    """The rate at `phi`; None where a builder sees to it."""
    if isinstance(architecture, BuiltNetwork):
        return None
    return shift_dropout(architecture.dropout, DROPOUT_PER_PHI * phi)


def member_name(base: str, index: float) -> str:
    """Name of a family's member: `efficientnet-b0` at 2 is `efficientnet-b2`."""
    return f"{re.sub(r'-b0$', '', base)}-b{index:g}"
