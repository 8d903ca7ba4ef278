"""The distinct steps of depth, width and resolution that a grid makes, and the walk near a cost.

Depth, width and resolution are rounded each for itself, so a network is one step of each. A grid
of thousands of triples has a few dozen steps, and cost grows along each dimension: all networks
near a cost lie on a surface that is found by bisection, at a small part of the networks' number.
"""

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nas.costs.metrics import MACS
from scaling_search.compound import Coefficients, ScalingError, scale
from scaling_search.shares import AXES, Shares, shares_of_ratios
from search_spaces.builder import AnyNetwork
from search_spaces.rounding import Rounding

Index = tuple[int, int, int]
"""A network as its steps of depth, width and resolution."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Values of one coefficient that round to the same network."""

    values: tuple[float, ...]
    """In ascending order."""
    ratio: float
    """Multiply-adds of the base with only this dimension scaled, over the base's."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of depth, width and resolution of a base, cheapest first."""

    base: AnyNetwork
    rounding: Rounding | None
    axes: tuple[tuple[Step, ...], tuple[Step, ...], tuple[Step, ...]]

    def network(self, index: Index) -> AnyNetwork:
        """The base at these steps."""
        values = (axis[i].values[0] for axis, i in zip(self.axes, index, strict=True))
        return scale(self.base, Coefficients(*values), 1, self.rounding, name=self.base.name)

    def triples(self, index: Index) -> list[Coefficients]:
        """All triples that make `network(index)`."""
        values = (axis[i].values for axis, i in zip(self.axes, index, strict=True))
        return [Coefficients(*triple) for triple in itertools.product(*values)]

    def num_triples(self, index: Index) -> int:
        """How many these are."""
        return math.prod(len(axis[i].values) for axis, i in zip(self.axes, index, strict=True))

    def shares(self, index: Index) -> Shares | None:
        """Measured shares; None where no dimension alone changes the multiply-adds."""
        ratios = [axis[i].ratio for axis, i in zip(self.axes, index, strict=True)]
        return None if all(ratio == 1 for ratio in ratios) else shares_of_ratios(*ratios)

    def index(self) -> Callable[[Coefficients], Index]:
        """The function from a triple of the grid to its steps."""
        depth, width, resolution = (
            {value: i for i, step in enumerate(axis) for value in step.values} for axis in self.axes
        )
        return lambda triple: (
            depth[triple.alpha],
            width[triple.beta],
            resolution[triple.gamma],
        )


def find_steps(
    base: AnyNetwork, values: Sequence[Sequence[float]], rounding: Rounding | None
) -> Steps:
    """The steps that `values` of alpha, beta and gamma, ascending, make of `base` at phi = 1."""
    depth, width, resolution = (
        _axis_steps(base, axis, numbers, rounding)
        for axis, numbers in zip(AXES, values, strict=True)
    )
    return Steps(base=base, rounding=rounding, axes=(depth, width, resolution))


def along(axis: str, value: float) -> Coefficients:
    """The coefficients that grow one dimension alone."""
    return Coefficients(*(value if axis == name else 1.0 for name in AXES))


def walk(cost: Callable[[Index], float], sizes: Index, low: Any, high: Any) -> Iterator[Index]:
    """The indices below `sizes` whose cost is within `[low, high]`, in ascending order.

    It asks for the cost of few of them. Along the last axis cost must not fall, and the ends are
    found by bisection. The others give a hint: what was too large for a shallower or a narrower
    network is too large for this one. It is only a hint, because two widths that become equal
    need no projection any more, and cost less.
    """
    depths, widths, resolutions = sizes
    stops = [resolutions] * widths
    """Of each width, how many resolutions were cheap enough at the depth before."""
    for i in range(depths):
        stop = resolutions
        for j in range(widths):

            def at(k: int, i: int = i, j: int = j) -> float:
                return cost((i, j, k))

            hint = min(stop, stops[j])
            stop = bisect_right(range(hint), high, key=at)
            if stop == hint:
                while stop < resolutions and at(stop) <= high:
                    stop += 1
            stops[j] = stop
            for k in range(bisect_left(range(stop), low, key=at), stop):
                yield i, j, k


def reach(ratio: Callable[[Coefficients], float], axis: str, bound: float, highest: Any) -> float:
    """How far a coefficient has to go for its dimension alone to cost `highest` times the base.

    Further than the formula's `bound` where it has to: stem, head and classifier do not grow with
    depth, and activations grow with width once and not squared. And only to the bound itself where
    its power of 2.5 is not enough either, because the dimension does not buy this cost (resolution
    and parameters, say, or depth and the memory of inference).
    """
    for exponent in (1, 1.25, 1.5, 2, 2.5) if bound > 1 else ():
        try:
            if ratio(along(axis, bound**exponent)) >= highest:
                return bound**exponent
        except ScalingError:  # more blocks than are supported
            break
    return bound


def thinned(steps: Sequence[int], number: int) -> Sequence[int]:
    """At most `number` steps, evenly spaced, the first and the last included."""
    if len(steps) <= number:
        return steps
    last = len(steps) - 1
    return [steps[round(i * last / (number - 1))] for i in range(number)]


def _axis_steps(
    base: AnyNetwork, axis: str, values: Sequence[float], rounding: Rounding | None
) -> tuple[Step, ...]:
    merged: dict[str, tuple[AnyNetwork, list[float]]] = {}
    for value in values:
        network = scale(base, along(axis, value), 1, rounding, name=base.name)
        merged.setdefault(network.digest, (network, []))[1].append(value)
    macs = MACS(base)
    steps = (
        Step(values=tuple(numbers), ratio=MACS(network) / macs)
        for network, numbers in merged.values()
    )
    # A base that is no multiple of the rounding's step can shrink at first: 225 px * 1.01 is 224.
    return tuple(sorted(steps, key=lambda step: (step.ratio, step.values)))
