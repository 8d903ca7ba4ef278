"""How finely a base can be scaled: a grid finds no optimum between networks that do not exist.

EfficientNet-B0 has stages of one to four blocks. Rounded up, every alpha in (1, 1.25] is one
network of 23 blocks, and within twice the cost nothing lies between it and the base: no candidate
has a share of depth between 0 and that network's, whatever the step of the grid.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from nas.costs.metrics import MACS
from scaling_search.compound import Coefficients, default_rounding, finer_roundings, scale
from scaling_search.shares import AXES
from scaling_search.steps import along, reach
from scaling_search.triples import COEFFICIENTS, Grid
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork
from search_spaces.rounding import Rounding

FEWEST_STEPS = 3
"""Scaled values of a dimension below which nothing is resolved."""
LARGEST_GAP = 1 / 3
"""Largest distance of neighbouring shares that counts as resolved."""
FINENESS = 0.01
"""Distance of the coefficients that are looked at."""
COARSE_FINENESS = 0.05
"""The same for a user's builder, which takes time to build: the grid's own step."""


class DistinctStep(NamedTuple):
    """Values of a coefficient, `FINENESS` apart, that are one network."""

    low: float
    high: float
    ratio: float
    """Multiply-adds with this dimension scaled alone, over the base's."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which shares of one dimension there are."""

    axis: str
    steps: tuple[DistinctStep, ...]
    target: float

    @property
    def gap(self) -> tuple[float, float]:
        """The two neighbouring shares that are farthest apart."""
        found = sorted({0.0, 1.0, *map(self.share, self.steps)})
        return max(pairwise(found), key=lambda pair: pair[1] - pair[0])

    def share(self, step: DistinctStep) -> float:
        """Part of the growth that a step takes; within [0, 1], for the tolerance allows more."""
        return min(1.0, max(0.0, math.log(step.ratio) / math.log(self.target)))

    @property
    def fine(self) -> bool:
        low, high = self.gap
        return len(self.steps) >= FEWEST_STEPS and high - low <= LARGEST_GAP

    def describe(self) -> str:
        """`6 depths, no share of depth between 0.00 and 0.56`."""
        low, high = self.gap
        number = len(self.steps)
        return (
            f"{number} {self.axis}{'' if number == 1 else 's'}, no share of {self.axis} between "
            f"{low:.2f} and {high:.2f}"
        )


def distinct_steps(
    base: AnyNetwork, axis: str, ratio: float, rounding: Rounding | None = None
) -> list[DistinctStep]:
    """The distinct values of a dimension, besides the base's, within `ratio` times its cost.

    Args:
        base: The network to scale.
        axis: `depth`, `width` or `resolution`.
        ratio: Multiply-adds with this dimension scaled alone, at most.
        rounding: None: as `scale` rounds.
    """
    macs = MACS(base)

    def network(coefficients: Coefficients) -> AnyNetwork:
        return scale(base, coefficients, 1, rounding)

    def cost(coefficients: Coefficients) -> float:
        return MACS(network(coefficients)) / macs

    per_unit = round(1 / (FINENESS if isinstance(base, Architecture) else COARSE_FINENESS))

    def value(index: int) -> float:
        return (per_unit + index) / per_unit

    @cache
    def digest(index: int) -> str:
        return network(along(axis, value(index))).digest

    bound = reach(cost, axis, ratio if axis == "depth" else math.sqrt(ratio), ratio)
    indices = range(1, int((bound - 1) * per_unit) + 1)
    end = 1 + bisect_right(indices, ratio, key=lambda i: cost(along(axis, value(i))))
    found: list[DistinctStep] = []
    start = _end_of(0, end, digest)
    while start < end:
        stop = _end_of(start, end, digest)
        ratio_here = cost(along(axis, value(start)))
        found.append(DistinctStep(value(start), value(stop - 1), ratio_here))
        start = stop
    return found


def resolvability(
    base: AnyNetwork, grid: Grid | None = None, rounding: Rounding | None = None
) -> list[str]:
    """What the grid cannot resolve, with the numbers, and what would resolve it, with its numbers.

    A dimension is resolved by at least `FEWEST_STEPS` scaled values, and shares not farther apart
    than `LARGEST_GAP`. Of a user's builder only depth is looked at: each network has to be built.
    What the grid's bounds keep at one value is not asked to resolve anything.

    Returns:
        Two lines for each dimension that is not resolved.
    """
    grid = Grid() if grid is None else grid
    rounding = default_rounding(base, 1) if rounding is None else rounding
    if grid.target * (1 - grid.tolerance) <= 1:
        return []
    lines: list[str] = []
    for name, axis in zip(COEFFICIENTS, AXES, strict=True):
        low, high = getattr(grid, name) or (1.0, math.inf)
        if low == high or (axis != "depth" and not isinstance(base, Architecture)):
            continue
        now = _coverage(base, axis, grid, rounding)
        if not now.fine:
            lines += [_problem(name, now, base), _remedies(base, axis, grid, rounding)]
    return lines


def _coverage(base: AnyNetwork, axis: str, grid: Grid, rounding: Rounding) -> Coverage:
    steps = distinct_steps(base, axis, float(grid.near[1]), rounding)
    return Coverage(axis=axis, steps=tuple(steps), target=grid.target)


def _problem(name: str, now: Coverage, base: AnyNetwork) -> str:
    line = f"{name} is coarse: {base.name} at x{now.target:g} has {now.describe()}"
    _, high = now.gap
    beyond = [step for step in now.steps if now.share(step) == high]
    if not beyond:
        return line
    step = beyond[0]
    if step.low == step.high:
        made = f"{name} {step.low:g} makes the next network"
    else:
        made = f"every {name} from {step.low:g} to {step.high:g} is one network"
    return f"{line}; {made}, of x{step.ratio:.2f} multiply-adds"


def _remedies(base: AnyNetwork, axis: str, grid: Grid, rounding: Rounding) -> str:
    tried = [
        (flag, _coverage(base, axis, grid, finer))
        for flag, finer in finer_roundings(base, rounding).items()
        if flag.startswith(f"--{axis}")
    ]
    for factor in (2, 4):
        wider = replace(grid, target=factor * grid.target)
        larger = _coverage(base, axis, wider, rounding)
        if larger.fine or factor == 4:
            tried.append((f"--ratio {wider.target:g}", larger))
            break
    offers = (
        f"{flag} ({found.describe()}{'' if found.fine else ': still coarse'})"
        for flag, found in tried
    )
    return f"remedy for {axis}: {'; '.join(offers)}"


def _end_of(start: int, end: int, digest: Callable[[int], str]) -> int:
    """The first index after `start`, up to `end`, that is another network.

    Most steps are short, so it is looked for near `start` first.
    """
    reach = 1
    while start + reach < end and digest(start + reach) == digest(start):
        reach *= 2
    beyond = range(start + reach // 2 + 1, min(start + reach, end))
    return beyond.start + bisect_left(beyond, True, key=lambda i: digest(i) != digest(start))
