"""What a search leaves for people: tables, the Pareto plot, and a verdict in words."""

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial
from scipy import stats
from tabulate import tabulate

from nas.cli import format_number
from nas.search.baseline import Measured, SearchResult


def trials_frame(trials: Iterable[FrozenTrial], value: str = "reward") -> pd.DataFrame:
    """One row a trial of a record, by number; the choices of the space are further columns."""
    rows = []
    for trial in trials:
        attributes = dict(trial.user_attrs)
        outcome = attributes.pop("outcome", {})
        choices = attributes.pop("choices", {})
        del attributes["architecture"]
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name,
                value: trial.value,
                "accuracy": outcome.get("accuracy"),
                "macs": attributes.pop("macs"),
                "params": attributes.pop("params"),
                "seconds": outcome.get("seconds"),
                "reason": outcome.get("reason", ""),
                "reused_from": outcome.get("reused_from", ""),
                **attributes,
                **choices,
            }
        )
    return pd.DataFrame(rows)


def finalists_frame(finalists: Iterable[Measured]) -> pd.DataFrame:
    """One row a network that was trained with several seeds, best reward first."""
    return pd.DataFrame(
        {
            "origin": network.origin,
            "name": network.architecture.name,
            "reward": network.reward,
            "accuracy": network.accuracy,
            "accuracy_std": spread(network.accuracies),
            "seeds": len(network.accuracies),
            "macs": network.macs,
            "params": network.params,
            "digest": network.architecture.digest,
        }
        for network in finalists
    )


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; NaN for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def pooled_spread(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within groups and its degrees of freedom; NaN and 0 without any."""
    deviations = [np.asarray(group) - np.mean(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in deviations)
    if freedom == 0:
        return float("nan"), 0
    return float(np.sqrt(sum((d**2).sum() for d in deviations) / freedom)), freedom


def compare(ours: Sequence[float], theirs: Sequence[float], noise: float, freedom: int) -> str:
    """`ahead`, `behind` or `not told apart` at the 95 % level, by the pooled seed noise."""
    difference = float(np.mean(ours) - np.mean(theirs))
    if freedom == 0:
        return "not told apart (one seed each)"
    error = noise * np.sqrt(1 / len(ours) + 1 / len(theirs))
    margin = float(stats.t.ppf(0.975, freedom)) * error
    if abs(difference) <= margin:
        return "not told apart from seed noise"
    return "ahead" if difference > 0 else "behind"


def verdict(result: SearchResult) -> str:
    """Whether the search was worth its trials, in words; empty without finalists."""
    if not result.finalists:
        return ""
    noise, freedom = pooled_spread(network.rewards for network in result.finalists)
    own = next(n for n in result.finalists if n.architecture.digest == result.baseline.digest)
    lines = []
    for origins, words in (
        (("random", "both"), "random search at the same number of trials"),
        (("stock B0",), "stock EfficientNet-B0 at the same multiply-adds"),
    ):
        rivals = [n for n in result.finalists if n.origin in origins]
        if not rivals:
            continue
        rival = max(rivals, key=lambda n: n.reward)
        if rival is own:
            lines.append(f"found by {words} too: the search gained nothing")
            continue
        outcome = compare(own.rewards, rival.rewards, noise, freedom)
        ahead = "above" if own.reward > rival.reward else "below"
        lines.append(f"reward {own.reward:.4f} {ahead} {rival.reward:.4f} of {words}: {outcome}")
    best = max(result.finalists, key=lambda n: n.reward)
    if best.origin in ("random", "stock B0"):
        lines.append(f"THE SEARCH DID NOT WIN: {best.origin} has the best mean reward")
    if freedom:
        lines.append(f"seed noise of the reward {noise:.4f} (standard deviation, {freedom} d.o.f.)")
    return "\n".join(lines)


def markdown(result: SearchResult, summary: Sequence[str]) -> str:
    """The report: conditions, finalists, verdict, and the baseline's stage table."""
    parts = ["# Search report", "", *(f"    {line}" for line in summary), ""]
    if result.finalists:
        frame = finalists_frame(result.finalists)
        frame["macs"] = frame["macs"].map(format_number)
        frame["params"] = frame["params"].map(format_number)
        table = tabulate(frame.to_dict("list"), headers="keys", tablefmt="github", floatfmt=".4f")
        parts += ["## Finalists", "", table, "", "## Verdict", ""]
        parts += [f"- {line}" for line in verdict(result).splitlines()]
    else:
        parts += ["No finalists were asked for: the baseline is the best single proxy trial."]
    parts += ["", "## Baseline", "", "```", result.baseline.table(), "```", ""]
    return "\n".join(parts)


def pareto_plot(result: SearchResult, target_macs: float) -> bytes:
    """PNG of accuracy against multiply-adds: trials, finalists, and the Pareto front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for results, label, marker in (
        (result.control, "random search", "x"),
        (result.search, "search", "o"),
    ):
        points = [(r.macs, r.outcome.accuracy) for r in results if r.outcome.accuracy is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, marker=marker, alpha=0.6, label=label)
        if label == "search":
            front = pareto_front(points)
            axes.step(*zip(*front, strict=True), where="post", lw=1, label="Pareto front")
    for network in result.finalists:
        axes.errorbar(
            network.macs,
            network.accuracy,
            yerr=np.nan_to_num(spread(network.accuracies)),
            fmt={"search": "*", "random": "P"}.get(network.origin, "D"),
            ms=9,
            capsize=3,
            color={"search": "C1", "random": "C0"}.get(network.origin, "C3"),
            label=f"final: {network.origin}",
        )
    axes.axvline(target_macs, color="grey", ls=":", label="T")
    axes.set(xlabel="multiply-adds", ylabel="accuracy on search-validation", xscale="log")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def pareto_front(points: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points that no other beats in both cost and accuracy, by cost."""
    front: list[tuple[int, float]] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front
