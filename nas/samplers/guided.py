"""Model-guided search: learn accuracy, know cost, answer with what the model believes best.

What makes the search for a network special, and what this uses: cost is known exactly without
training, so that only accuracy is learnt, and learnt from cost and shape too; choices are
categorical, and the same decision recurs in every block; a measurement is noisy, so that the best
one is mostly lucky; several workers ask at once.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.belief import Belief, Factor, undominated
from nas.samplers.candidates import Candidates
from nas.samplers.features import Costs, Features
from nas.samplers.history import Choices, ChoiceSampler, Indices
from nas.samplers.measurements import Measurements, ended, measurements, networks_of
from nas.samplers.surrogate import Surrogate, fit, parts_for

Array = np.ndarray
Discount = Callable[[Array], Array]
"""First known cost of n networks, (n,) -> what their accuracy is multiplied with, (n,)."""

_FIT_AT_MOST, _MODEL_AT_MOST = 400, 1000
"""Measurements that the model is fitted to, and that it holds."""
_MAX_BUDGETS = 40
"""Of a recommended front."""


@dataclass(frozen=True, kw_only=True)
class GuidedSettings:
    """Ours; measured with `experiments.search_benchmark`, see experiments/LOG.md."""

    startup_trials: int = 10
    """Trials, those that run too, before which networks are drawn uniformly; half as many must
    have finished."""
    greedy_trials: int = 40
    """Finished trials before which a network is the one of greatest expected improvement; from
    then on it is the one that tells most of whether another than the best believed is better."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: Not a single trial to start from.
        """
        if self.startup_trials < 1:
            raise ValueError(
                f"`startup_trials` must be at least 1, or there is nothing to learn from; got "
                f"{self.startup_trials}."
            )


class ModelGuidedSampler(ChoiceSampler):
    """Proposes networks by a Gaussian process on accuracy, with cost known.

    The value of a trial is taken to be `accuracy * discount(cost)`: the model learns accuracy, and
    the discount is applied to what it believes. With two objectives, accuracy up and cost down,
    each trial serves a budget drawn log-uniformly over the costs of the space.

    Trials that run elsewhere count as measured at what the model expects, so that parallel asks
    differ. Stopped (PRUNED) trials count as what they would have become. No network is proposed
    twice until the space is exhausted, nor is one whose trial FAILed: what leads to a failure would
    lead there again.

    Where some trials have choices that others lack, it knows those that all share, and those alone:
    `costs` are asked about no others, repeats are told by them, and recommendations hold them.
    """

    def __init__(
        self,
        *,
        costs: Costs | None = None,
        discount: Discount | None = None,
        settings: GuidedSettings | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            costs: Costs of networks that are known without measuring them, such as multiply-adds
                and parameters, and what else is known and positive, such as `Capacity`; the first
                is the one of the objective.
            discount: Of the objective, from the first cost; None: the value itself is learnt.
            settings: How it searches.
            seed: Of every draw, with the trial's number.

        Raises:
            ValueError: A discount without costs.
        """
        super().__init__(seed=seed)
        if discount is not None and costs is None:
            raise ValueError("`discount` is a function of the first of `costs`, which are missing.")
        self._costs, self._discount = costs, discount
        self._settings = settings or GuidedSettings()
        self._features: tuple[Mapping[str, BaseDistribution], Features] | None = None
        self._scales: tuple[bytes, Array] | None = None

    def choose(
        self, study: Study, trial: FrozenTrial, choices: Choices, rng: np.random.Generator
    ) -> Indices:
        """A network to measure."""
        taken = self.past.taken(study, choices, trial) | _failed(study, choices)
        num_finished = len(self.past.finished(study))
        running = networks_of(study, choices, TrialState.RUNNING, besides=trial.number)
        startup = self._settings.startup_trials
        if num_finished + len(running) < startup or num_finished < math.ceil(startup / 2):
            return choices.avoid(taken, choices.draw(rng), rng)
        belief = self._belief(study, choices, besides=trial.number)
        if len(study.directions) > 1:
            belief = belief.within(float(np.exp(rng.uniform(*belief.features.log_cost_range))))
        candidates = Candidates(choices, belief, rng)
        if num_finished < self._settings.greedy_trials:
            proposal = candidates.of_greatest_improvement(taken)
        else:
            proposal = candidates.most_telling(taken)
        return choices.avoid(taken, proposal, rng)

    def recommend(self, study: Study, number: int) -> list[dict[str, Any]]:
        """Choices of the networks that the model believes best, measured or not, best first; none
        whose trial FAILed.

        With two objectives: of the best within each of at most `number` budgets, those that no
        other is believed to beat in both, by cost.

        Returns:
            At most `number`; none before `startup_trials` trials have finished.

        Raises:
            ValueError: `costs` or `discount` do not give what they must.
        """
        self.check(study)
        choices = Choices(self.past.space(study))
        too_early = len(self.past.finished(study)) < self._settings.startup_trials
        if number < 1 or too_early or not choices.names:
            return []
        belief = self._belief(study, choices)
        failed, rng = _failed(study, choices), np.random.default_rng(self._seed)
        if len(study.directions) == 1:
            best = Candidates(choices, belief, rng).best(number, failed)
        else:
            low, high = belief.features.log_cost_range
            logs = np.linspace(low, high, min(number, _MAX_BUDGETS)) if number > 1 else [high]
            within = (belief.within(float(budget)) for budget in np.exp(logs))
            each = (Candidates(choices, one, rng).best(1, failed) for one in within)
            best = undominated(belief, list(itertools.chain.from_iterable(each)))
        return [choices.decode(indices) for indices in best]

    def check(self, study: Study) -> None:
        if len(study.directions) == 1:
            return
        if study.directions != [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]:
            raise ValueError(
                "ModelGuidedSampler takes one objective, or accuracy to maximise and cost to "
                f"minimise; the study has {[way.name.lower() for way in study.directions]}."
            )
        if self._costs is None:
            raise ValueError("ModelGuidedSampler needs `costs` for accuracy against cost.")

    def _belief(self, study: Study, choices: Choices, besides: int = -1) -> Belief:
        """The model of the objective; more is better, whatever the study's direction."""
        features = self._features_of(choices)
        several = len(study.directions) > 1
        factor = _ones if several or self._discount is None else _checked(self._discount)

        def told_by(trials: list[FrozenTrial]) -> Measurements:
            sign = -1.0 if study.directions[0] == StudyDirection.MINIMIZE else 1.0
            told = measurements(trials, self.past, choices)
            told = told.over(factor(features.costs(told.indices)), sign)
            if several:
                # Less of what is negative would be more: a budget's factor needs positive values.
                told = replace(told, values=told.values - min(0.0, told.values.min()))
            return told

        trials = ended(study, self.past)
        scales = self._scales_of(features, told_by(_first(trials)))
        told = told_by(trials).thinned(_MODEL_AT_MOST)
        surrogate = _surrogate(features, scales, told)
        if len(others := networks_of(study, choices, TrialState.RUNNING, besides=besides)):
            expected = told.with_certain(others, surrogate.mean(features(others)))
            surrogate = _surrogate(features, scales, expected, surrogate.centre)
        return Belief(features=features, surrogate=surrogate, measured=told.indices, factor=factor)

    def _features_of(self, choices: Choices) -> Features:
        """Kept between trials for the costs that it remembers."""
        if self._features is None or self._features[0] != choices.distributions:
            self._features = choices.distributions, Features(choices, self._costs)
            self._scales = None
        return self._features[1]

    def _scales_of(self, features: Features, told: Measurements) -> Array:
        """Hyperparameters from some measurements; fitted anew where these are others."""
        told = told.thinned(_FIT_AT_MOST)
        key = told.indices.tobytes() + told.values.tobytes() + told.extra_variance.tobytes()
        if self._scales is None or self._scales[0] != key:
            networks = features(told.indices)
            parts = parts_for(networks)
            self._scales = key, fit(parts, networks, told.values, told.extra_variance)
        return self._scales[1]


