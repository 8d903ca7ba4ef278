"""What `scaling_search.validate` leaves: its table, its report, and the paper's Figure 8."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pandas as pd
from tabulate import tabulate

from nas.cli import format_number
from nas.costs.metrics import Metric
from scaling_search.contest import FITTED, TOLERANCE, Contestant, Level
from scaling_search.shares import RULES
from scaling_search.two_way import CONFIDENCE
from scaling_search.validate_words import points
from scaling_search.verdict import Assessment, Comparison, Standing
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count


def level_table(level: Level, metric: Metric) -> str:
    """The networks of a level, before they are trained."""
    rows = [
        {
            "rule": contestant.label,
            "phi": f"{contestant.phi:g}",
            "measured": metric.format(contestant.cost),
            "off target": _off_target(level, contestant),
            **_shape(contestant.architecture),
            "params": format_number(count(contestant.architecture).params),
            "MACs": format_number(count(contestant.architecture).macs),
        }
        for contestant in level.contestants
    ]
    return _tabulated(rows)


def results_frame(assessment: Assessment, base_cost: float) -> pd.DataFrame:
    """One row a network, as in validate.csv: the base, then level by level.

    Accuracies and differences are shares of 1; `difference` is the fitted network's less the row's,
    `low` and `high` its interval.
    """
    base = assessment.base
    rows: list[dict[str, Any]] = []
    if base is not None:
        rows.append({"phi": 0.0, "target": base_cost, **_numbers(base, base_cost)})
    for judged in assessment.levels:
        level = judged.level
        compared = [(c.rival, c) for c in judged.comparisons]
        for standing, comparison in [(judged.fitted, None), *compared]:
            row = {
                "phi": level.phi,
                "target": level.target,
                **_numbers(standing, base_cost),
                "off_target": level.off_target(standing.contestant),
                "marked": level.is_marked(standing.contestant),
            }
            rows.append({**row, **_compared(comparison)} if comparison else row)
    return pd.DataFrame(rows)


def results_table(assessment: Assessment, metric: Metric, tablefmt: str = "simple") -> str:
    """The same for people, accuracies in percent and differences in points."""
    rows = [] if assessment.base is None else [_row(assessment.base, None, None, metric)]
    for judged in assessment.levels:
        rows.append(_row(judged.fitted, judged.level, None, metric))
        rows += [_row(c.rival, judged.level, c, metric) for c in judged.comparisons]
    return _tabulated(rows, tablefmt)


def markdown(
    plan: Sequence[str], assessment: Assessment, metric: Metric, verdict: Sequence[str], then: str
) -> str:
    """The report, validate.md."""
    parts = ["# Do the constants hold further up?", "", *(f"    {line}" for line in plan), ""]
    parts += [f"**{verdict[0]}**", "", *(f"- {line}" for line in verdict[1:]), ""]
    parts += [results_table(assessment, metric, "github"), "", _EXPLANATION, ""]
    parts += ["![Accuracy against measured cost](validate.png)", "", "Next:", "", f"    {then}", ""]
    return "\n".join(parts)


def scaling_plot(assessment: Assessment, metric: Metric) -> bytes:
    """PNG of accuracy against measured cost, a line a rule from the base (Figure 8 of the paper).

    Bars are standard deviations between seeds.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[int, ...], list[str]] = {}
    standings = [[j.fitted, *(c.rival for c in j.comparisons)] for j in assessment.levels]
    for rule in (FITTED, *RULES):
        points = [s for level in standings for s in level if rule in s.contestant.rules]
        if points:
            lines.setdefault(tuple(map(id, points)), []).append(rule)
    known = {id(s): s for level in standings for s in level}
    start = [] if assessment.base is None else [assessment.base]
    for number, (ids, rules) in enumerate(lines.items()):
        points = sorted([*start, *(known[i] for i in ids)], key=lambda s: s.contestant.cost)
        axes.errorbar(
            [s.contestant.cost for s in points],
            [s.mean for s in points],
            yerr=[0.0 if math.isnan(s.spread) else s.spread for s in points],
            marker="o",
            capsize=3,
            lw=2.5 if FITTED in rules else 1,
            zorder=3 if FITTED in rules else 2,
            color=f"C{number}",
            label=" = ".join(rules),
        )
    for judged in assessment.levels:
        axes.axvline(judged.level.target, color="grey", ls=":", lw=1)
    axes.set(xlabel=metric.describe(), ylabel="accuracy")
    figure.legend(fontsize=8, loc="outside right upper")  # lines may rise and fall
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _row(
    standing: Standing, level: Level | None, comparison: Comparison | None, metric: Metric
) -> dict[str, str]:
    contestant = standing.contestant
    spread = "" if math.isnan(standing.spread) else f"{100 * standing.spread:.2f} "
    row = {
        "phi": "0" if level is None else f"{level.phi:g}",
        "rule": contestant.label,
        "measured": metric.format(contestant.cost),
        "off target": "" if level is None else _off_target(level, contestant),
        **_shape(contestant.architecture),
        "accuracy %": f"{100 * standing.mean:.2f}",
        "± seeds": f"{spread}({len(standing.accuracies)})",
    }
    if comparison is None:
        return {**row, "fitted - it": "", "at equal cost": "", "fitted is": ""}
    margin = "?" if math.isinf(comparison.margin) else f"{100 * comparison.margin:.2f}"
    return {
        **row,
        "fitted - it": f"{points(comparison.difference)} ± {margin}",
        "at equal cost": points(comparison.even),
        "fitted is": comparison.outcome,
    }


