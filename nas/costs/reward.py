"""The reward of the search: accuracy against cost; pure."""

import math
from dataclasses import dataclass

from nas.cli import UserError, format_number

DEFAULT_W = -0.07
"""Doubling the cost must buy 5 % relative accuracy."""

_LEAST_W = -10.0
"""A thousandth of the reward for twice the cost; far below, rewards have no finite value."""


@dataclass(frozen=True)
class Reward:
    """ACC · (cost / T)^w (Tan & Le 2019, section 4; Tan et al. 2019, equation 2)."""

    target: float
    """T, in the unit of the cost: multiply-adds, parameters, activations or ms."""
    w: float = DEFAULT_W
    """Exponent on both sides of T."""
    hard: bool = False
    """MnasNet's hard variant: exponent 0 up to T and -1 above; `w` is not used."""

    def __post_init__(self) -> None:
        if not 0 < self.target < math.inf:
            raise UserError(
                f"T of the reward must be positive, but got {format_number(self.target)}."
            )
        if not _LEAST_W <= self.w <= 0:
            raise UserError(
                f"`--w` must be 0 or negative, or the search pays for cost, and at least "
                f"{_LEAST_W:g}; got {self.w:g}."
            )

    def __call__(self, accuracy: float, cost: float) -> float:
        """Reward of a network with `accuracy` in [0, 1] and `cost` in the unit of T."""
        exponent = self.w
        if self.hard:
            exponent = 0.0 if cost <= self.target else -1.0
        return accuracy * (cost / self.target) ** exponent
