"""Which phi gives a wanted cost: the formula says log(target / cost) / log 2, rounding disagrees.

Along phi the cost is a staircase: whole blocks, widths in steps of 8, whole pixels. It rises with
phi but for rare steps, such as two widths that become equal and need no projection any more. So
the step at the target is found by bisection, and the networks around it are looked at as well.

phi is a whole number of ten-thousandths. Between them lie networks that the ninth decimal of phi
decides, where several widths reach their next step at once; nobody means those.
"""

import math
from dataclasses import dataclass, field, replace

from nas.costs.metrics import Metric
from scaling_search.compound import Coefficients, ScalingError, scale
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork
from search_spaces.rounding import Rounding

MEASUREMENTS = 12
"""Networks that a solution may measure, where costing one takes seconds."""
CLOSE = 0.005
"""Relative distance from the target at which nothing more is measured."""
_STRIDE = math.log(4)
"""Largest step of the nominal log cost between measurements: a far too large network is not run."""
_DIGITS = 4
"""Decimals of phi."""
_UNITS = 10**_DIGITS
_AROUND = range(-_UNITS // 10, _UNITS // 10 + 1, _UNITS // 200)
"""The look around the step: .1 of phi on either side."""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A network of a wanted cost."""

    phi: float
    """Of all phi that make this network, one with few digits."""
    architecture: AnyNetwork
    cost: float
    """Measured, in the metric's unit."""
    target: float
    """What was asked for."""

    @property
    def ratio(self) -> float:
        """Cost over target."""
        return self.cost / self.target


def scale_to(
    base: AnyNetwork,
    coefficients: Coefficients,
    target: float,
    metric: Metric,
    rounding: Rounding | None = None,
    *,
    at_most: bool = False,
    name: str | None = None,
    measurements: int | None = None,
) -> Scaled:
    """The network on the path of `coefficients` whose cost is nearest `target`.

    Nearest is by ratio. Of networks equally near, the cheaper is taken, and of equal costs the one
    nearest to the base, which itself is one of the networks.

    Args:
        base: The network to scale.
        coefficients: Growth per unit of phi.
        target: In the metric's unit; below the base's cost phi is negative.
        metric: What a network costs.
        rounding: None: as `scale` rounds, depth up where phi > 0 and to the nearest below.
        at_most: Take the largest that does not exceed the target instead of the nearest.
        name: None: as `scale` names it.
        measurements: Costs that may be asked for, besides the base's. None: `MEASUREMENTS` for a
            metric with conditions (latency, memory), and as many as it takes for arithmetic, which
            finds the nearest of all.

    Raises:
        ScalingError: The target is not positive, or no network of the path reaches it.
    """
    if not 0 < target < math.inf:
        raise ScalingError(f"`target > 0` and finite must hold; got {target}.")
    if not coefficients.product > 1:
        raise ScalingError(
            f"`alpha * beta^2 * gamma^2 > 1` must hold, or cost does not grow with phi; got "
            f"{coefficients}."
        )
    path = _Path(base=base, coefficients=coefficients, metric=metric, rounding=rounding)
    if measurements is None and is_arithmetic(base, metric):
        points = _steps_at(path, target)
    else:
        points = _measured_near(path, target, measurements or MEASUREMENTS)
    phi, cost = _choose(points, target, at_most, path)
    phi = path.tidy(phi)
    return Scaled(
        phi=phi,
        architecture=scale(base, coefficients, phi, rounding, name),
        cost=cost,
        target=target,
    )


@dataclass(frozen=True, kw_only=True)
class _Path:
    """The networks along phi; each is costed once, however many phi make it."""

    base: AnyNetwork
    coefficients: Coefficients
    metric: Metric
    rounding: Rounding | None
    known: dict[str, float] = field(default_factory=dict)
    """Cost by network."""

    def cost(self, phi: float) -> float:
        """Infinite beyond what can be built, and 0 below."""
        try:
            network = scale(self.base, self.coefficients, phi, self.rounding)
        except ScalingError:
            return math.inf if phi > 0 else 0.0
        shape = _shape(network)
        if shape not in self.known:
            self.known[shape] = self.metric(network)
        return self.known[shape]

    def tidy(self, phi: float) -> float:
        """The phi with the fewest decimals that makes the same network, so that it can be typed."""

        def shape(phi: float) -> str:
            return _shape(scale(self.base, self.coefficients, phi, self.rounding))

        wanted = shape(phi)
        for digits in range(_DIGITS):
            unit = 10.0**-digits
            for steps in (round(phi / unit), math.floor(phi / unit), math.ceil(phi / unit)):
                rounded = round(steps * unit, digits) + 0.0  # + 0.0: -0 is 0
                if shape(rounded) == wanted:
                    return rounded
        return phi


def _shape(network: AnyNetwork) -> str:
    """A digest without dropout, which follows phi without steps and costs nothing."""
    return (
        replace(network, dropout=0.0).digest
        if isinstance(network, Architecture)
        else network.digest
    )


_Point = tuple[float, float]
"""phi and cost."""


def is_arithmetic(base: AnyNetwork, metric: Metric) -> bool:
    """Whether costing a network takes next to no time: neither measured nor of a user's builder."""
    return isinstance(base, Architecture) and not metric.conditions


def _choose(points: list[_Point], target: float, at_most: bool, path: _Path) -> _Point:
    """The best of the points that exist.

    Raises:
        ScalingError: The target is beyond all of them, or none is as cheap.
    """
    real = [point for point in points if 0 < point[1] < math.inf]
    lowest, highest = (end(cost for _, cost in real) for end in (min, max))
    inside = [point for point in real if point[1] <= target]
    if not inside or (highest < target and len(real) < len(points)):
        nearest = lowest if not inside else highest
        raise ScalingError(_unreachable(path, target, nearest))
    if at_most:
        return max(inside, key=lambda point: (point[1], -abs(point[0])))
    return min(real, key=lambda p: (abs(math.log(p[1] / target)), p[1], abs(p[0])))


def _unreachable(path: _Path, target: float, nearest: float) -> str:
    metric, base = path.metric, path.base
    return (
        f"Scaling {base.name!r} by {path.coefficients} does not bring its {metric.unit} to "
        f"{metric.format(target)}: of what was tried, {metric.format(nearest)} is nearest. Choose "
        "a target nearer to that, coefficients that this cost depends on (resolution does not "
        "change parameters), or another baseline."
    )


def _steps_at(path: _Path, target: float) -> list[_Point]:
    """The two sides of the step that crosses the target, and the networks around it."""
    base_cost = path.cost(0)
    if target == base_cost:
        return [(0.0, base_cost)]
    sign = 1 if target > base_cost else -1

    def cost(steps: int) -> float:
        return path.cost(sign * steps / _UNITS)

    def first(wanted: float, within: int) -> int:
        """The fewest steps from the base that bring its cost to `wanted`, or past it."""
        before = 0
        while within - before > 1:
            middle = (before + within) // 2
            if sign * cost(middle) >= sign * wanted:
                within = middle
            else:
                before = middle
        return within

    far = _UNITS
    while sign * cost(far) < sign * target:
        far *= 2
    far = first(target, far)
    counts = {0, far, far - 1}
    if far > 1:
        counts.add(first(cost(far - 1), far - 1))
    if 0 < cost(far) < math.inf:
        counts.update(far + offset for offset in _AROUND if far + offset > 0)
    return [(sign * steps / _UNITS, cost(steps)) for steps in sorted(counts)]


def _measured_near(path: _Path, target: float, measurements: int) -> list[_Point]:
    """Points on both sides of the target, ever closer to it."""
    points = [(0.0, path.cost(0))]
    sign = 1 if target >= points[0][1] else -1
    near, far = points[0], None
    while len(path.known) <= measurements and abs(points[-1][1] / target - 1) > CLOSE:
        phi = _beyond(points, target, path) if far is None else _between(near, far, target)
        if phi in (point[0] for point in points):
            break
        points.append((phi, path.cost(phi)))
        if sign * points[-1][1] >= sign * target:
            far = points[-1]
        else:
            near = points[-1]
        if points[-1][1] in (0, math.inf):
            break
    if far is None and abs(points[-1][1] / target - 1) > CLOSE:
        points.append((math.inf * sign, math.inf if sign > 0 else 0.0))  # not reached
    return points


def _beyond(points: list[_Point], target: float, path: _Path) -> float:
    """A phi further out, where the last two points would lead to the target; few digits."""
    nominal = math.log(path.coefficients.product)
    (phi, cost), slope = points[-1], nominal
    if len(points) > 1:
        before, other = points[-2]
        slope = max(math.log(cost / other) / (phi - before), 1e-9)
    step, limit = math.log(target / cost) / slope, _STRIDE / nominal
    return round(phi + max(-limit, min(1.05 * step, limit)), _DIGITS)


def _between(near: _Point, far: _Point, target: float) -> float:
    """A phi between two points, by log cost, and off their ends; few digits."""
    rise = math.log(far[1] / near[1])
    share = math.log(target / near[1]) / rise if rise else 0.5
    return round(near[0] + min(max(share, 0.15), 0.85) * (far[0] - near[0]), _DIGITS)
