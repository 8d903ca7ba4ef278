"""The F test: does a linear model explain more than a simpler one, beyond what it leaves? Pure."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

_NOTHING = 1e-20
"""Sums of squares below it are of floats, not of noise."""


class FTest(NamedTuple):
    """What a model explains beyond a simpler one, over what it leaves."""

    statistic: float
    between: int
    """Degrees of freedom of what it explains."""
    within: int
    """Degrees of freedom of what it leaves."""

    @property
    def p_value(self) -> float:
        return float(stats.f.sf(self.statistic, self.between, self.within))

    def against(self, part: "FTest") -> "FTest":
        """With the mean square that `part` explains of what this model leaves as the measure."""
        share = part.between + part.within / part.statistic
        ratio = (part.between + part.within) / share  # of that mean square to all that is left
        return FTest(self.statistic / ratio, self.between, part.between)


def f_test(null: np.ndarray, full: np.ndarray, values: np.ndarray) -> FTest | None:
    """Of what `full` explains beyond `null`; None with nothing to compare with."""
    (more, fewer), (left, rank) = (_regression(design, values) for design in (null, full))
    between, within = rank - fewer, len(values) - rank
    if min(between, within) < 1 or more <= _NOTHING:
        return None
    statistic = math.inf if left <= _NOTHING else (more - left) / between / (left / within)
    return FTest(statistic, between, within)


def _regression(design: np.ndarray, values: np.ndarray) -> tuple[float, int]:
    """Sum of squares that a regression leaves, and the rank of its design."""
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=1e-9)
    return float(((values - design @ solution) ** 2).sum()), int(rank)
