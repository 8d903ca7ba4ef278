"""The tables, the plot and the words of `nas.proxy`."""

import math
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pandas as pd
from tabulate import tabulate

from nas.cli import format_number
from nas.proxies.plan import Measurements
from nas.proxies.rank import tau_of_correlation
from nas.proxies.verdict import BUDGET_TRIALS, MIN_RELIABILITY, MIN_TAU, Assessment
from nas.search.session import lasting
from search_spaces.cost import count


def trials_frame(measurements: Sequence[Measurements]) -> pd.DataFrame:
    """One row a trial that succeeded; `network` counts from 1, by multiply-adds at the proxy."""
    rows = []
    for measured in measurements:
        series, setting = measured.series, measured.series.setting
        for i, j in np.argwhere(~np.isnan(measured.accuracies)):
            network = series.networks[i]
            cost = count(network)
            rows.append(
                {
                    "series": series.name,
                    "epochs": setting.epochs,
                    "resolution": setting.resolution,
                    "target_macs": setting.target_macs,
                    "network": i + 1,
                    "digest": network.digest,
                    "macs": cost.macs,
                    "params": cost.params,
                    "seed": series.seeds[j],
                    "accuracy": measured.accuracies[i, j],
                    "seconds": measured.seconds[i, j],
                }
            )
    return pd.DataFrame(rows)


def settings_table(assessments: Sequence[Assessment], fmt: str = "simple") -> str:
    """One row a setting: how it ranks, what it costs."""
    rows = [
        {
            "setting": assessment.series.setting.label,
            "tau": f"{assessment.tau:.2f}",
            "95 %": f"{assessment.interval[0]:.2f} to {assessment.interval[1]:.2f}",
            "reward": f"{assessment.tau_reward:.2f}",
            "seeds": f"{assessment.agreement:.2f}",
            "noise": f"{assessment.noise.within:.4f}",
            "spread": f"{assessment.noise.between:.4f}",
            "s/trial": f"{assessment.seconds:.1f}",
            "tau/min": f"{60 * assessment.tau / assessment.seconds:.2f}"
            if assessment.seconds > 0
            else "-",
            "gain": f"{assessment.gain:.2f}",
            "": "fit" if assessment.fit else "unfit",
        }
        for assessment in assessments
    ]
    return tabulate(rows, headers="keys", tablefmt=fmt, disable_numparse=True)


def networks_table(measurements: Sequence[Measurements]) -> str:
    """One row a network: its cost, and its mean accuracy at every setting."""
    rows = []
    for i, macs in enumerate(measurements[0].series.macs):
        row = {"network": str(i + 1), "multiply-adds": format_number(macs)}
        for measured in measurements:
            known = measured.accuracies[i][~np.isnan(measured.accuracies[i])]
            row[measured.series.name] = f"{known.mean():.3f}" if known.size else "-"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def verdict_lines(proxy: Assessment, num_asked: int, num_long_seeds: int) -> list[str]:
    """The verdict on the proxy, and what it rests on."""
    low, high = proxy.interval
    noise = proxy.noise
    lines = [f"{'FIT' if proxy.fit else 'UNFIT'}: {proxy.series.setting.label}"]
    lines += [f"because {reason}" for reason in proxy.reasons]
    lines += [
        f"tau {proxy.tau:.2f}, 95 % interval {low:.2f} to {high:.2f} ({proxy.num_networks} "
        f"networks): a trial orders {(1 + proxy.tau) / 2:.0%} of the pairs as long trainings do",
        f"the reward's tau {proxy.tau_reward:.2f}; its cost factor alone gives "
        f"{proxy.tau_macs_reward:.2f}",
        f"multiply-adds alone rank accuracy with tau {proxy.tau_macs:.2f}; the trials are "
        f"{proxy.tau - proxy.tau_macs:.2f} above that ({proxy.above_macs[0]:.2f} to "
        f"{proxy.above_macs[1]:.2f})",
        f"seed noise {noise.within:.4f}, spread of networks {noise.between:.4f}: "
        f"{noise.reliability:.0%} of a trial's variance is the network's "
        f"({noise.interval[0]:.0%} to {noise.interval[1]:.0%})",
        f"two seeds agree with tau {proxy.agreement:.2f} "
        f"({tau_of_correlation(noise.reliability):.2f} expected of this noise); it permits at most "
        f"tau {noise.permitted_tau:.2f} with any truth",
    ]
    if num_long_seeds == 1:
        lines.append("the long trainings have one seed each: their own noise lowers every tau")
    if proxy.num_networks < num_asked:
        lines.append(f"{num_asked - proxy.num_networks} of {num_asked} networks lack a trial")
    return lines


