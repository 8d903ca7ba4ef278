"""The report of a search: report.md, and its first line, which the terminal shows too."""

from collections.abc import Sequence

from tabulate import tabulate

from nas.cli import format_number, plural
from nas.costs.objective import Objective, ParetoObjective
from nas.search.baseline import SearchResult
from nas.search.report import finalists_frame, front_table, verdict
from nas.search.session import lasting
from nas.untrusted import markdown_text
from search_spaces.cost import count


def headline(result: SearchResult, objective: Objective) -> str:
    """The baseline in a line: its accuracy and its costs."""
    baseline, metric = result.baseline, objective.metric
    measured = next((n for n in result.finalists if n.architecture == baseline), None)
    accuracy = "accuracy not confirmed by finalists"
    if measured:
        seeds = plural(len(measured.accuracies), "seed")
        accuracy = f"accuracy {measured.accuracy:.3f} (mean of {seeds})"
    cost = count(baseline)
    parts = [baseline.name, accuracy]
    if metric.name not in ("macs", "params"):
        parts.append(metric.format(metric(baseline)))
    parts += [f"{format_number(cost.macs)} multiply-adds", f"{format_number(cost.params)} params"]
    return " · ".join(parts)


def markdown(
    result: SearchResult, summary: Sequence[str], objective: Objective, target: float
) -> str:
    """The report: baseline, verdict, front, finalists, the baseline's stages, conditions.

    Args:
        result: What was found.
        summary: The lines of the plan.
        objective: What was searched for.
        target: T, in the unit of the cost.
    """
    parts = ["# Search report", "", f"Baseline: {markdown_text(headline(result, objective))}", ""]
    parts += ["![accuracy against cost](pareto.png)", ""]
    if words := verdict(result, objective, target):
        parts += ["## Verdict", "", *(f"- {line}" for line in words.splitlines()), ""]
    if isinstance(objective, ParetoObjective):
        parts += [f"## Accuracy against {objective.metric.describe()}", ""]
        parts += [front_table(result, objective, "github"), ""]
    if result.finalists:
        parts += ["## Finalists", "", _finalists(result, objective), "", _EXPLANATION, ""]
    else:
        parts += ["No finalists were asked for: the baseline is not confirmed by repeats.", ""]
    parts += ["## Baseline", "", "```", result.baseline.table(), "```", ""]
    parts += ["## How it was searched", "", *(f"    {line}" for line in lasting(summary)), ""]
    if result.epochs_saved:
        parts += [epochs_line(result), ""]
    return "\n".join(parts)


_EXPLANATION = """\
Each was trained anew, with every seed; ± is the standard deviation over seeds. Accuracies, here and
above, are of the held-out images that candidates are judged by (search-val), never of test images.
Found by both: by the search and by random search. Stock B0: EfficientNet-B0, its width fitted to
the baseline's multiply-adds."""


def _finalists(result: SearchResult, objective: Objective) -> str:
    frame, metric = finalists_frame(result.finalists, objective), objective.metric
    table = {"found by": frame["origin"], "network": frame["name"].map(markdown_text)}
    if "reward" in frame:
        table["reward"] = frame["reward"].map("{:.4f}".format)
    table["accuracy"] = [
        f"{mean:.4f} ± {std:.4f}" if seeds > 1 else f"{mean:.4f}"
        for mean, std, seeds in zip(
            frame["accuracy"], frame["accuracy_std"], frame["seeds"], strict=True
        )
    ]
    table["seeds"] = frame["seeds"]
    if metric.name not in ("macs", "params"):
        table[metric.name] = frame[metric.name].map(metric.format)
    table["multiply-adds"] = frame["macs"].map(format_number)
    table["params"] = frame["params"].map(format_number)
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)


def epochs_line(result: SearchResult) -> str:
    """What successive halving saved."""
    total = result.epochs_spent + result.epochs_saved
    return (
        f"Successive halving trained {result.epochs_spent} of {total} epochs of the trials: "
        f"{result.epochs_saved} saved ({result.epochs_saved / total:.0%})."
    )
