"""What a grid says at its end: the verdict in words, and a plot on the triangle of shares."""

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy import stats

from nas.cli import plural
from scaling_search.constants import choose
from scaling_search.fit import MARK, STEP, Fit
from scaling_search.shares import AXES, RULES, Shares
from scaling_search.surface import MIN_FOR_QUADRATIC
from scaling_search.two_way import MAX_SEEDS, POWER

FEW_SEEDS = 3
"""The fewest of each network that tell its noise from what it is."""
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
"""Where depth, width and resolution alone are drawn."""


def summary(
    fit: Fit,
    majority: float | None,
    ratio: float,
    left_out: int = 0,
    finer: Sequence[str] = (),
) -> list[str]:
    """Lines for the terminal: the constants, their intervals, and what is left open.

    Args:
        fit: What the trainings say.
        majority: Accuracy of always answering the largest class; None: not known.
        ratio: Cost of the candidates over the base's.
        left_out: Networks of the grid that are no candidates, for there would be too many.
        finer: Flags that make rounding finer.
    """
    best = fit.best
    lines = [
        f"best    {best.candidate.coefficients.label} · accuracy {best.mean:.4f} (mean of "
        f"{plural(len(best.accuracies), 'seed')}; {best.estimate:.4f} by the fit) · measured "
        f"x{best.candidate.ratio:.2f} · shares {best.candidate.shares}"
    ]
    if majority is not None and best.mean <= majority + 0.02:
        lines.append(
            f"WARNING no candidate is better than the largest class ({majority:.1%}): train "
            "longer (--epochs), or look at the data."
        )
    if math.isfinite(fit.noise):
        has_seeds = any(len(standing.accuracies) > 1 for standing in fit.standings)
        where = "between seeds of one network" if has_seeds else "in what the fit leaves"
        lines.append(
            f"noise   {fit.noise:.4f} {where}; {len(fit.tied)} of the other "
            f"{len(fit.standings) - 1} networks cannot be told apart from the best"
        )
    lines += _optimum(fit) if fit.resolved else _unresolved(fit)
    choice = choose(fit, ratio)
    what = "cost" if choice.source == "best" else "multiply-adds"
    lines.append(
        f"result  {choice.coefficients} for every doubling of {what} ({_SOURCES[choice.source]})"
    )
    return lines + [f"remedy  {remedy}" for remedy in remedies(fit, ratio, left_out, finer)]


_SOURCES = {
    "fit": "the fit's optimum",
    "best": "the best network; no surface tells more",
    "default": "EfficientNet's published shares, a default and no finding",
}


def remedies(fit: Fit, ratio: float, left_out: int = 0, finer: Sequence[str] = ()) -> list[str]:
    """What would resolve more, with numbers; empty if nothing is needed. As for `summary`."""
    further = f"--ratio {2 * ratio:g}"
    more_networks = f"--candidates 0 ({left_out} more), " if left_out else ""
    if len(fit.standings) == 1:
        return [
            f"there is one network only: {more_networks}a smaller --step, wider bounds, or "
            f"{further}"
        ]
    found = []
    if fit.optimum is None:
        suffice = len(fit.standings) + left_out >= MIN_FOR_QUADRATIC
        found.append(
            f"a surface needs {MIN_FOR_QUADRATIC} networks of different shares, and there are "
            f"{len(fit.standings)}: {more_networks * suffice}"
            f"{', '.join(['a smaller --step', *finer])}, or {further}"
        )
    if fit.patternless:
        found.append(
            "networks differ by what each has of its own, as rounding makes it; seeds do not "
            f"average that out, more networks do: {more_networks}a smaller --step, or {further}"
        )
    if fit.resolved or fit.patternless:
        return found
    if _one_seed(fit):
        return [
            *found,
            f"one seed says little about noise: --seeds {FEW_SEEDS} or more with --full, or more "
            "--trials",
        ]
    more = seeds_needed(fit)
    if more is not None:
        found.append(
            f"if the differences seen are real, about {more} seeds of every network would show "
            f"them (--seeds {more} --full); less noise does too: more --epochs or images"
        )
    else:
        found.append(
            "the differences seen are no larger than noise makes them: more --epochs or images, "
            "or more seeds"
        )
    found.append(f"{further}: networks differ more the further they are scaled")
    return found


def more_trainings(fit: Fit) -> dict[str, int]:
    """The number of seeds of every network that may resolve what is not, as a flag; or nothing."""
    if fit.resolved or fit.patternless or len(fit.standings) == 1:
        return {}
    more = FEW_SEEDS if _one_seed(fit) else seeds_needed(fit)
    return {} if more is None else {"seeds": more}


def _one_seed(fit: Fit) -> bool:
    """Whether no network was trained twice."""
    return all(len(standing.accuracies) == 1 for standing in fit.standings)


def seeds_needed(fit: Fit) -> int | None:
    """Seeds of every network that show such differences with probability `POWER`.

    By the power of the fit's own F test for the noncentrality that was observed; always more seeds
    than there are. None if there is nothing to see.
    """
    test = fit.test
    if test is None or not test.statistic > 1:
        return None
    networks, trainings = len(fit.standings), sum(len(s.accuracies) for s in fit.standings)
    seeds, coefficients = trainings / networks, trainings - test.within
    observed = test.between * (test.statistic - 1)
    for more in range(math.floor(seeds) + 1, MAX_SEEDS):
        freedom = networks * more - coefficients
        critical = stats.f.isf(MARK, test.between, freedom)
        if stats.ncf.sf(critical, test.between, freedom, observed * more / seeds) >= POWER:
            return more
    return None


