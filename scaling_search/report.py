"""What a grid says at its end: the verdict in words, and a plot."""

from io import BytesIO

from matplotlib.figure import Figure

from nas.search.report import spread
from scaling_search.constants import Ranking


def summary(ranking: Ranking, majority: float | None) -> list[str]:
    """Lines for the terminal: the best, the seed noise, and which rivals it leaves open.

    Args:
        ranking: What the trials gave.
        majority: Accuracy of always answering the largest class; None: not known.
    """
    best = ranking.best
    alpha, beta, gamma = best.candidate.coefficients.values
    lines = [
        f"best    alpha {alpha:g}, beta {beta:g}, gamma {gamma:g} · accuracy {best.mean:.4f} (mean "
        f"of {len(best.accuracies)} seeds) · product {best.candidate.product:.3f} · measured "
        f"x{best.candidate.ratio:.2f}"
    ]
    if majority is not None and best.mean <= majority + 0.02:
        lines.append(
            f"WARNING no candidate is better than the largest class ({majority:.1%}): train "
            "longer (--epochs), or look at the data."
        )
    return lines + _verdict(ranking)


def _verdict(ranking: Ranking) -> list[str]:
    if len(ranking.standings) == 1:
        return ["NOT RESOLVED: there is one network only; widen the bounds or take a smaller step."]
    if ranking.freedom == 0:
        return ["NOT RESOLVED: one seed says nothing about noise; use --seeds 3 or more."]
    lines = [
        f"noise   {ranking.noise:.4f} between seeds of one network (standard deviation, "
        f"{ranking.freedom} d.o.f.)"
    ]
    if ranking.resolved:
        return [*lines, "        ahead of all others by more than the seed noise explains"]
    names = ", ".join(standing.candidate.coefficients.label for standing in ranking.tied)
    return [
        *lines,
        f"NOT RESOLVED: {len(ranking.tied)} of the other {len(ranking.standings) - 1} cannot be "
        f"told apart from the best: {names}",
        "        more --seeds, --epochs or images would tell more of them apart",
    ]


def ranking_plot(ranking: Ranking) -> bytes:
    """PNG of every candidate's mean accuracy and seed spread against its measured cost."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    tied = {id(s) for s in (ranking.best, *ranking.tied)}
    for is_tied, color, label in ((True, "C1", "best and tied"), (False, "C0", "behind")):
        group = [s for s in ranking.standings if (id(s) in tied) == is_tied]
        if not group:
            continue
        axes.errorbar(
            [s.candidate.ratio for s in group],
            [s.mean for s in group],
            yerr=[spread(s.accuracies) if len(s.accuracies) > 1 else 0.0 for s in group],
            fmt="o",
            capsize=2,
            color=color,
            label=label,
        )
    best = ranking.best.candidate
    axes.annotate(
        f"best: {best.coefficients.label}",
        (best.ratio, ranking.best.mean),
        (5, 5),
        textcoords="offset points",
    )
    axes.set(xlabel="measured multiply-adds over the baseline's", ylabel="accuracy")
    axes.legend(fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
