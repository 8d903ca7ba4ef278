"""Which (alpha, beta, gamma) are worth a trial: a grid, built and costed before it is trained.

Rounding makes many triples one network: with repeats rounded up, every alpha in (1, 1.25] turns
EfficientNet-B0's 16 blocks into the same 23. Triples of one network are one `Candidate`, and what
has to be twice the base's is the cost of the built network, not the formula's.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from tabulate import tabulate

from nas.costs.metrics import MACS, Metric
from scaling_search.compound import Coefficients, ScalingError, scale
from scaling_search.shares import AXES, PUBLISHED, Shares, shares_of_ratios
from scaling_search.solve import is_arithmetic
from scaling_search.steps import Index, Steps, find_steps, reach, thinned, walk
from scaling_search.triples import COEFFICIENTS, MAX_TRIPLES, Grid
from scaling_search.triples import Selection as Selection
from search_spaces.builder import AnyNetwork
from search_spaces.cost import Cost, count
from search_spaces.rounding import Rounding

COARSE_STEPS = 10
"""Steps of depth, and of width, that are combined where costing one network takes long."""
FINE_STEPS = 64
"""The same by arithmetic, of a grid with more than `MAX_TRIPLES` triples: a larger `--ratio`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One network of the grid, with every triple that makes it."""

    architecture: AnyNetwork
    """The base at phi = 1."""
    coefficients: Coefficients
    """The one of `triples` whose product is nearest the target (of equals, the smallest)."""
    triples: tuple[Coefficients, ...]
    """All triples that make this network, in ascending order."""
    cost: Cost
    """Counted on the built network."""
    ratio: float
    """Cost over the base's, in the metric of the search; measured, not the formula's."""
    shares: Shares
    """Measured shares in the growth of its multiply-adds; the same for all `triples`."""

    @property
    def product(self) -> float:
        """Nominal ratio, alpha * beta^2 * gamma^2 of `coefficients`."""
        return self.coefficients.product


def find_candidates(
    base: AnyNetwork,
    grid: Grid | None = None,
    rounding: Rounding | None = None,
    metric: Metric = MACS,
) -> tuple[Candidate, ...]:
    """The distinct networks that the grid's triples make of `base` at phi = 1, near its target.

    A triple that rounds back to the base is no candidate.

    By arithmetic, every network of the grid near the target is found. Where a cost has conditions
    (latency, memory) or the base is a user's builder, one network takes up to a second: then at
    most `COARSE_STEPS` depths and as many widths are combined, evenly spaced up to what each alone
    may cost, and the resolutions of each pair are found by bisection; at most some 300 networks.
    By arithmetic it is `FINE_STEPS`, and only where the grid has more than `MAX_TRIPLES` triples.

    Args:
        base: The network to scale.
        grid: None: `Grid()`.
        rounding: None: as `scale` rounds.
        metric: The cost that has to be near the grid's target.

    Returns:
        At least one candidate, in ascending order of coefficients.

    Raises:
        ScalingError: No network is left, or the formula is to stand for another cost than MACs.
    """
    grid = Grid() if grid is None else grid
    search = _Search(base=base, rounding=rounding, metric=metric)
    chosen = search.by_formula(grid) if grid.selection == "formula" else search.measured(grid)
    merged: dict[str, _Merged] = {}
    for index, triples in chosen.triples.items():
        network = chosen.steps.network(index)
        # A user's builder may round so that networks of different steps are equal.
        merged.setdefault(network.digest, _Merged(index, network, [])).triples.extend(triples)
    merged.pop(scale(base, Coefficients(1, 1, 1), 1, rounding).digest, None)
    if not merged:
        raise ScalingError(
            f"No network of the grid costs {grid.target:g} times {base.name!r} within "
            f"{grid.tolerance:.2%} ({chosen.description}). Raise the tolerance, take a smaller "
            "step, or widen the bounds."
        )
    found = [search.candidate(chosen.steps, *entry, grid.target) for entry in merged.values()]
    return tuple(sorted(found, key=lambda candidate: candidate.coefficients))


def spread(candidates: Sequence[Candidate], number: int) -> tuple[Candidate, ...]:
    """At most `number` candidates, spread over the triangle of their shares.

    The first are the one nearest the published shares, and those with most depth, most width and
    most resolution; then always the one farthest from all chosen (farthest-point sampling,
    Gonzalez 1985). There is no randomness: of equals the first is taken.

    Raises:
        ScalingError: `number` is below 1.
    """
    if number < 1:
        raise ScalingError(f"`number >= 1` must hold; got {number}.")
    points = [candidate.shares.values for candidate in candidates]
    everyone = range(len(points))
    if number >= len(points):
        return tuple(candidates)
    chosen = [min(everyone, key=lambda i: math.dist(points[i], PUBLISHED.values))]
    for axis in range(3):
        extreme = max(everyone, key=lambda i, axis=axis: points[i][axis])
        if extreme not in chosen and len(chosen) < number:
            chosen.append(extreme)
    gaps = [min(math.dist(point, points[i]) for i in chosen) for point in points]
    while len(chosen) < number:
        farthest = max((i for i in everyone if i not in chosen), key=gaps.__getitem__)
        chosen.append(farthest)
        gaps = [min(gaps[i], math.dist(points[i], points[farthest])) for i in everyone]
    return tuple(candidates[i] for i in sorted(chosen))


def candidates_table(candidates: Iterable[Candidate]) -> str:
    """A line per candidate for the terminal; `also` counts the further triples of a network.

    `shares` are the measured ones of depth, width and resolution; `-` stands for the blocks of a
    user's own builder, which nobody knows.
    """
    rows = [
        (
            *(f"{value:g}" for value in candidate.coefficients.values),
            f"{candidate.product:.3f}",
            f"{candidate.ratio:.3f}",
            str(candidate.shares),
            candidate.architecture.resolution,
            candidate.architecture.num_blocks or "-",
            f"{candidate.cost.params / 1e6:,.3f}M",
            f"{candidate.cost.macs / 1e6:,.1f}M",
            f"+{len(candidate.triples) - 1}" if len(candidate.triples) > 1 else "",
        )
        for candidate in candidates
    ]
    header = (
        *("alpha", "beta", "gamma", "nominal", "measured", "shares"),
        *("px", "blocks", "params", "MACs", "also"),
    )
    return tabulate(rows, header, colalign=("right",) * len(header), disable_numparse=True)


class _Merged(NamedTuple):
    at: Index
    network: AnyNetwork
    triples: list[Coefficients]


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What a search found near the target, equal networks not yet merged."""

    steps: Steps
    triples: dict[Index, list[Coefficients]]
    description: str
    """Of the search, for the error where it found nothing."""


