"""Randomness that depends on nothing but the study's seed and the trial's number.

A sampler that keeps one generator for a whole study repeats itself after a restart: the generator
begins anew, the study does not. So every trial gets its own, and a resumed search goes on as the
uninterrupted one would.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.trial import FrozenTrial, TrialState


def rng_for(seed: int, trial_number: int) -> np.random.Generator:
    """The generator of one trial's draws.

    Raises:
        ValueError: A negative number.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, trial_number]))


def seed_for(seed: int, trial_number: int, name: str = "") -> int:
    """A seed below 2^32 for one trial or, with the `name` of a parameter, for its draw alone."""
    words = [seed, trial_number, zlib.crc32(name.encode())] if name else [seed, trial_number]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class PerTrial(BaseSampler):
    """Any sampler, made anew for every trial with a seed of its own.

    For samplers that keep a generator but derive all else they know from the study, as Optuna's
    random, TPE, NSGA-II do.
    """

    def __init__(self, factory: Callable[[int], BaseSampler], seed: int = 0) -> None:
        """`factory(seed)` makes the sampler of one trial."""
        self._factory, self._seed = factory, seed
        self._samplers: dict[int, BaseSampler] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # A new one even where the number was seen: in another study, in an earlier life of this.
        sampler = self._samplers[trial.number] = self._new(trial)
        sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        sampler = self._samplers.pop(trial.number, None) or self._new(trial)
        sampler.after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            self._samplers[trial.number] = self._new(trial)
        return self._samplers[trial.number]

    def _new(self, trial: FrozenTrial) -> BaseSampler:
        return self._factory(seed_for(self._seed, trial.number))


class OrderedNSGAIISampler(NSGAIISampler):
    """NSGA-II whose parents always stand in the order of their trials.

    Optuna draws from the parents in the order of their selection when a generation begins, and in
    the order of their trials from then on. A search resumed within a generation selects again,
    and would go on otherwise than the uninterrupted one.
    """

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)