def _optimum(fit: Fit) -> list[str]:
    if fit.optimum is None or fit.region is None:
        return ["RESOLVED: the networks differ by more than seed noise explains"]
    bounds = fit.intervals()
    assert bounds is not None
    reach = ", ".join(f"{axis} {low:.2f} to {high:.2f}" for axis, (low, high) in bounds.items())
    lines = [
        f"fit     shares of depth/width/resolution {fit.optimum}; 90 % region: {reach} "
        f"({fit.region.mean():.0%} of what was searched)",
    ]
    for name, shares in _inside_rules(fit):
        ahead = fit.estimate(shares)
        assert ahead is not None
        lines.append(
            f"        {name} ({shares}): {ahead[0]:.4f} behind, standard error {ahead[1]:.4f}"
        )
    if fit.patternless:
        lines.append(
            "CAUTION the networks lie off this surface by as much as it rises: the best of them is "
            "known, and an optimum of the shares is not"
        )
    return [
        *lines,
        f"RESOLVED: the networks differ by more than noise explains (p {fit.p_value:.2g})",
    ]


def _inside_rules(fit: Fit) -> Iterator[tuple[str, Shares]]:
    """Known rules that lie within what was searched."""
    for name, shares in RULES.items():
        if np.abs(fit.points - np.array(shares.values)).sum(1).min() <= 2 * STEP:
            yield name, shares


def _unresolved(fit: Fit) -> list[str]:
    if len(fit.standings) == 1:
        return ["NOT RESOLVED: there is one network only."]
    if len({accuracy for s in fit.standings for accuracy in s.accuracies.values()}) == 1:
        return ["NOT RESOLVED: all trainings gave the same accuracy."]
    if fit.p_value == 1:
        return ["NOT RESOLVED: too few trainings to tell networks from noise."]
    if fit.patternless:
        return [
            "NOT RESOLVED: some networks are worse than others, but how they share their cost does "
            f"not explain it (p {fit.p_value:.2g}, and {MARK:g} is the mark)."
        ]
    return [
        f"NOT RESOLVED: noise explains the differences of all networks (p {fit.p_value:.2g}, and "
        f"{MARK:g} is the mark)."
    ]


def triangle_plot(fit: Fit) -> bytes:
    """PNG of the triangle of shares: networks, the surface, the region, and known rules.

    One scale of colours for surface and networks; the single axes are the corners, and their marks
    are the corners' names. All other marks are hollow: nothing lies on a network's colour.
    """
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.plot(*_CORNERS[[0, 1, 2, 0]].T, color="0.6", linewidth=1)
    for corner, axis, offset in zip(_CORNERS, AXES, ((0, -18), (0, -18), (0, 12)), strict=True):
        axes.annotate(f"{axis} only", corner, offset, textcoords="offset points", ha="center")
    colours = Normalize(*_accuracies_drawn(fit))
    figure.colorbar(
        ScalarMappable(colours, "viridis"), ax=axes, shrink=0.7, label="accuracy by the fit"
    )
    if fit.heights is not None and len(fit.points) > 3:
        _draw_surface(axes, fit, colours)
    _draw_networks(axes, fit, colours)
    _draw_rules(axes, fit)
    axes.set_title(
        "shares of the added cost" if fit.resolved else "not resolved: a default is used", pad=14
    )
    axes.legend(fontsize=8, loc="upper left", labelspacing=0.9)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _accuracies_drawn(fit: Fit) -> tuple[float, float]:
    """The least and the largest accuracy that has a colour."""
    drawn = [standing.estimate for standing in fit.standings]
    if fit.heights is not None:
        drawn += fit.heights.tolist()
    return min(drawn), max(drawn)


def _draw_surface(axes: Axes, fit: Fit, colours: Normalize) -> None:
    assert fit.heights is not None
    assert fit.region is not None
    x, y = (fit.points @ _CORNERS).T
    axes.scatter(
        x, y, c=fit.heights, norm=colours, s=18, alpha=0.4, marker="h", linewidth=0, zorder=1
    )
    if fit.resolved:
        axes.scatter(
            x[fit.region], y[fit.region], s=5, color="black", linewidth=0, zorder=2,
            label="90 % region",
        )  # fmt: skip


def _draw_networks(axes: Axes, fit: Fit, colours: Normalize) -> None:
    points = np.array([s.candidate.shares.values for s in fit.standings]) @ _CORNERS
    estimates = [standing.estimate for standing in fit.standings]
    axes.scatter(
        *points.T, c=estimates, norm=colours, s=45, edgecolor="black", linewidth=0.7, zorder=3
    )
    tied = [i for i, standing in enumerate(fit.standings) if standing.tied and i > 0]
    for indices, width, label in (([0], 2.5, "best"), (tied, 1.0, "tied with it")):
        if indices:
            axes.scatter(
                *points[indices].T, s=130, facecolor="none", edgecolor="C3", linewidth=width,
                zorder=4, label=label,
            )  # fmt: skip


def _draw_rules(axes: Axes, fit: Fit) -> None:
    """Rules that are no corner, hollow, and the fit's optimum."""
    inner = {name: shares for name, shares in RULES.items() if name not in AXES}
    for (name, shares), marker in zip(inner.items(), cycle("*DP^vp"), strict=False):
        axes.scatter(
            *(np.array(shares.values) @ _CORNERS), marker=marker, s=110, facecolor="none",
            edgecolor="C1", linewidth=1.8, zorder=5, label=name,
        )  # fmt: skip
    if fit.optimum is not None and fit.resolved:
        axes.scatter(
            *(np.array(fit.optimum.values) @ _CORNERS), marker="s", s=260, facecolor="none",
            edgecolor="black", linewidth=1.5, zorder=6, label="optimum of the fit",
        )  # fmt: skip
