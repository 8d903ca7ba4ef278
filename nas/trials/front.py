"""The Pareto front: what is not beaten in one value without winning in another; pure."""

from collections.abc import Iterable, Sequence

from nas.trials.trial import Result


def dominates(one: Sequence[float], other: Sequence[float], directions: Sequence[str]) -> bool:
    """Whether `one` is nowhere worse than `other`, and somewhere better.

    Args:
        one: Values.
        other: Values.
        directions: Of the values, `maximize` or `minimize`.
    """
    ones, others = oriented(one, directions), oriented(other, directions)
    return ones != others and all(a >= b for a, b in zip(ones, others, strict=True))


def front(results: Iterable[Result], directions: Sequence[str]) -> list[Result]:
    """The completed results that no other dominates, by slot; the earliest of equals."""
    best: list[Result] = []
    covered: list[tuple[float, ...]] = []
    # In falling order, so that nothing dominates what stands before it.
    ranked = [(oriented(r.values, directions), r) for r in results if r.values is not None]
    ranked.sort(key=lambda entry: (tuple(-value for value in entry[0]), entry[1].job.slot))
    for values, result in ranked:
        if not any(all(a >= b for a, b in zip(other, values, strict=True)) for other in covered):
            best.append(result)
            covered.append(values)
    return sorted(best, key=lambda result: result.job.slot)


def oriented(values: Sequence[float], directions: Sequence[str]) -> tuple[float, ...]:
    """Values turned so that more is better."""
    pairs = zip(values, directions, strict=True)
    return tuple(value if direction == "maximize" else -value for value, direction in pairs)