def _failed(study: Study, choices: Choices) -> set[Indices]:
    return set(map(tuple, networks_of(study, choices, TrialState.FAIL).tolist()))


def _ones(costs: Array) -> Array:
    return np.ones(len(costs))


def _checked(discount: Discount) -> Factor:
    """The discount by all known costs; a ValueError where it gives none."""

    def factor(costs: Array) -> Array:
        factors = np.asarray(discount(costs[:, 0]), float)
        if factors.shape != (len(costs),) or not (np.isfinite(factors) & (factors > 0)).all():
            raise ValueError(
                f"`discount` must give {len(costs)} positive and finite numbers, one for each "
                f"cost, but gave {factors}."
            )
        return factors

    return factor


def _surrogate(
    features: Features,
    scales: Array,
    told: Measurements,
    centre: tuple[float, float] | None = None,
) -> Surrogate:
    networks = features(told.indices)
    parts = parts_for(networks)
    return Surrogate(parts, scales, networks, told.values, told.extra_variance, centre)


def _first(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The first of them up to a round number, so that hyperparameters are fitted only now and then,
    and always to the same trials; all, where only stopped ones would be left."""
    first = trials[: _round_down(len(trials))]
    return trials if all(trial.state == TrialState.PRUNED for trial in first) else first


def _round_down(number: int) -> int:
    """To a multiple of 1/20 of its power of two: at most 5 to 10 % less."""
    step = max(1, 2 ** (number.bit_length() - 1) // 20)
    return number // step * step
