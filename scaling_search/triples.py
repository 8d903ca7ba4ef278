"""The grid of (alpha, beta, gamma): which triples there are, and which the formula admits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from scaling_search.compound import Coefficients, ScalingError

MAX_TRIPLES = 1_000_000
"""Triples that are looked at one by one, or that networks near the target may have in all."""
MAX_VALUES = 10_000
"""Values of one coefficient: each takes a network to find its step."""
# The ends of the tolerance belong to it, also where a user's floats fall just short of them.
_GUARD = Fraction(1, 10**9)
COEFFICIENTS = ("alpha", "beta", "gamma")

Bounds = tuple[float, float]
Selection = Literal["formula", "measured"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The triples to consider. A grid starts at its lower bounds; both bounds belong to it.

    Bounds of None are 1 and the largest value of use: by the formula, or, where cost is measured,
    as far as the dimension alone takes the base to `target`.
    """

    step: float = 0.05
    """Distance of neighbouring values; the paper names none, but all its constants fit 0.05."""
    alpha: Bounds | None = None
    """Bounds of the depth coefficient."""
    beta: Bounds | None = None
    """Bounds of the width coefficient."""
    gamma: Bounds | None = None
    """Bounds of the resolution coefficient."""
    target: float = 2.0
    """Cost of a candidate, as a multiple of the base's."""
    tolerance: float = 0.05
    """Largest relative distance from `target`; the paper's own 1.92 needs 4 %."""
    selection: Selection = "measured"
    """What has to be near `target`: `measured`, the cost of the built network over the base's, or
    `formula`, alpha * beta^2 * gamma^2, as in the paper. The formula misprices depth most: of B0
    it admits networks at 1.89 to 3.25 times the multiply-adds."""

    def __post_init__(self) -> None:
        if not (0 < self.step < math.inf and 0 < self.target < math.inf):
            raise ScalingError(
                f"`step > 0` and `target > 0` must hold; got {self.step} and {self.target}."
            )
        if not 0 <= self.tolerance < 1:
            raise ScalingError(f"`0 <= tolerance < 1` must hold; got {self.tolerance}.")
        for axis in COEFFICIENTS:
            low, high = getattr(self, axis) or (1.0, 1.0)
            if not 0 < low <= high < math.inf:
                raise ScalingError(f"`0 < low <= high` must hold for {axis}; got {low}, {high}.")
        if self.selection not in ("formula", "measured"):
            raise ScalingError(
                f"`selection` must be 'formula' or 'measured'; got {self.selection!r}."
            )
        for axis in COEFFICIENTS:
            if (values := self._size(axis)) > MAX_VALUES:
                raise self.too_many(values, MAX_VALUES, f"values of {axis}")
        if self.selection == "formula" and self.size > MAX_TRIPLES:
            raise self.too_many(self.size, MAX_TRIPLES, "triples")

    @property
    def size(self) -> int:
        """Triples within the bounds."""
        return math.prod(map(self._size, COEFFICIENTS))

    def too_many(self, number: int, most: int, what: str) -> ScalingError:
        """The error of a grid with `number` of something, more than `most`."""
        return ScalingError(
            f"This grid has {number:,} {what}; at most {most:,} are supported. Choose a larger "
            f"step than {self.step:g} or closer bounds."
        )

    @property
    def near(self) -> tuple[Fraction, Fraction]:
        """Least and largest cost of a candidate over the base's."""
        target, slack = _exact(self.target), _exact(self.tolerance) + _GUARD
        return target * (1 - slack), target * (1 + slack)

    def bounds(self, axis: str) -> Bounds:
        """Bounds of `alpha`, `beta` or `gamma`; where none are set, the formula's."""
        if (bounds := getattr(self, axis)) is not None:
            return bounds
        lows = {name: (getattr(self, name) or (1.0,))[0] for name in COEFFICIENTS}
        largest = float(self.near[1]) / Coefficients(**lows).product
        return 1.0, max(1.0, largest if axis == "alpha" else math.sqrt(largest))

    def values(self) -> list[list[float]]:
        """The values of alpha, of beta and of gamma, ascending; the decimals that people write."""
        return [[float(point) for point in self._points(axis)] for axis in COEFFICIENTS]

    def triples(self) -> Iterator[Coefficients]:
        """The triples in ascending order; with `selection="formula"`, those near `target`."""
        alphas, betas, gammas = map(self._points, COEFFICIENTS)
        # Whole numbers over one denominator: sums and products are exact, and quick.
        unit = math.lcm(*(point.denominator for point in (*alphas, *betas, *gammas)))
        near = self.near if self.selection == "formula" else (Fraction(0), math.inf)
        lowest, highest = (bound * unit**5 for bound in near)
        for alpha, beta, gamma in (
            (a, b, c)
            for a in (int(point * unit) for point in alphas)
            for b in (int(point * unit) for point in betas)
            for c in (int(point * unit) for point in gammas)
        ):
            if lowest <= alpha * beta * beta * gamma * gamma <= highest:
                yield Coefficients(alpha / unit, beta / unit, gamma / unit)

    def _points(self, axis: str) -> list[Fraction]:
        low = _exact(self.bounds(axis)[0])
        return [low + i * _exact(self.step) for i in range(self._size(axis))]

    def _size(self, axis: str) -> int:
        low, high = map(_exact, self.bounds(axis))
        return int((high - low) / _exact(self.step)) + 1


def _exact(value: float) -> Fraction:
    """The decimal number that the user wrote: 0.05 is 1/20, not the binary float next to it."""
    return Fraction(repr(float(value)))
