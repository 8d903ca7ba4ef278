"""Rounding of widths, depths and resolutions, as in the released EfficientNet code.

Source: tensorflow/tpu, `efficientnet_model.py` (`round_filters`, `round_repeats`).
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

# In binary floats 1.1 * 10 is 11.000000000000002, whose ceiling must be 11, and 400 * 1.15 is
# 459.99999999999994, which must round as 460.
_FLOAT_GUARD = 1e-9


def round_width(width: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `width`, never below 90 % of it nor below `divisor`."""
    rounded = max(divisor, int(width + divisor / 2 + _FLOAT_GUARD) // divisor * divisor)
    return rounded if rounded >= 0.9 * width - _FLOAT_GUARD else rounded + divisor


@dataclass(frozen=True)
class Rounding:
    """How scaled widths, depths and resolutions become integers."""

    width_divisor: int = 8
    """Widths are multiples of this, by `round_width`."""
    depth: Literal["ceil", "round"] = "ceil"
    """`ceil` as published; `round` (half up) where depth shrinks, as in TinyNet."""
    resolution_divisor: int = 8
    """Resolutions are rounded, half up, to a multiple of this many pixels."""

    def __post_init__(self) -> None:
        if self.width_divisor < 1 or self.resolution_divisor < 1:
            raise ValueError(f"Divisors must be at least 1; got {self}.")
        if self.depth not in ("ceil", "round"):
            raise ValueError(f"`depth` must be 'ceil' or 'round'; got {self.depth!r}.")

    @classmethod
    def for_base(
        cls,
        resolution: int,
        widths: tuple[int, ...],
        depth: Literal["ceil", "round"] = "ceil",
    ) -> Self:
        """Steps that fit a base network.

        EfficientNet rounds 224 px to 8 px, 1/28 of the base, and widths to 8. A smaller image
        takes the largest power of two not above `resolution` / 28 (64 px: 2, 32 px: 1), a base
        whose widths are no multiples of 8 the largest power of two that divides them all.
        """
        pixels = 1
        while pixels < 8 and 2 * pixels * 28 <= resolution:
            pixels *= 2
        divisor = 8
        while any(width % divisor for width in widths):
            divisor //= 2
        return cls(divisor, depth, pixels)

    def round_depth(self, repeats: float) -> int:
        """Whole repeats, at least one."""
        if self.depth == "ceil":
            return max(1, math.ceil(repeats - _FLOAT_GUARD))
        return max(1, math.floor(repeats + 0.5 + _FLOAT_GUARD))

    def round_resolution(self, pixels: float) -> int:
        """Whole pixels, at least one step."""
        step = self.resolution_divisor
        return max(step, math.floor(pixels / step + 0.5 + _FLOAT_GUARD) * step)
