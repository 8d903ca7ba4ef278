"""The plot of a search: accuracy against cost."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from nas.costs.metrics import Metric
from nas.search.baseline import SearchResult
from nas.search.pareto import Point, pareto_front
from nas.search.report import spread

_MARKERS = {
    "search": ("*", "C1"),
    "both": ("*", "C2"),
    "random": ("P", "C0"),
    "stock B0": ("D", "C3"),
}
"""Of finalists, by origin."""


def pareto_plot(result: SearchResult, target: float, metric: Metric) -> bytes:
    """PNG of accuracy against cost: trials, finalists, and the Pareto fronts of both.

    Args:
        result: What was found.
        target: T, in the metric's unit.
        metric: The cost.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for results, label, marker in (
        (result.control, "random search", "x"),
        (result.search, "search", "o"),
    ):
        done = [
            r for r in results if r.value is not None
        ]  # what was stopped early does not compare
        points = [(r.cost, r.outcome.accuracy or 0.0) for r in done]
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, marker=marker, alpha=0.6, label=label)
        if label == "search":
            _draw_front(axes, points, ls="-", label="Pareto front of trials")
    for network in result.finalists:
        axes.errorbar(
            network.cost,
            network.accuracy,
            yerr=np.nan_to_num(spread(network.accuracies)),
            fmt=_MARKERS[network.origin][0],
            ms=9,
            capsize=3,
            color=_MARKERS[network.origin][1],
            label=f"final: {network.origin}",
        )
    means = [(n.cost, n.accuracy) for n in result.finalists if n.origin in ("search", "both")]
    if len(means) > 1:
        _draw_front(axes, means, ls="--", label="Pareto front of finalists' means")
    axes.axvline(target, color="grey", ls=":", label="T")
    axes.set(xlabel=metric.describe(), ylabel="accuracy on search-validation", xscale="log")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8, loc="lower right")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_front(axes: Any, points: Sequence[Point], **style: Any) -> None:
    axes.step(*zip(*pareto_front(points), strict=True), where="post", lw=1, **style)
