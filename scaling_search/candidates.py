"""Which (alpha, beta, gamma) are worth a trial: a grid, built and counted before it is trained.

Rounding makes many triples one network: with repeats rounded up, every alpha in (1, 1.25] turns
EfficientNet-B0's 16 blocks into the same 23. Triples of one network are one `Candidate`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from tabulate import tabulate

from scaling_search.compound import Coefficients, ScalingError, scale
from search_spaces.architecture import Architecture
from search_spaces.cost import Cost, count
from search_spaces.rounding import Rounding

MAX_TRIPLES = 1_000_000
# The ends of the tolerance belong to it, also where a user's floats fall just short of them.
_GUARD = Fraction(1, 10**9)

Bounds = tuple[float, float]
Selection = Literal["formula", "measured"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The triples to consider. Every grid starts at its lower bound; both bounds belong to it."""

    step: float = 0.05
    """Distance of neighbouring values; the paper names none, but all its constants fit 0.05."""
    alpha: Bounds = (1.0, 2.0)
    """Bounds of the depth coefficient."""
    beta: Bounds = (1.0, 1.5)
    """Bounds of the width coefficient."""
    gamma: Bounds = (1.0, 1.5)
    """Bounds of the resolution coefficient."""
    target: float = 2.0
    """Cost of a candidate, as a multiple of the base's multiply-adds."""
    tolerance: float = 0.05
    """Largest relative distance from `target`; the paper's own 1.92 needs 4 %."""
    selection: Selection = "formula"
    """What has to be near `target`: `formula`, alpha * beta^2 * gamma^2, as in the paper, or
    `measured`, the ratio of multiply-adds of the built network. Only the product tells how cost
    grows with phi; the measured ratio tells what a trial costs."""

    def __post_init__(self) -> None:
        for label in ("alpha", "beta", "gamma"):
            low, high = getattr(self, label)
            if not 0 < low <= high < math.inf:
                raise ScalingError(f"`0 < low <= high` must hold for {label}; got {low}, {high}.")
        if not (0 < self.step < math.inf and 0 < self.target < math.inf):
            raise ScalingError(
                f"`step > 0` and `target > 0` must hold; got {self.step} and {self.target}."
            )
        if not 0 <= self.tolerance < 1:
            raise ScalingError(f"`0 <= tolerance < 1` must hold; got {self.tolerance}.")
        if self.selection not in ("formula", "measured"):
            raise ScalingError(
                f"`selection` must be 'formula' or 'measured'; got {self.selection!r}."
            )
        size = math.prod(self._size(low, high) for low, high in (self.alpha, self.beta, self.gamma))
        if size > MAX_TRIPLES:
            raise ScalingError(
                f"This grid has {size:,} triples; at most {MAX_TRIPLES:,} are supported. Choose a "
                f"larger step than {self.step:g} or closer bounds."
            )

    def triples(self) -> Iterator[Coefficients]:
        """The triples in ascending order; with `selection="formula"`, those near `target`."""
        alphas, betas, gammas = (
            self._points(low, high) for low, high in (self.alpha, self.beta, self.gamma)
        )
        # Whole numbers over one denominator: sums and products are exact, and quick.
        unit = math.lcm(*(point.denominator for point in (*alphas, *betas, *gammas)))
        lowest, highest = (bound * unit**5 for bound in self._near(self.selection == "formula"))
        for alpha, beta, gamma in (
            (a, b, c)
            for a in (int(point * unit) for point in alphas)
            for b in (int(point * unit) for point in betas)
            for c in (int(point * unit) for point in gammas)
        ):
            if lowest <= alpha * beta * beta * gamma * gamma <= highest:
                yield Coefficients(alpha / unit, beta / unit, gamma / unit)

    def admits(self, ratio: Fraction) -> bool:
        """Whether a cost ratio is near `target`."""
        low, high = self._near(True)
        return low <= ratio <= high

    def _points(self, low: float, high: float) -> list[Fraction]:
        return [_exact(low) + i * _exact(self.step) for i in range(self._size(low, high))]

    def _size(self, low: float, high: float) -> int:
        return int((_exact(high) - _exact(low)) / _exact(self.step)) + 1

    def _near(self, restricted: bool) -> tuple[Fraction, float | Fraction]:
        if not restricted:
            return Fraction(0), math.inf
        target, slack = _exact(self.target), _exact(self.tolerance) + _GUARD
        return target * (1 - slack), target * (1 + slack)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One network of the grid, with every triple that makes it."""

    architecture: Architecture
    """The base at phi = 1."""
    coefficients: Coefficients
    """The one of `triples` whose product is nearest the target (of equals, the smallest)."""
    triples: tuple[Coefficients, ...]
    """All triples that make this network, in ascending order."""
    cost: Cost
    """Counted on the built network."""
    ratio: float
    """Measured multiply-adds over the base's."""

    @property
    def product(self) -> float:
        """Nominal ratio, alpha * beta^2 * gamma^2 of `coefficients`."""
        return self.coefficients.product


