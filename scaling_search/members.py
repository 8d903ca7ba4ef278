"""The members of a family: by phi, by a wanted cost, or as published; and their table; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from nas.cli import format_number
from nas.costs.metrics import Metric
from scaling_search.compound import Coefficients, default_rounding, member_name, scale
from scaling_search.released import PAPER, RELEASED, release, released_rounding
from scaling_search.shares import AXES
from scaling_search.solve import Scaled, scale_to
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.rounding import Rounding

_LABELS = {"macs": "", "params": "-params", "latency": "ms", "memory": "-memory"}
"""What follows the target in a member's name."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of a family and the factors that made it."""

    name: str
    """File name without its suffix: B1, or by its target B400M."""
    phi: float
    """As asked for or solved for; of released networks the index."""
    architecture: AnyNetwork
    factors: tuple[float, float, float]
    """Depth, width and resolution, before rounding."""
    solved: Scaled | None = None
    """The target and what was reached, where phi was solved for."""
    released: bool = False
    """Whether the factors are EfficientNet's published ones."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the user fixes of the rounding; None: as the network and the sign of phi suggest."""

    depth: Literal["ceil", "round"] | None = None
    """Repeats up, or to the nearest."""
    resolution: int | None = None
    """Pixels that resolutions are a multiple of."""

    def rounding(self, default: Rounding) -> Rounding:
        """`default` with what is fixed.

        Raises:
            ValueError: No such steps.
        """
        return replace(
            default,
            depth=self.depth or default.depth,
            resolution_divisor=(
                default.resolution_divisor if self.resolution is None else self.resolution
            ),
        )


def member_at(base: AnyNetwork, coefficients: Coefficients, phi: float, steps: Steps) -> Member:
    """The member B<phi>.

    Raises:
        ScalingError: There is no network at that phi.
    """
    rounding = steps.rounding(default_rounding(base, phi))
    name = member_name(base.name, phi)
    return Member(
        name=f"B{phi:g}",
        phi=phi,
        architecture=scale(base, coefficients, phi, rounding, name),
        factors=coefficients.factors(phi),
    )


def member_for(
    base: AnyNetwork,
    coefficients: Coefficients,
    target: float,
    metric: Metric,
    steps: Steps,
    *,
    at_most: bool = False,
) -> Member:
    """The member whose cost is nearest `target`, or the largest up to it.

    Its name is the target's: B400M (multiply-adds), B5M-params, B20ms, B8G-memory.

    Raises:
        ScalingError: The target cannot be reached.
    """
    sign = 1 if target >= metric(base) else -1
    rounding = steps.rounding(default_rounding(base, sign))
    label = target_label(metric, target)
    name = f"{member_name(base.name, 0).removesuffix('0')}{label}"
    solved = scale_to(base, coefficients, target, metric, rounding, at_most=at_most, name=name)
    return Member(
        name=f"B{label}",
        phi=solved.phi,
        architecture=solved.architecture,
        factors=coefficients.factors(solved.phi),
        solved=solved,
    )


def target_label(metric: Metric, target: float) -> str:
    """The target as it stands in a file name: `400M`, `20ms`."""
    return f"{format_number(target)}{_LABELS[metric.name]}"


def released_member(base: AnyNetwork, index: int, steps: Steps) -> Member:
    """The member B<index> by the published factors."""
    name = f"B{index}"
    return Member(
        name=name,
        phi=index,
        architecture=release(name, base, steps.rounding(released_rounding(base))),
        factors=RELEASED[name].factors,
        released=True,
    )


def family_table(members: Sequence[Member], base_macs: int) -> pd.DataFrame:
    """One row a member, as in family.csv.

    Args:
        members: The family; all of one kind.
        base_macs: Multiply-adds of the baseline; `ratio` is over these.

    Returns:
        Columns name, phi, resolution (px), params, macs, activations, ratio (measured), target
        (2^phi; not of released networks, whose index is no phi), the three factors before
        rounding, dropout, blocks (both empty for a user's builder), digest; where phi was solved
        for, target_cost and cost; of released networks the implied phi.
    """
    whole = all(float(member.phi).is_integer() for member in members)
    rows = []
    for member in members:
        architecture, cost = member.architecture, count(member.architecture)
        row: dict[str, Any] = {
            "name": member.name,
            "phi": int(member.phi) if whole else member.phi,
            "resolution": architecture.resolution,
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "ratio": cost.macs / base_macs,
            "target": math.nan if member.released else 2**member.phi,
            **{f"{axis}_factor": f for axis, f in zip(AXES, member.factors, strict=True)},
            "dropout": architecture.dropout,
            "blocks": architecture.num_blocks,
            "digest": architecture.digest,
        }
        if member.solved is not None:
            row |= {"target_cost": member.solved.target, "cost": member.solved.cost}
        if member.released:
            row |= _implied(member.name, PAPER, cost.macs / base_macs)
        rows.append(row)
    return pd.DataFrame(rows)


def implied_table(base: AnyNetwork, coefficients: Coefficients) -> pd.DataFrame:
    """B1 to B7: the phi that each would have, by dimension and by measured multiply-adds.

    If they followed the coefficients, the four would agree.

    Args:
        base: Scaled by the published factors to be measured.
        coefficients: Whose phi it is.

    Returns:
        Columns name, phi_depth, phi_width, phi_resolution (NaN where a coefficient is 1) and
        phi_macs.
    """
    macs = count(base).macs
    return pd.DataFrame(
        {"name": name, **_implied(name, coefficients, count(release(name, base)).macs / macs)}
        for name in (f"B{index}" for index in range(1, 8))
    )


def _implied(name: str, coefficients: Coefficients, ratio: float) -> dict[str, float]:
    phis = RELEASED[name].implied_phi(coefficients)
    growth = math.log(coefficients.product)
    return {
        **{f"phi_{axis}": phi for axis, phi in zip(AXES, phis, strict=True)},
        "phi_macs": math.log(ratio) / growth if growth else math.nan,
    }
