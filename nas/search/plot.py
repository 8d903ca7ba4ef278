"""The plot of a search: accuracy against cost."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from nas.costs.metrics import Metric
from nas.search.baseline import SearchResult
from nas.search.pareto import Point, pareto_front
from nas.search.report import spread

_COLOURS = {"search": "C1", "both": "C2", "random": "C0", "stock B0": "C3"}
"""By who found it."""
_MARKERS = {"search": "*", "both": "*", "random": "P", "stock B0": "D"}
"""Of finalists."""
_NAMES = {
    "search": "finalists of the search",
    "both": "finalists of both",
    "random": "finalists of random search",
    "stock B0": "stock EfficientNet-B0",
}


def pareto_plot(result: SearchResult, target: float, metric: Metric) -> bytes:
    """PNG of accuracy against cost: trials, finalists, and the Pareto fronts of both.

    Args:
        result: What was found.
        target: T, in the metric's unit.
        metric: The cost.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw_trials(axes, result)
    _draw_finalists(axes, result)
    axes.axvline(target, color="grey", ls=":", label=f"T = {metric.format(target)}")
    axes.set(xlabel=metric.describe(), ylabel="accuracy on held-out images", xscale="log")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda value, _: metric.format(value))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    has_bars = any(len(network.accuracies) > 1 for network in result.finalists)
    # Beside the axes, where it covers no point.
    figure.legend(
        unique.values(),
        unique.keys(),
        fontsize=8,
        loc="outside right upper",
        title="bars: standard deviation of seeds" if has_bars else None,
        title_fontsize=8,
    )
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_trials(axes: Any, result: SearchResult) -> None:
    for results, origin, label, marker in (
        (result.control, "random", "trials of random search", "x"),
        (result.search, "search", "trials of the search", "o"),
    ):
        done = [r for r in results if r.value is not None]  # what was stopped does not compare
        points = [(r.cost, r.outcome.accuracy or 0.0) for r in done]
        style = {"color": _COLOURS[origin], "alpha": 0.6}
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, marker=marker, label=label, **style)
        if origin == "search":
            _draw_front(axes, points, ls="-", label="Pareto front of its trials", **style)


def _draw_finalists(axes: Any, result: SearchResult) -> None:
    """Those trained longer, with the spread of their seeds; the baseline has a ring."""
    for network in result.finalists:
        axes.errorbar(
            network.cost,
            network.accuracy,
            yerr=np.nan_to_num(spread(network.accuracies)),
            fmt=_MARKERS[network.origin],
            ms=9,
            capsize=3,
            color=_COLOURS[network.origin],
            label=_NAMES[network.origin],
        )
    means = [(n.cost, n.accuracy) for n in result.finalists if n.origin in ("search", "both")]
    _draw_front(
        axes, means, ls="--", color=_COLOURS["search"], label="Pareto front of its finalists"
    )
    for network in result.finalists:
        if network.architecture == result.baseline:
            ring: dict[str, Any] = {"s": 260, "facecolors": "none", "edgecolors": "black"}
            axes.scatter(network.cost, network.accuracy, label="the baseline", **ring)


def _draw_front(axes: Any, points: Sequence[Point], **style: Any) -> None:
    front = pareto_front(points)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", lw=1, **style)