def choice_lines(
    proxy: Assessment, best: Assessment | None, difference: tuple[float, float] | None
) -> list[str]:
    """Which setting to use instead, or what to change; empty if the proxy is the best."""
    if best is not None and difference is not None:
        low, high = difference
        told = "" if low > 0 or high < 0 else ", not told apart"
        return [
            f"{best.series.setting.label} buys most: gain {best.gain:.2f} against {proxy.gain:.2f} "
            f"(difference {low:.2f} to {high:.2f}{told})"
        ]
    if proxy.fit:
        return []
    if wants_networks(proxy):
        return ["more networks narrow the interval; those trained here are among them"]
    remedies = ["train longer; finished trials are reused, the proxy's as a cheaper setting"]
    if proxy.noise.reliability < MIN_RELIABILITY:
        remedies.append(
            "or judge by more images, if there are more: few make noise (--max-images or "
            "--val-images, in a new --run-dir)"
        )
    return remedies


def wants_networks(proxy: Assessment) -> bool:
    """Whether all that is wrong is an interval that more networks would narrow."""
    return len(proxy.reasons) == 1 and proxy.interval[0] <= 0 and proxy.tau >= MIN_TAU


def markdown(
    plan: Sequence[str],
    measurements: Sequence[Measurements],
    assessments: Sequence[Assessment],
    verdict: Sequence[str],
    following: str,
) -> str:
    """The report."""
    parts = ["# Is the proxy any good?", "", *(f"    {line}" for line in lasting(plan)), ""]
    parts += ["## Verdict", "", *(f"- {line}" for line in verdict), "", f"    {following}", ""]
    parts += ["## Settings", "", settings_table(assessments, "github"), "", _EXPLANATION, ""]
    for assessment in assessments[1:]:
        if assessment.reasons:
            parts += [f"Unfit: {assessment.series.setting.label}, because", ""]
            parts += [*(f"- {reason}" for reason in assessment.reasons), ""]
    parts += ["## Networks", "", "Mean accuracy over seeds.", "", networks_table(measurements), ""]
    return "\n".join(parts)


def ranking_plot(measurements: Sequence[Measurements], assessments: Sequence[Assessment]) -> bytes:
    """PNG of every setting's trials against the long trainings, a panel each."""
    from matplotlib.figure import Figure

    truth = measurements[1].accuracies
    counts = (~np.isnan(truth)).sum(axis=1)
    means = np.where(counts > 0, np.nansum(truth, axis=1) / np.maximum(counts, 1), math.nan)
    figure = Figure(figsize=(3.6 * len(assessments), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(assessments), sharey=True))
    by_series = {id(m.series): m for m in measurements}
    for axes, assessment in zip(panels, assessments, strict=True):
        for j, column in enumerate(by_series[id(assessment.series)].accuracies.T):
            axes.scatter(column, means, s=18, alpha=0.7, label=f"seed {assessment.series.seeds[j]}")
        axes.set_title(f"{assessment.series.setting.label}\ntau {assessment.tau:.2f}", fontsize=9)
        axes.set_xlabel("accuracy of a trial")
    panels[0].set_ylabel("accuracy of the long trainings")
    panels[0].legend(fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


_EXPLANATION = f"""\
tau: Kendall's tau-b of the accuracies of single trials with the long trainings' (mean over
seeds), with its 95 % interval (Fieller, Hartley & Pearson 1957). reward: tau of the rewards.
seeds: tau of two trials of the same networks from other seeds. noise, spread: standard deviation
of accuracy between the seeds of a network, and between networks without that noise. gain: how many
standard deviations better than average, by the long trainings, the best-looking network is of as
many as can be tried in the time of {BUDGET_TRIALS} proxy trials; it weighs how well a setting
ranks against how many networks it lets one see.

The networks are spread over the space. Among the few best of a search, which lie closer together,
every proxy ranks worse; hence the finalists of `nas.run`, trained longer and with several seeds."""
