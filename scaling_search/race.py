"""Racing: trainings go where the decision is, within a budget.

Every network is trained with the first seed. Then, round by round, those that the trainings of all
show to be worse than the best are out, and of the others the half that is likeliest to be the best
is trained with its next seed: the same seeds in the same order for all, so that networks are
compared on equal terms. The test is that of `scaling_search.fit`: simultaneous t tests on the mixed
model of all trainings, 5 % error shared by all rivals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nas.cli import plural
from scaling_search.candidates import Candidate
from scaling_search.compound import ScalingError
from scaling_search.fit import Accuracies, Fit

Run = tuple[Candidate, int]
"""A candidate and the index of its seed, from 0."""

SHARE = 1 / 3
"""Of all networks with all seeds: the budget where none is named."""


class Schedule(Protocol):
    """Which trainings to do next; it is told what they gave."""

    @property
    def budget(self) -> int:
        """Trainings in all, at most."""
        ...

    @property
    def rounds(self) -> int:
        """In which the budget is spent if no network is out before."""
        ...

    @property
    def fit(self) -> Fit | None:
        """Of what was told so far; None before the first accuracy."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        ...

    def next_round(
        self, at_most: int | None = None, is_known: Callable[[Run], bool] = lambda run: False
    ) -> list[Run]:
        """The trainings of the next round; empty: over, or none allowed.

        Args:
            at_most: So many that are not known.
            is_known: Whether a training takes no time, for it was done before.
        """
        ...

    def tell(self, accuracies: Accuracies) -> None:
        """Learn what a round gave, by digest and index of the seed; failed ones are missing.

        Raises:
            ValueError: Every candidate was trained, and all failed.
        """
        ...

    def describe(self, number: int) -> str:
        """A line for the terminal, for a round of so many trainings that has begun."""
        ...