@dataclass(frozen=True, kw_only=True)
class _Search:
    base: AnyNetwork
    rounding: Rounding | None
    metric: Metric

    @cached_property
    def base_cost(self) -> float:
        return self.metric(self.base)

    def ratio(self, network: AnyNetwork) -> float:
        return self.metric(network) / self.base_cost

    def by_formula(self, grid: Grid) -> _Chosen:
        if self.metric.name != MACS.name:
            raise ScalingError(
                "alpha * beta^2 * gamma^2 is a formula for multiply-adds; it says nothing of "
                f"{self.metric.name}. Select candidates by the measured cost."
            )
        steps = find_steps(self.base, grid.values(), self.rounding)
        index, chosen = steps.index(), dict[Index, list[Coefficients]]()
        for triple in grid.triples():
            chosen.setdefault(index(triple), []).append(triple)
        description = f"by the formula, step {grid.step:g}"
        return _Chosen(steps=steps, triples=chosen, description=description)

    def measured(self, grid: Grid) -> _Chosen:
        low, high = grid.near
        grid = self._reaching(grid)
        steps = find_steps(self.base, grid.values(), self.rounding)
        known: dict[Index, float] = {}

        def ratio(index: Index) -> float:
            if index not in known:
                known[index] = self.ratio(steps.network(index))
            return known[index]

        depths, widths = self._looked_at(grid, steps, ratio)
        near = walk(
            lambda index: ratio((depths[index[0]], widths[index[1]], index[2])),
            (len(depths), len(widths), len(steps.axes[2])),
            low,
            high,
        )
        indices = [(depths[i], widths[j], k) for i, j, k in near]
        if (number := sum(map(steps.num_triples, indices))) > MAX_TRIPLES:
            raise grid.too_many(number, MAX_TRIPLES, f"triples near x{grid.target:g}")
        chosen = {index: steps.triples(index) for index in indices}
        nearest = min(known.values(), key=lambda value: abs(math.log(value / grid.target)))
        description = (
            f"measured {self.metric.name}, step {grid.step:g}; nearest of {len(known)} networks "
            f"costs {nearest:.3g} times"
        )
        return _Chosen(steps=steps, triples=chosen, description=description)

    def _looked_at(
        self, grid: Grid, steps: Steps, ratio: Callable[[Index], float]
    ) -> tuple[Sequence[int], Sequence[int]]:
        """The steps of depth and of width to combine: all, or few where that takes long."""
        depths, widths = range(len(steps.axes[0])), range(len(steps.axes[1]))
        number = FINE_STEPS if is_arithmetic(self.base, self.metric) else COARSE_STEPS
        if number == FINE_STEPS and grid.size <= MAX_TRIPLES:
            return depths, widths
        _, high = grid.near
        affordable_depths = bisect_right(depths, high, key=lambda i: ratio((i, 0, 0)))
        affordable_widths = bisect_right(widths, high, key=lambda j: ratio((0, j, 0)))
        return (
            thinned(depths[:affordable_depths], number),
            thinned(widths[:affordable_widths], number),
        )

    def _reaching(self, grid: Grid) -> Grid:
        """The grid with bounds as far as each dimension alone goes."""

        def ratio(coefficients: Coefficients) -> float:
            return self.ratio(scale(self.base, coefficients, 1, self.rounding))

        bounds = {
            name: (1.0, reach(ratio, axis, grid.bounds(name)[1], grid.near[1]))
            for name, axis in zip(COEFFICIENTS, AXES, strict=True)
            if getattr(grid, name) is None
        }
        return replace(grid, **bounds)

    def candidate(
        self,
        steps: Steps,
        index: Index,
        network: AnyNetwork,
        triples: Sequence[Coefficients],
        target: float,
    ) -> Candidate:
        nearest = min(triples, key=lambda triple: (abs(triple.product - target), triple))
        alpha, beta, gamma = nearest.values
        name = f"{network.name}-a{alpha:g}-b{beta:g}-g{gamma:g}"
        return Candidate(
            architecture=replace(network, name=name),
            coefficients=nearest,
            triples=tuple(sorted(triples)),
            cost=count(network),
            ratio=self.ratio(network),
            shares=steps.shares(index) or shares_of_ratios(alpha, beta**2, gamma**2),
        )
