"""The objective of the search: accuracy against multiply-adds; pure."""

import math
from dataclasses import dataclass

from nas.cli import UserError


@dataclass(frozen=True)
class Reward:
    """ACC · (MACs / T)^w (Tan & Le 2019, section 4; Tan et al. 2019, equation 2)."""

    target_macs: float
    """T, in multiply-adds."""
    w: float = -0.07
    """Exponent on both sides of T; doubling the cost must buy 5 % relative accuracy."""
    hard: bool = False
    """MnasNet's hard variant: exponent 0 up to T and -1 above; `w` is not used."""

    def __post_init__(self) -> None:
        if not 0 < self.target_macs < math.inf:
            raise UserError(f"`--target-flops` must be positive, but got {self.target_macs:g}.")
        if not -math.inf < self.w <= 0:
            raise UserError(
                f"`--w` must be 0 or negative, or the search pays for cost; got {self.w:g}."
            )

    def __call__(self, accuracy: float, macs: int) -> float:
        """Reward of a network with `accuracy` in [0, 1] and `macs` multiply-adds."""
        exponent = self.w
        if self.hard:
            exponent = 0.0 if macs <= self.target_macs else -1.0
        return accuracy * (macs / self.target_macs) ** exponent