@dataclass(kw_only=True)
class FullGrid:
    """Every candidate with every seed; a seed is a round."""

    candidates: Sequence[Candidate]
    seeds: int
    """Trainings of each candidate."""
    target: float
    """Cost as a multiple of the base's, see `Fit`."""
    seed: int = 0
    """Of the fit's draws."""
    fit: Fit | None = field(default=None, init=False)
    _begun: int = field(default=0, init=False)
    _accuracies: dict[str, dict[int, float]] = field(default_factory=dict, init=False)

    @property
    def budget(self) -> int:
        return len(self.candidates) * self.seeds

    @property
    def rounds(self) -> int:
        return self.seeds

    @property
    def is_over(self) -> bool:
        return self._begun >= self.budget

    def next_round(
        self, at_most: int | None = None, is_known: Callable[[Run], bool] = lambda run: False
    ) -> list[Run]:
        number = len(self.candidates) - self._begun % len(self.candidates)
        number = min(number, self.budget - self._begun)
        indices = range(self._begun, self._begun + number)
        every = [
            (self.candidates[i % len(self.candidates)], i // len(self.candidates)) for i in indices
        ]
        runs = _affordable(every, at_most, is_known)
        self._begun += len(runs)
        return runs

    def tell(self, accuracies: Accuracies) -> None:
        _merge(self._accuracies, accuracies)
        if not self._accuracies and self._begun < len(self.candidates):
            return  # the first few failed, of a round that time cut short
        self.fit = Fit(self.candidates, self._accuracies, target=self.target, seed=self.seed)

    def describe(self, number: int) -> str:
        return f"round   {plural(number, 'training')}; {self._begun} of {self.budget}"


@dataclass(kw_only=True)
class Race:
    """A `Schedule` that leaves out what the trainings so far show to be worse than the best.

    It depends on its arguments and on what it was told alone, so a race that is told the same is
    the same race.

    Raises:
        ScalingError: The budget does not suffice for one training of each candidate.
    """

    candidates: Sequence[Candidate]
    seeds: int
    """Trainings of one candidate at most."""
    budget: int
    """Trainings in all, failed ones included."""
    target: float
    """Cost as a multiple of the base's, see `Fit`."""
    at_once: int = 1
    """Trainings that run side by side: no round is smaller."""
    seed: int = 0
    """Of the fit's draws."""
    spent: int = field(default=0, init=False)
    """Trainings begun so far."""
    fit: Fit | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.budget < len(self.candidates):
            raise ScalingError(
                f"A budget of {self.budget} trainings does not suffice for one of each of the "
                f"{len(self.candidates)} networks. Raise --trials, or take fewer networks "
                "(--candidates)."
            )
        self._started = dict.fromkeys(self._digests, 0)
        self._accuracies: dict[str, dict[int, float]] = {}
        self._out: set[str] = set()
        self._rounds = 0

    @property
    def rounds(self) -> int:
        number = len(self.candidates)
        return 1 + math.ceil((self.budget - number) / self._size(number))

    @property
    def remaining(self) -> list[Candidate]:
        """Candidates that are not out."""
        return [c for c in self.candidates if c.architecture.digest not in self._out]

    @property
    def is_over(self) -> bool:
        return self.spent >= self.budget or not self._choose()

    def next_round(
        self, at_most: int | None = None, is_known: Callable[[Run], bool] = lambda run: False
    ) -> list[Run]:
        chosen = self._choose()[: max(0, self.budget - self.spent)]
        every = [(c, self._started[c.architecture.digest]) for c in chosen]
        runs = _affordable(every, at_most, is_known)
        for candidate, _ in runs:
            self._started[candidate.architecture.digest] += 1
        self.spent += len(runs)
        self._rounds += bool(runs)
        return runs

    def tell(self, accuracies: Accuracies) -> None:
        _merge(self._accuracies, accuracies)
        if not self._accuracies and self.spent < len(self.candidates):
            return  # the first few failed, of a round that time cut short
        self.fit = Fit(self.candidates, self._accuracies, target=self.target, seed=self.seed)
        tied = {s.candidate.architecture.digest for s in (self.fit.best, *self.fit.tied)}
        begun = {digest for digest, number in self._started.items() if number}
        self._out |= begun - tied
        self._out.discard(self.fit.best.candidate.architecture.digest)

    def describe(self, number: int) -> str:
        left = len(self.remaining)
        return (
            f"round   {self._rounds}: {plural(number, 'training')}; {left} of "
            f"{len(self.candidates)} networks are left; {self.spent} of at most {self.budget} "
            "trainings"
        )

    @property
    def _digests(self) -> list[str]:
        return [candidate.architecture.digest for candidate in self.candidates]

    def _choose(self) -> list[Candidate]:
        """Whom to train next, in this order: first whoever was not yet."""
        fresh = [c for c in self.candidates if not self._started[c.architecture.digest]]
        remaining = self.remaining
        if fresh or self.fit is None or len(remaining) == 1:
            return fresh
        chances = self.fit.chances()
        open_ones = [c for c in remaining if self._started[c.architecture.digest] < self.seeds]
        open_ones.sort(key=lambda c: -chances.get(c.architecture.digest, 0.0))
        return open_ones[: self._size(len(remaining))]

    def _size(self, remaining: int) -> int:
        """Trainings of a round after the first."""
        return max(self.at_once, math.ceil(remaining / 2))


def default_budget(candidates: int, seeds: int) -> int:
    """A third of all trainings, and one of each candidate at least."""
    return max(candidates, math.ceil(candidates * seeds * SHARE))


def _affordable(
    runs: Sequence[Run], at_most: int | None, is_known: Callable[[Run], bool]
) -> list[Run]:
    """The first of `runs`, `at_most` so many that are not known."""
    found: list[Run] = []
    for run in runs:
        if at_most is not None and not is_known(run):
            if at_most == 0:
                break
            at_most -= 1
        found.append(run)
    return found


def _merge(known: dict[str, dict[int, float]], accuracies: Accuracies) -> None:
    for digest, of_one in accuracies.items():
        known.setdefault(digest, {}).update(of_one)
