"""How far rankings by shared weights and by training alone agree, in numbers and words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tabulate import tabulate

from nas.cli import format_duration
from nas.proxies.rank import Array, bootstrap_interval, kendall, seed_agreement, seed_noise

_WANTED = 0.8
"""Share of the ceiling that the supernet's ranking is to reach (issue 5)."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Accuracies and seconds, network by network."""

    macs: Array
    """`(n,)`."""
    alone: Array
    """Accuracy after training alone, `(n, seeds)`."""
    alone_seconds: Array
    shared: Array
    """Accuracy with the weights of each supernet, `(n, supernets)`."""
    shared_seconds: Array
    supernet_seconds: Array
    """Of each supernet's training, `(supernets,)`."""


def agreement(one: Array, other: Array) -> float:
    """Tau between a column of `one` and a column of `other`: the mean over all pairs."""
    return float(np.mean([kendall(a, b) for a in one.T for b in other.T]))


def taus(ranking: Ranking, seed: int) -> pd.DataFrame:
    """Kendall's tau of each comparison with its 95 % interval (networks drawn again)."""
    alone, shared, macs = ranking.alone, ranking.shared, ranking.macs[:, None]
    statistics: dict[str, Callable[[Array], float]] = {
        "supernet against training alone": lambda i: agreement(shared[i], alone[i]),
        "ceiling: training alone, seed against seed": lambda i: seed_agreement(alone[i]),
        "supernet, seed against seed": lambda i: seed_agreement(shared[i]),
        "multiply-adds against training alone": lambda i: agreement(macs[i], alone[i]),
        f"supernet less {_WANTED:g} of the ceiling": lambda i: (
            agreement(shared[i], alone[i]) - _WANTED * seed_agreement(alone[i])
        ),
    }
    rows = []
    everything = np.arange(len(macs))
    for name, statistic in statistics.items():
        low, high = bootstrap_interval(statistic, len(macs), seed=seed)
        rows.append({"comparison": name, "tau": statistic(everything), "low": low, "high": high})
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    """Whether the ranking reaches the wanted share of the ceiling, in words."""
    low, high = table["low"].iloc[-1], table["high"].iloc[-1]
    goal = f"{_WANTED:g} of the ceiling"
    if low >= 0:
        return f"REACHED: the supernet's tau is at least {goal}"
    return f"MISSED: it is below {goal}" if high < 0 else f"NOT RESOLVED: it may be {goal} or not"


def summary(ranking: Ranking, seed: int) -> str:
    """Tables of taus, noise and time, and the verdict."""
    table = taus(ranking, seed)
    noises = []
    for name, values in (("training alone", ranking.alone), ("supernet", ranking.shared)):
        noise = seed_noise(values)
        low, high = noise.interval
        noises.append(
            {
                "": name,
                "mean accuracy": f"{values.mean():.3f}",
                "seed noise": f"{noise.within:.4f}",
                "spread of networks": f"{noise.between:.4f}",
                "reliability": f"{noise.reliability:.2f} ({low:.2f} to {high:.2f})",
            }
        )
    trial, look = ranking.alone_seconds.mean(), ranking.shared_seconds.mean()
    training = ranking.supernet_seconds.mean()
    lines = [
        f"a training alone {trial:.2f} s, a supernet {training:.0f} s (as {training / trial:.0f} "
        f"trainings), an evaluation with its weights {look:.3f} s ({trial / look:.0f} to 1)",
        f"for 1,000 networks {format_duration(training + 1000 * look)} against "
        f"{format_duration(1000 * trial)}",
        verdict(table),
    ]
    rows = [
        (name, f"{tau:.2f}", f"{low:.2f} to {high:.2f}")
        for name, tau, low, high in table.itertuples(index=False)
    ]
    tables = [
        tabulate(rows, ("", "tau", "interval"), tablefmt="github", disable_numparse=True),
        tabulate(noises, headers="keys", tablefmt="github", disable_numparse=True),
    ]
    return "\n\n".join([*tables, "\n".join(f"- {line}" for line in lines)])
