"""The published EfficientNets, B0 to B8 and L2, and TinyNets, A to E, as multiples of B0.

The released factors are no powers of (1.2, 1.1, 1.15), and the paper names no phi for them: B2 is
the network at phi = 1, B3 nearly that at 2, and the large ones are shallower and wider than the
formula. `Released.implied_phi` shows it. Source: tensorflow/tpu, `efficientnet_builder.py`.

TinyNets (Han et al. 2020) are what was found for budgets below B0's, where the formula does badly:
they keep more depth, and narrow their widths instead. Source: timm, `tinynet_a` ... `tinynet_e`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import overload

from scaling_search.compound import (
    Coefficients,
    N,
    member_name,
    scale_by,
    scale_resolution,
    shift_dropout,
)
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import efficientnet_b0

PAPER = Coefficients(1.2, 1.1, 1.15)
"""The constants found for B0 (Tan & Le 2019, section 3.3); their product is 1.92027."""


@dataclass(frozen=True)
class Released:
    """Published factors of one network, over EfficientNet-B0."""

    width: float
    depth: float
    resolution: int
    """Side of the input in pixels, where B0 has 224."""
    dropout: float
    """Rate before the classifier, where B0 has .2."""

    @property
    def resolution_factor(self) -> float:
        return self.resolution / RELEASED["B0"].resolution

    @property
    def factors(self) -> tuple[float, float, float]:
        """Depth, width and resolution."""
        return self.depth, self.width, self.resolution_factor

    def implied_phi(self, coefficients: Coefficients = PAPER) -> tuple[float, float, float]:
        """The phi at which the coefficients give this depth, this width and this resolution.

        NaN where a coefficient is 1, and so no phi changes that dimension.
        """
        depth, width, resolution = (
            math.log(factor) / math.log(constant) if constant != 1 else math.nan
            for factor, constant in zip(self.factors, coefficients.values, strict=True)
        )
        return depth, width, resolution


RELEASED: dict[str, Released] = {
    "B0": Released(1.0, 1.0, 224, 0.2),
    "B1": Released(1.0, 1.1, 240, 0.2),
    "B2": Released(1.1, 1.2, 260, 0.3),
    "B3": Released(1.2, 1.4, 300, 0.3),
    "B4": Released(1.4, 1.8, 380, 0.4),
    "B5": Released(1.6, 2.2, 456, 0.4),
    "B6": Released(1.8, 2.6, 528, 0.5),
    "B7": Released(2.0, 3.1, 600, 0.5),
    "B8": Released(2.2, 3.6, 672, 0.5),
    "L2": Released(4.3, 5.3, 800, 0.5),
}

TINYNETS: dict[str, Released] = {
    "A": Released(1.0, 1.2, 192, 0.2),
    "B": Released(0.75, 1.1, 188, 0.2),
    "C": Released(0.54, 0.85, 184, 0.2),
    "D": Released(0.54, 0.695, 152, 0.2),
    "E": Released(0.51, 0.6, 106, 0.2),
}
"""Of 337 M to 24 M multiply-adds, where B0 has 386 M."""


def released_rounding(base: AnyNetwork) -> Rounding:
    """Steps that fit `base`, of 4 pixels at most, which all published resolutions are multiples of
    (B2 has 260)."""
    rounding = Rounding.for_base(base.resolution, base.widths)
    return replace(rounding, resolution_divisor=min(4, rounding.resolution_divisor))


@overload
def release(
    member: str, base: None = None, rounding: Rounding | None = None, name: str | None = None
) -> Architecture: ...
@overload
def release(
    member: str, base: N, rounding: Rounding | None = None, name: str | None = None
) -> N: ...
def release(
    member: str,
    base: AnyNetwork | None = None,
    rounding: Rounding | None = None,
    name: str | None = None,
) -> AnyNetwork:
    """A published network, or `base` scaled as that one was scaled from B0.

    Args:
        member: Key of `RELEASED`.
        base: None: EfficientNet-B0. Another base takes the same ratios, and its dropout the same
            shift.
        rounding: None: `released_rounding`.
        name: None: from the base's, `efficientnet-b2`.
    """
    factors = RELEASED[member]
    base = efficientnet_b0() if base is None else base
    rounding = released_rounding(base) if rounding is None else rounding
    return scale_by(
        base,
        depth=factors.depth,
        width=factors.width,
        resolution=scale_resolution(base.resolution, factors.resolution_factor, rounding),
        rounding=rounding,
        dropout=_dropout(base, factors),
        name=_name(base.name, member) if name is None else name,
    )


def tinynet(member: str) -> Architecture:
    """A TinyNet: repeats rounded to the nearest, the stem unscaled, the head never below 1280.

    Args:
        member: Key of `TINYNETS`.
    """
    factors, base = TINYNETS[member], efficientnet_b0()
    network = scale_by(
        base,
        depth=factors.depth,
        width=factors.width,
        resolution=factors.resolution,
        rounding=Rounding(depth="round"),
        name=f"tinynet-{member.lower()}",
    )
    head_width = max(base.head_width, network.head_width)
    return replace(network, stem=base.stem, head_width=head_width)


def nearest_tinynet(ratio: float) -> str:
    """The member of `TINYNETS` whose multiply-adds, over B0's, are nearest `ratio`."""
    distances = {m: abs(math.log(r / ratio)) for m, r in tinynet_ratios().items()}
    return min(distances, key=lambda member: distances[member])


@cache
def tinynet_ratios() -> Mapping[str, float]:
    """Multiply-adds of every TinyNet over EfficientNet-B0's."""
    base = count(efficientnet_b0()).macs
    return {member: count(tinynet(member)).macs / base for member in TINYNETS}


def _dropout(base: AnyNetwork, factors: Released) -> float | None:
    """The base's rate, shifted as from B0 to that network; None: the base has none to shift."""
    shift = factors.dropout - RELEASED["B0"].dropout
    return None if base.dropout is None else shift_dropout(base.dropout, shift)


def _name(base: str, member: str) -> str:
    if member.startswith("B"):
        return member_name(base, int(member[1:]))
    return f"{member_name(base, 0).removesuffix('-b0')}-{member.lower()}"
