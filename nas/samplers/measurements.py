"""What a study's trials tell a model: networks, values, and how far a value is to be trusted."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.history import Choices, Past

Array = np.ndarray

_ENOUGH = 3
"""Finished trials that must have passed a step before stopped ones are judged by them."""
_LARGEST = 1e70
"""Of a value."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Networks and their values, by trial."""

    indices: Array
    """(n, choices)"""
    values: Array
    """(n,), of the first objective, as told."""
    extra_variance: Array
    """(n,), beyond the noise of a trial that ran to its end, in squared units of the values."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Array) -> "Measurements":
        return Measurements(
            indices=self.indices[rows],
            values=self.values[rows],
            extra_variance=self.extra_variance[rows],
        )

    def over(self, factors: Array, sign: float) -> "Measurements":
        """With values, times `sign`, divided by a factor of each network, (n,)."""
        return replace(
            self,
            values=sign * self.values / factors,
            extra_variance=self.extra_variance / factors**2,
        )

    def with_certain(self, indices: Array, values: Array) -> "Measurements":
        """With further ones, as if they had been measured."""
        return Measurements(
            indices=np.concatenate([self.indices, indices]),
            values=np.concatenate([self.values, values]),
            extra_variance=np.concatenate([self.extra_variance, np.zeros(len(values))]),
        )

    def thinned(self, at_most: int) -> "Measurements":
        """The later half of so many, and as many evenly from before; never chosen by value,
        which would keep the lucky ones."""
        if len(self) <= at_most:
            return self
        later = at_most // 2
        before = np.linspace(0, len(self) - later - 1, at_most - later).astype(int)
        return self[np.concatenate([before, np.arange(len(self) - later, len(self))])]


def ended(study: Study, past: Past) -> list[FrozenTrial]:
    """What `measurements` reads: finished and stopped trials, by number."""
    stopped = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return sorted([*past.finished(study), *stopped], key=lambda trial: trial.number)


def measurements(trials: Sequence[FrozenTrial], past: Past, choices: Choices) -> Measurements:
    """What finished trials measured, and what stopped ones would have.

    A PRUNED trial is taken to end where its last report leads at the ratio by which finished
    trials changed from that step on, with the variance that they show about it; without enough of
    them it tells nothing. Values beyond 1e70 count as 1e70, whose powers can be computed with.
    """
    outlook = _outlook([trial for trial in trials if trial.state == TrialState.COMPLETE])
    rows = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            rows.append((trial, trial.values[0], 0.0))
        elif (step := trial.last_step) is not None and step in outlook:
            value = trial.intermediate_values[step]
            if np.isfinite(value):
                rows.append((trial, *outlook[step].of(value)))
    return Measurements(
        indices=np.array(past.encode(choices, (trial for trial, _, _ in rows))),
        values=np.clip([value for _, value, _ in rows], -_LARGEST, _LARGEST),
        extra_variance=np.clip([variance for _, _, variance in rows], 0, _LARGEST**2),
    )


def networks_of(study: Study, choices: Choices, state: TrialState, *, besides: int = -1) -> Array:
    """What the trials in a state measure or have tried, one excepted; (n, choices)."""
    rows = [
        choices.encode(trial.params)
        for trial in study.get_trials(deepcopy=False, states=(state,))
        if trial.number != besides and choices.describes(trial)
    ]
    return np.array(rows, int).reshape(-1, len(choices.names))


@dataclass(frozen=True)
class _Outlook:
    """How reports at a step lead to final values."""

    ratio: float
    shift: float
    variance: float
    """About it."""

    def of(self, value: float) -> tuple[float, float]:
        """The final value of a trial that stopped with `value`, and its variance."""
        return value * self.ratio + self.shift, self.variance


def _outlook(finished: Iterable[FrozenTrial]) -> Mapping[int, _Outlook]:
    """By step: final over reported values, in the mean; their difference where signs vary."""
    passed: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for trial in finished:
        for step, value in trial.intermediate_values.items():
            if np.isfinite(value):
                passed[step].append((value, trial.values[0]))
    outlook = {}
    for step, pairs in passed.items():
        if len(pairs) < _ENOUGH:
            continue
        reported, final = np.array(pairs).T
        if np.min(pairs) < 0 < np.max(pairs) or not reported.any():
            ratio, shift = 1.0, float(final.mean() - reported.mean())
        else:
            ratio, shift = float(final.mean() / reported.mean()), 0.0
        outlook[step] = _Outlook(ratio, shift, float(np.var(final - ratio * reported)))
    return outlook