def find_candidates(
    base: Architecture, grid: Grid | None = None, rounding: Rounding | None = None
) -> tuple[Candidate, ...]:
    """The distinct networks that the grid's triples make of `base` at phi = 1.

    A triple that rounds back to the base is no candidate.

    Args:
        base: The network to scale.
        grid: None: `Grid()`.
        rounding: None: as `scale` rounds.

    Returns:
        At least one candidate, in ascending order of coefficients.

    Raises:
        ScalingError: No network is left.
    """
    grid = Grid() if grid is None else grid
    merged: dict[Architecture, list[Coefficients]] = {}
    for triple in grid.triples():
        network = scale(base, triple, 1, rounding, name=base.name)
        merged.setdefault(network, []).append(triple)
    merged.pop(scale(base, Coefficients(1, 1, 1), 1, rounding, name=base.name), None)

    base_macs = count(base).macs
    found: list[Candidate] = []
    for network, triples in merged.items():
        cost = count(network)
        if grid.selection == "formula" or grid.admits(Fraction(cost.macs, base_macs)):
            found.append(_candidate(network, triples, cost, cost.macs / base_macs, grid.target))
    if not found:
        raise ScalingError(
            f"No network of the grid costs {grid.target:g} times {base.name!r} within "
            f"{grid.tolerance:.2%} ({grid.selection} cost, step {grid.step:g}). "
            "Raise the tolerance, take a smaller step, or widen the bounds."
        )
    return tuple(sorted(found, key=lambda candidate: candidate.coefficients))


def candidates_table(candidates: Iterable[Candidate]) -> str:
    """A line per candidate for the terminal; `also` counts the further triples of a network."""
    rows = [
        (
            *(f"{value:g}" for value in candidate.coefficients.values),
            f"{candidate.product:.3f}",
            f"{candidate.ratio:.3f}",
            candidate.architecture.resolution,
            sum(stage.repeats for stage in candidate.architecture.stages),
            f"{candidate.cost.params / 1e6:,.3f}",
            f"{candidate.cost.macs / 1e6:,.1f}",
            f"+{len(candidate.triples) - 1}" if len(candidate.triples) > 1 else "",
        )
        for candidate in candidates
    ]
    header = (
        *("alpha", "beta", "gamma", "nominal", "measured"),
        *("resolution", "blocks", "params (M)", "MACs (M)", "also"),
    )
    return tabulate(rows, header, colalign=("right",) * len(header), disable_numparse=True)


def _candidate(
    network: Architecture, triples: Sequence[Coefficients], cost: Cost, ratio: float, target: float
) -> Candidate:
    nearest = min(triples, key=lambda triple: (abs(triple.product - target), triple))
    alpha, beta, gamma = nearest.values
    name = f"{network.name}-a{alpha:g}-b{beta:g}-g{gamma:g}"
    return Candidate(
        architecture=replace(network, name=name),
        coefficients=nearest,
        triples=tuple(triples),
        cost=cost,
        ratio=ratio,
    )


def _exact(value: float) -> Fraction:
    """The decimal number that the user wrote: 0.05 is 1/20, not the binary float next to it."""
    return Fraction(repr(float(value)))
