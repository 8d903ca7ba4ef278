"""Accuracy against cost as points in the plane: front and hypervolume; pure."""

import itertools
import math
from collections.abc import Iterable

Point = tuple[float, float]
"""Cost and accuracy."""


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both cost and accuracy, by cost."""
    front: list[Point] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def hypervolume(points: Iterable[Point], low: float, high: float) -> float:
    """Share of the box above accuracy 0, from cost `low` to `high`, that the points dominate.

    Cost counts by its logarithm, so this is the accuracy that a budget buys, averaged over budgets
    from `low` to `high`; the reference point is accuracy 0 at cost `high`.

    Args:
        points: Costs and accuracies in [0, 1]; those dearer than `high` add nothing.
        low: Least cost, above 0; cheaper points count as if they cost this.
        high: Cost of the reference point, above `low`.
    """
    assert 0 < low < high
    front = pareto_front((max(cost, low), accuracy) for cost, accuracy in points if cost <= high)
    steps = itertools.pairwise([*front, (high, 0.0)])
    area = sum(accuracy * math.log(end / cost) for (cost, accuracy), (end, _) in steps)
    return area / math.log(high / low)


def spread_over(number: int, length: int) -> list[int]:
    """At most `number` indices spread evenly over `length`, both ends included."""
    if number >= length:
        return list(range(length))
    if number == 1:
        return [length // 2]
    return [round(i * (length - 1) / (number - 1)) for i in range(number)]
