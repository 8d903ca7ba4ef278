"""What scaling_search.family prints: the members, and beside what is published; pure."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from nas.costs.metrics import Metric
from scaling_search.compound import (
    DROPOUT_PER_PHI,
    MAX_DROPOUT,
    Coefficients,
    default_rounding,
    finer_roundings,
)
from scaling_search.members import Member, Steps
from scaling_search.released import PAPER, TINYNETS, nearest_tinynet, tinynet_ratios
from scaling_search.shares import AXES
from search_spaces.architecture import Architecture
from search_spaces.builder import AnyNetwork

_OFF = 0.05
"""Relative distance from a target that is worth a word."""


def rules(base: AnyNetwork, steps: Steps, phis: Sequence[float]) -> str:
    """How factors become whole numbers, and dropout follows; a line of a few clauses."""
    roundings = [steps.rounding(default_rounding(base, phi)) for phi in (max(phis), min(phis))]
    pixels = f"resolution in {roundings[0].resolution_divisor} px"
    if not isinstance(base, Architecture):
        return f"{pixels} · blocks, widths and dropout are the builder's own affair"
    words = {"ceil": "up", "round": "half up"}
    depth = words[roundings[0].depth]
    if roundings[1].depth != roundings[0].depth:
        depth += f" ({words[roundings[1].depth]} where phi < 0)"
    dropout = f"dropout {DROPOUT_PER_PHI:+g} per phi, at most {MAX_DROPOUT:g}"
    if base.dropout == 0 or base.dropout > MAX_DROPOUT:
        dropout = f"dropout stays {base.dropout:g}"
    widths = f"widths in {roundings[0].width_divisor}s"
    return f"repeats rounded {depth} · {widths} · {pixels} · {dropout}"


def members_text(table: pd.DataFrame, members: Sequence[Member], metric: Metric | None) -> str:
    """The family's table in short.

    Args:
        table: From `family_table`.
        members: Its members.
        metric: Of the targets, where phi was solved for.
    """
    rows = []
    for row, member in zip(table.to_dict("records"), members, strict=True):
        shown = {"name": row["name"]}
        if metric is not None and member.solved is not None:
            shown |= {
                "target": metric.format(member.solved.target),
                "achieved": f"{metric.format(member.solved.cost)} ({member.solved.ratio - 1:+.1%})",
                "phi": f"{member.phi:g}",
            }
        shown |= {
            "px": row["resolution"],
            "blocks": "?" if member.architecture.num_blocks is None else row["blocks"],
            "params (M)": f"{row['params'] / 1e6:,.2f}",
            "MACs (M)": f"{row['macs'] / 1e6:,.1f}",
            "acts (M)": f"{row['activations'] / 1e6:,.2f}",
        }
        if member.solved is None:
            shown["measured"] = f"x{row['ratio']:.3g}"
            shown |= {} if member.released else {"2^phi": f"x{row['target']:.3g}"}
        shown |= {axis: f"{row[f'{axis}_factor']:.3g}" for axis in AXES}
        dropout = member.architecture.dropout
        rows.append({**shown, "dropout": "?" if dropout is None else f"{dropout:.3g}"})
    return _tabulated(rows)


def implied_text(table: pd.DataFrame, coefficients: Coefficients = PAPER) -> str:
    """The phi that published networks would have; `table` is `implied_table`'s, or the family's."""
    columns = {f"by {axis}": f"phi_{axis}" for axis in AXES} | {"by MACs": "phi_macs"}
    rows = [
        {"name": row["name"], **{label: _phi(row[key]) for label, key in columns.items()}}
        for row in table.to_dict("records")
    ]
    return (
        "B1 ... B7 are not phi = 1 ... 7. The paper names no phi for them, and none makes one of\n"
        f"them. The phi at which {coefficients} reach each one's\n"
        "depth, width and resolution, and its measured MACs:\n\n"
        f"{_tabulated(rows)}"
    )


def tinynet_text(members: Sequence[Member], table: pd.DataFrame) -> str | None:
    """Members of negative phi beside the TinyNet of the nearest budget; None: there are none."""
    rows = []
    for member, ratio in zip(members, table["ratio"], strict=True):
        if member.phi < 0 and not member.released:
            tiny = nearest_tinynet(ratio)
            rows.append(
                {
                    **_factors(member.name, ratio, member.factors, ""),
                    **_factors(
                        f"TinyNet-{tiny}", tinynet_ratios()[tiny], TINYNETS[tiny].factors, " "
                    ),
                }
            )
    if not rows:
        return None
    return (
        "Below the baseline's cost the formula does badly: depth and resolution are worth more\n"
        "there than width (Han et al. 2020). Their TinyNets, over EfficientNet-B0, at the nearest\n"
        f"budget:\n\n{_tabulated(rows)}"
    )


def off_target(
    members: Sequence[Member], metric: Metric, base: AnyNetwork, steps: Steps
) -> str | None:
    """A warning for members that rounding keeps away from their target; None: there are none."""
    far = [m for m in members if m.solved is not None and abs(m.solved.ratio - 1) > _OFF]
    if not far:
        return None
    names = ", ".join(f"{m.name} ({m.solved.ratio - 1:+.0%})" for m in far if m.solved is not None)
    roundings = (steps.rounding(default_rounding(base, member.phi)) for member in far)
    flags = dict.fromkeys(flag for one in roundings for flag in finer_roundings(base, one))
    return (
        f"{names}: over {_OFF:.0%} from the target in {metric.unit}. Whole blocks, widths and "
        f"pixels leave gaps, smaller ones with {', '.join([*flags, 'a deeper baseline'])}."
    )


def _factors(
    name: str, ratio: float, factors: tuple[float, float, float], mark: str
) -> dict[str, str]:
    """Columns of one side; `mark` keeps equal headings of the two sides apart."""
    return {
        "nearest TinyNet" if mark else "name": name,
        f"{mark}MACs{mark}": f"x{ratio:.3f}",
        **{f"{mark}{axis}{mark}": f"{f:.2f}" for axis, f in zip(AXES, factors, strict=True)},
    }


def _phi(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"


def _tabulated(rows: Sequence[dict[str, Any]]) -> str:
    align = ("left", *["right"] * (len(rows[0]) - 1))
    return tabulate(rows, headers="keys", colalign=align, disable_numparse=True)
