"""The verdict of `scaling_search.validate` in words: what holds, what is open, what to do."""

import math
from collections.abc import Iterable, Sequence

from scaling_search.contest import FITTED
from scaling_search.two_way import MAX_SEEDS, POWER
from scaling_search.verdict import Assessment, Comparison, Judged, Standing


def verdict_lines(assessment: Assessment) -> list[str]:
    """The verdict, what it rests on, and what to do about it."""
    lines = [f"{assessment.kind}: {_headline(assessment)}"]
    for judged in assessment.levels:
        where = f"phi {judged.level.phi:g}"
        lines += [f"{where}: {words}" for words in _level_words(judged, assessment.base)]
    return [*lines, *_advice(assessment)]


def winner(assessment: Assessment) -> Standing:
    """Of a fit that fails, the most accurate rival that is ahead, at the largest phi of these."""
    levels = sorted(assessment.levels, key=lambda judged: -judged.level.phi)
    groups = [[c.rival for c in j.comparisons if c.outcome == "behind"] for j in levels]
    return max(next(filter(None, groups)), key=lambda standing: standing.mean)


def points(difference: float) -> str:
    """A difference of accuracies in percentage points: `+1.20`."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # + 0.0: -0 is 0


def _headline(assessment: Assessment) -> str:
    phis = " and ".join(f"{judged.level.phi:g}" for judged in assessment.levels)
    if assessment.kind == "HOLDS":
        return f"at phi {phis} the fitted constants are ahead of every single axis, behind no rule"
    if assessment.kind == "FAILS":
        rules = {c.rival.contestant.label for c in assessment.comparisons if c.outcome == "behind"}
        return f"at phi {phis} the fitted constants are behind {_listed(sorted(rules))}"
    if not assessment.comparisons:
        return f"at phi {phis} there is no other network to compare with"
    if all(judged.freedom == 0 for judged in assessment.levels):
        return "one seed says nothing about noise, use --seeds 3 or more"
    return f"at phi {phis} the fitted constants are not ahead of every single axis beyond noise"


def _level_words(judged: Judged, base: Standing | None) -> Iterable[str]:
    if base is not None:
        gain = points(judged.fitted.mean - base.mean)
        yield f"accuracy of fitted is {100 * judged.fitted.mean:.2f} %, {gain} points over the base"
    names = [rule for rule in judged.fitted.contestant.rules if rule != FITTED]
    if names:
        yield f"{_listed(names)} and fitted are one network here"
    for outcome in ("behind", "ahead", "not told apart"):
        group = [c for c in judged.comparisons if c.outcome == outcome]
        if group:
            words = {"behind": "BEHIND", "ahead": "ahead of"}.get(outcome, "not told apart from")
            yield f"{words} {_listed([_against(c) for c in group])}"
    if judged.failed:
        yield f"all trials of {_listed([c.label for c in judged.failed])} failed"
    if judged.level.missing:
        yield f"no network of this cost by {_listed(list(judged.level.missing))}"
    if judged.freedom:
        yield (
            f"seed noise {100 * judged.noise:.2f} points (standard deviation, {judged.freedom} "
            "d.o.f.)"
        )


def _against(comparison: Comparison) -> str:
    """A rival with the difference, and what else is to be known."""
    words = points(comparison.difference)
    if math.isfinite(comparison.margin):
        words += f" ± {100 * comparison.margin:.2f}"
    if comparison.hangs_on_cost:
        words += f", but {points(comparison.even)} at equal cost"
    return f"{comparison.rival.contestant.label} ({words})"


def _advice(assessment: Assessment) -> list[str]:
    if assessment.kind == "HOLDS":
        return []
    if assessment.kind == "FAILS":
        return [
            f"to do: scale by {winner(assessment).contestant.label} instead, or fit once more "
            "nearer to where you scale to (scaling_search.grid --ratio 4) and validate that"
        ]
    open_ones = assessment.open_axes
    if not (open_ones and any(judged.freedom for judged in assessment.levels)):
        return []
    needed = [
        f"{c.seeds_needed or f'more than {MAX_SEEDS}'} for {c.rival.contestant.label} at phi "
        f"{judged.level.phi:g}"
        for judged in assessment.levels
        for c in judged.comparisons
        if c in open_ones
    ]
    lines = [
        "to do: were the differences as they are seen, it would take so many seeds to tell them "
        f"apart ({POWER:.0%} power): {_listed(needed)}"
    ]
    if any(c.seeds_needed is None for c in open_ones):
        lines.append(
            "to do: rules part further up (a larger --phi), and noise shrinks with more --epochs "
            "or images; or they are as good as one another here"
        )
    return lines


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