def _numbers(standing: Standing, base_cost: float) -> dict[str, Any]:
    contestant, architecture = standing.contestant, standing.contestant.architecture
    counted = count(architecture)
    return {
        "rules": contestant.label,
        "measured": contestant.cost,
        "ratio": contestant.cost / base_cost,
        "accuracy": standing.mean,
        "accuracy_std": standing.spread,
        "seeds": len(standing.accuracies),
        "alpha": contestant.coefficients.alpha,
        "beta": contestant.coefficients.beta,
        "gamma": contestant.coefficients.gamma,
        "solved_phi": contestant.phi,
        "resolution": architecture.resolution,
        "blocks": architecture.num_blocks,
        "params": counted.params,
        "macs": counted.macs,
        "activations": counted.activations,
        "digest": architecture.digest,
    }


def _compared(comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.interval
    return {
        "difference": comparison.difference,
        "low": low,
        "high": high,
        "difference_at_equal_cost": comparison.even,
        "fitted_is": comparison.outcome,
        "seeds_needed": comparison.seeds_needed,
    }


def _shape(architecture: AnyNetwork) -> dict[str, str]:
    blocks = architecture.num_blocks
    return {"px": str(architecture.resolution), "blocks": "-" if blocks is None else str(blocks)}


def _off_target(level: Level, contestant: Contestant) -> str:
    mark = " *" if level.is_marked(contestant) else ""
    return f"{100 * level.off_target(contestant):+.1f} %{mark}"


def _tabulated(rows: Sequence[dict[str, str]], tablefmt: str = "simple") -> str:
    align = ["left" if name in ("rule", "fitted is") else "right" for name in rows[0]]
    return tabulate(rows, "keys", tablefmt, colalign=align, disable_numparse=True)


_EXPLANATION = f"""\
All networks of a phi are made for the same measured cost; * marks those further than
{TOLERANCE:.0%} from it. fitted - it: accuracy of the fitted network less this one's, in points,
seed by seed; the intervals hold all at once with {CONFIDENCE:.0%} (Student's t on the noise pooled
over the networks of a phi; Bonferroni). at equal cost: the costlier of the two read off the line
from the base, at the cost of the cheaper one. The fitted network is ahead, or behind, if it is so
by more than the interval both ways."""
