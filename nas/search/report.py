"""What came out of a search: tables, and a verdict in words."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from scipy import stats
from tabulate import tabulate

from nas.costs.objective import Objective, ParetoObjective
from nas.search.baseline import SearchResult
from nas.search.finalists import Measured
from nas.search.pareto import Point, hypervolume, pareto_front
from nas.trials.front import front
from nas.trials.trial import Result

OWN = ("search", "both")
"""Origins of what the search found."""
RANDOM = ("random", "both")


def trials_frame(trials: Iterable[FrozenTrial], value: str | None = "reward") -> pd.DataFrame:
    """One row a trial of a record, by number; the choices of the space are further columns.

    Args:
        trials: Of one study.
        value: What its value is called; None: no column, as accuracy and cost have theirs.
    """
    rows = []
    for trial in trials:
        attributes = dict(trial.user_attrs)
        outcome = attributes.pop("outcome", {})
        choices = attributes.pop("choices", {})
        attributes.pop("half_batch", None)  # what was asked for; the outcome knows what was done
        del attributes["architecture"]
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name,
                **({} if value is None else {value: _first_value(trial)}),
                "accuracy": outcome.get("accuracy"),
                "macs": attributes.pop("macs"),
                "params": attributes.pop("params"),
                "seconds": outcome.get("seconds"),
                "reason": outcome.get("reason", ""),
                "reused_from": outcome.get("reused_from", ""),
                "half_batch": outcome.get("half_batch", False),
                "stopped_after": outcome["epochs"] if outcome.get("reason") == "pruned" else None,
                **attributes,
                **choices,
            }
        )
    return pd.DataFrame(rows)


def _first_value(trial: FrozenTrial) -> float | None:
    """None for what did not train to its end, whatever it reported before."""
    return trial.values[0] if trial.state == TrialState.COMPLETE else None


def finalists_frame(finalists: Iterable[Measured], objective: Objective) -> pd.DataFrame:
    """One row a network that was trained with several seeds, best reward first."""
    frame = pd.DataFrame(
        {
            "origin": network.origin,
            "name": network.architecture.name,
            "reward": network.reward,
            "accuracy": network.accuracy,
            "accuracy_std": spread(network.accuracies),
            "seeds": len(network.accuracies),
            "macs": network.macs,
            "params": network.params,
            objective.metric.name: network.cost,
            "digest": network.architecture.digest,
        }
        for network in finalists
    )
    return frame if "reward" in objective.names else frame.drop(columns="reward")


def front_frame(result: SearchResult, objective: Objective) -> pd.DataFrame:
    """The Pareto front, by cost: networks of the front of the search's trials, and finalists.

    Means of finalists are beside the single trials: a front of single trials is one of luck, too.
    """
    trials = {r.job.proposal.architecture.digest: r for r in reversed(_completed(result.search))}
    measured = {m.architecture.digest: m for m in result.finalists if m.origin != "stock B0"}
    unbeaten = front(result.search, ("maximize", "minimize")) if trials else []
    unbeaten_digests = {r.job.proposal.architecture.digest for r in unbeaten}
    means = pareto_front((m.cost, m.accuracy) for m in measured.values())
    rows = []
    for digest in unbeaten_digests | set(measured):
        trial, final = trials.get(digest), measured.get(digest)
        network = trial.job.proposal.architecture if trial else measured[digest].architecture
        rows.append(
            {
                "cost": objective.metric(network),
                "accuracy": trial.outcome.accuracy if trial else None,
                "on_front": digest in unbeaten_digests,
                "final_accuracy": final.accuracy if final else None,
                "final_std": spread(final.accuracies) if final else None,
                "seeds": len(final.accuracies) if final else 0,
                "on_final_front": bool(final and (final.cost, final.accuracy) in means),
                "origin": final.origin if final else "search",
                "baseline": digest == result.baseline.digest,
                "name": network.name,
                "digest": digest,
            }
        )
    frame = pd.DataFrame(rows).sort_values(["cost", "digest"], ignore_index=True)
    return frame.astype({"accuracy": float, "final_accuracy": float, "final_std": float})


def front_table(result: SearchResult, objective: Objective, tablefmt: str = "simple") -> str:
    """The Pareto front for people."""
    frame = front_frame(result, objective)
    rows = {
        "cost": [objective.metric.format(cost) for cost in frame["cost"]],
        "accuracy of a trial": [_number(a) for a in frame["accuracy"]],
        "on the front": ["yes" if on else "" for on in frame["on_front"]],
        "mean of seeds": [
            f"{_number(mean)} ± {_number(std)} ({n})" if n else ""
            for mean, std, n in zip(
                frame["final_accuracy"], frame["final_std"], frame["seeds"], strict=True
            )
        ],
        "on the front of means": ["yes" if on else "" for on in frame["on_final_front"]],
        "found by": frame["origin"],
        "": ["<- baseline" if is_it else "" for is_it in frame["baseline"]],
    }
    return tabulate(rows, headers="keys", tablefmt=tablefmt, disable_numparse=True)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


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


def verdict(result: SearchResult, objective: Objective, target: float) -> str:
    """Whether the search was worth its trials, in words; empty without finalists.

    Args:
        result: What was found.
        objective: What was searched for.
        target: T; without a reward, only networks within it are compared.
    """
    if not result.finalists:
        return "\n".join(_front_lines(result, objective))
    noise, freedom = pooled_spread(network.rewards for network in result.finalists)
    value = objective.names[0]
    own = next(n for n in result.finalists if n.architecture.digest == result.baseline.digest)
    compared = [n for n in result.finalists if _comparable(n, own, objective, target)]
    lines = []
    for origins, words in (
        (RANDOM, "random search at the same number of trials"),
        (("stock B0",), "stock EfficientNet-B0 at the same multiply-adds"),
    ):
        rivals = [n for n in compared if n.origin in origins]
        if not rivals:
            continue
        rival = max(rivals, key=lambda n: n.reward)
        if rival is own:
            lines.append(f"found by {words} too: the search gained nothing")
            continue
        outcome = compare(own.rewards, rival.rewards, noise, freedom)
        ahead = "above" if own.reward > rival.reward else "below"
        if math.isclose(own.reward, rival.reward):
            ahead = "equal to"
        lines.append(f"{value} {own.reward:.4f} {ahead} {rival.reward:.4f} of {words}: {outcome}")
    best = max(compared, key=lambda n: n.reward)
    if best.origin in ("random", "stock B0"):
        lines.append(f"THE SEARCH DID NOT WIN: {best.origin} has the best mean {value}")
    if freedom:
        lines.append(
            f"seed noise of the {value} {noise:.4f} (standard deviation, {freedom} d.o.f.)"
        )
    lines += _front_lines(result, objective)
    return "\n".join(lines)


def _comparable(one: Measured, own: Measured, objective: Objective, target: float) -> bool:
    """A reward weighs the cost; accuracies compare within a budget only."""
    if not isinstance(objective, ParetoObjective) or one.origin == "stock B0":
        return True
    return one.cost <= max(target, own.cost)


def _front_lines(result: SearchResult, objective: Objective) -> list[str]:
    """The fronts of search and random search beside one another; none with a reward."""
    ours, theirs = _points(result.search), _points(result.control)
    finalists = [n for n in result.finalists if n.origin != "stock B0"]
    costs = [cost for cost, _ in (*ours, *theirs)] + [n.cost for n in finalists]
    if not isinstance(objective, ParetoObjective) or not theirs or min(costs) == max(costs):
        return []
    low, high = min(costs), max(costs)
    volumes = [hypervolume(points, low, high) for points in (ours, theirs)]
    form = objective.metric.format
    lines = [
        f"hypervolume {volumes[0]:.4f} of the search's trials, {volumes[1]:.4f} of random search's "
        f"(reference point accuracy 0 at {form(high)}; share of the box from {form(low)}, log cost)"
    ]
    own, random = (_volumes(finalists, origins, low, high) for origins in (OWN, RANDOM))
    if own and random:
        outcome = compare(own, random, *pooled_spread([own, random]))
        lines.append(
            f"hypervolume {np.mean(own):.4f} of its finalists, {np.mean(random):.4f} of random "
            f"search's, means over seeds: {outcome}"
        )
    return lines


def _volumes(
    finalists: Iterable[Measured], origins: Sequence[str], low: float, high: float
) -> list[float]:
    """Hypervolume of the front of the finalists, seed by seed; empty where a seed is missing."""
    networks = [n for n in finalists if n.origin in origins]
    seeds = {len(n.accuracies) for n in networks}
    if len(seeds) != 1:
        return []
    return [
        hypervolume([(n.cost, n.accuracies[seed]) for n in networks], low, high)
        for seed in range(seeds.pop())
    ]


def _points(results: Iterable[Result]) -> list[Point]:
    return [(r.cost, r.outcome.accuracy or 0.0) for r in _completed(results)]


def _completed(results: Iterable[Result]) -> list[Result]:
    return [r for r in results if r.value is not None]
