"""Candidates with chosen shares, and accuracies of them whose truth is known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scaling_search.candidates import Candidate
from scaling_search.fit import Fit
from scaling_search.shares import Shares
from search_spaces.cost import count
from tests.grid_evaluators import TINY

Truth = Callable[[np.ndarray], np.ndarray]


def lattice(n: int) -> np.ndarray:
    """The triangle's points whose shares are multiples of 1/n, `(points, 3)`."""
    return np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n


def candidates_at(shares: np.ndarray, ratios: np.ndarray | None = None) -> tuple[Candidate, ...]:
    """Networks that differ in nothing but their digest, said to have these shares and ratios."""
    made = []
    for i, row in enumerate(shares):
        network = replace(TINY, dropout=i / 1000)
        coefficients = Shares(*row.tolist()).coefficients()
        candidate = Candidate(
            architecture=network,
            coefficients=coefficients,
            triples=(coefficients,),
            shares=Shares(*row.tolist()),
            cost=count(network),
            ratio=2.0 if ratios is None else float(ratios[i]),
        )
        made.append(candidate)
    return tuple(made)


def accuracies_of(
    candidates: tuple[Candidate, ...], values: np.ndarray
) -> dict[str, dict[int, float]]:
    """By digest and seed, from `(candidates, seeds)`; NaN: no training."""
    return {
        c.architecture.digest: {s: float(v) for s, v in enumerate(row) if not np.isnan(v)}
        for c, row in zip(candidates, values, strict=True)
    }


def peak(optimum: tuple[float, float, float], depth: float = 0.06) -> Truth:
    """A quadratic with its highest point, .6, at `optimum`."""
    return lambda shares: 0.6 - depth * ((shares - np.array(optimum)) ** 2).sum(1)


def fitted(values: np.ndarray, shares: np.ndarray, ratios: np.ndarray | None = None) -> Fit:
    """The fit of candidates at `shares` with these accuracies, `(candidates, seeds)`."""
    candidates = candidates_at(shares, ratios)
    return Fit(candidates, accuracies_of(candidates, values), target=2.0, seed=0)
