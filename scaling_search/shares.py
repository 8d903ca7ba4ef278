"""How a scaled network divides its added cost: shares of depth, width and resolution.

Multiply-adds grow as depth * width^2 * resolution^2, so the logarithm of their growth is a sum of
three parts, and a rule of scaling is a point of a triangle (Dollár et al. 2021, section 4). The
constraint alpha * beta^2 * gamma^2 = 2 leaves these two degrees of freedom, and no other.
"""

import math
from dataclasses import dataclass

from scaling_search.compound import Coefficients, ScalingError

AXES = ("depth", "width", "resolution")


@dataclass(frozen=True, order=True)
class Shares:
    """Parts of the growth in log cost; none is negative, and they sum to 1."""

    depth: float
    width: float
    resolution: float

    def __post_init__(self) -> None:
        if not (min(self.values) >= -1e-9 and abs(sum(self.values) - 1) <= 1e-6):
            raise ScalingError(
                f"Shares of depth, width and resolution are at least 0 and sum to 1; got {self}."
            )

    @property
    def values(self) -> tuple[float, float, float]:
        return self.depth, self.width, self.resolution

    @classmethod
    def of(cls, coefficients: Coefficients) -> "Shares":
        """The shares of ln alpha, 2 ln beta and 2 ln gamma in their sum.

        Raises:
            ScalingError: A coefficient shrinks its dimension, or none grows.
        """
        alpha, beta, gamma = coefficients.values
        return shares_of_logs(math.log(alpha), 2 * math.log(beta), 2 * math.log(gamma))

    def coefficients(self, ratio: float = 2.0) -> Coefficients:
        """The coefficients whose product alpha * beta^2 * gamma^2 is `ratio`."""
        return Coefficients(
            ratio**self.depth, ratio ** (self.width / 2), ratio ** (self.resolution / 2)
        )

    def __str__(self) -> str:
        return "/".join(f"{value:.2f}" for value in self.values)


def shares_of_logs(depth: float, width: float, resolution: float) -> Shares:
    """Shares from the three parts of a growth in log cost.

    Raises:
        ScalingError: A part is negative, or all are 0.
    """
    parts = depth, width, resolution
    if min(parts) < 0 or sum(parts) <= 0:
        raise ScalingError(
            f"Parts of a growth in cost must not be negative, nor all 0; got {parts}."
        )
    return Shares(*(part / sum(parts) for part in parts))


PUBLISHED = Shares.of(Coefficients(1.2, 1.1, 1.15))
"""EfficientNet's constants (Tan & Le 2019): .279, .292, .428."""
FAST = Shares(0.1, 0.8, 0.1)
"""Fast compound scaling: activations, and so time, grow least (Dollár et al. 2021, alpha = .8)."""

RULES: dict[str, Shares] = {
    "published": PUBLISHED,
    "fast": FAST,
    "depth": Shares(1.0, 0.0, 0.0),
    "width": Shares(0.0, 1.0, 0.0),
    "resolution": Shares(0.0, 0.0, 1.0),
}
"""Rules of scaling that every fit is compared with, by name."""


def shares_of_ratios(depth: float, width: float, resolution: float) -> Shares:
    """Shares from the cost ratios of three networks, each with one dimension scaled alone.

    What rounding makes shrink where the whole grows has share 0. Where the whole shrinks, the
    shares are of what it saves.

    Raises:
        ScalingError: No ratio differs from 1.
    """
    parts = [math.log(ratio) for ratio in (depth, width, resolution)]
    sign = -1 if sum(parts) < 0 else 1
    return shares_of_logs(*(max(0.0, sign * part) for part in parts))
