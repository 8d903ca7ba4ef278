"""What the trials of `nas.proxy` say: how well a setting ranks, if it is fit, which buys most.

A setting is **fit** if all of this holds, and unfit otherwise, for the reasons that do not:
- its trials have learnt more than the largest class (in at least half of the networks);
- seed noise does not exceed the spread of the networks (reliability of a single trial >= 1/2);
- single trials put the networks in the long trainings' order better than chance: tau is at least
  0.4 (70 % of the pairs in the right order) and its 95 % interval lies above 0;
- tau is above that of multiply-adds alone, which cost nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.proxies.plan import LONG, Measurements, Series, Setting
from nas.proxies.rank import (
    MIN_NETWORKS,
    Noise,
    bootstrap_interval,
    kendall,
    seed_agreement,
    seed_noise,
    selection_gain,
    single_trial_tau,
    tau_interval,
)

MIN_TAU = 0.4
MIN_RELIABILITY = 0.5
MIN_ABOVE_MAJORITY = 0.02
BUDGET_TRIALS = 50
"""Selection gains are for the time of so many proxy trials, the default of `nas.run`."""

RewardOf = Callable[[float, float, Setting], float]
"""(accuracy, multiply-adds, setting) -> reward with the setting's own T."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """How a setting ranks networks, against the long trainings."""

    series: Series
    num_networks: int
    """With all their trials here and at least one long training."""
    tau: float
    """Of single trials: the mean over seeds."""
    interval: tuple[float, float]
    tau_reward: float
    """The same of the reward."""
    tau_macs: float
    """Of multiply-adds alone with the long accuracies."""
    tau_macs_reward: float
    """Of the reward's cost factor alone with the long rewards."""
    above_macs: tuple[float, float]
    """95 % interval of `tau - tau_macs`, paired bootstrap over networks."""
    noise: Noise
    agreement: float
    """Tau of two trials from other seeds with each other."""
    median_accuracy: float
    seconds: float
    """Mean of a trial."""
    trials_in_budget: float
    """How many trials the time of BUDGET_TRIALS proxy trials suffices for."""
    gain: float
    """`selection_gain` of so many."""
    reasons: tuple[str, ...]
    """Why it is unfit; empty: it is fit."""

    @property
    def fit(self) -> bool:
        return not self.reasons


def assess_all(
    measurements: Sequence[Measurements], *, reward: RewardOf, majority: float, seed: int
) -> list[Assessment]:
    """Compare every setting with the long trainings.

    Args:
        measurements: Of the proxy, of the long trainings, and of the variants.
        reward: Of a trial.
        majority: Accuracy of always answering the largest class.
        seed: Of the bootstrap.

    Returns:
        The proxy first, then the variants that have enough trials; empty if the proxy has not.
    """
    proxy, long, *variants = measurements
    if _complete(proxy, long).sum() < MIN_NETWORKS:
        return []
    pace = float(np.nanmean(proxy.seconds))
    assessments = (
        _assess(measured, long, reward=reward, majority=majority, pace=pace, seed=seed)
        for measured in (proxy, *variants)
    )
    return [assessment for assessment in assessments if assessment is not None]


def gain_difference(
    one: Assessment, other: Assessment, measurements: Sequence[Measurements], *, seed: int
) -> tuple[float, float]:
    """95 % interval of `one.gain - other.gain`, by paired bootstrap over their common networks."""
    long = next(m for m in measurements if m.series.name == LONG)
    sides = [
        (next(m for m in measurements if m.series is side.series), side.trials_in_budget)
        for side in (one, other)
    ]
    common = _complete(sides[0][0], long) & _complete(sides[1][0], long)
    truth = np.nanmean(long.accuracies[common], axis=1)
    first, second = ((measured.accuracies[common], trials) for measured, trials in sides)

    def difference(rows: np.ndarray) -> float:
        gains = [
            selection_gain(single_trial_tau(trials[rows], truth[rows]), number)
            for trials, number in (first, second)
        ]
        return gains[0] - gains[1]

    return bootstrap_interval(difference, int(common.sum()), seed=seed)


def _complete(measured: Measurements, long: Measurements) -> np.ndarray:
    """Which networks have all their trials and a long training, `(n,)`."""
    lacking = np.isnan(measured.accuracies).any(axis=1) | np.isnan(long.accuracies).all(axis=1)
    return np.logical_not(lacking)


def _assess(
    measured: Measurements,
    long: Measurements,
    *,
    reward: RewardOf,
    majority: float,
    pace: float,
    seed: int,
) -> Assessment | None:
    """Compare one setting, where `pace` is the seconds of a proxy trial."""
    complete = _complete(measured, long)
    n = int(complete.sum())
    if n < MIN_NETWORKS:
        return None
    trials = measured.accuracies[complete]
    truth = np.nanmean(long.accuracies[complete], axis=1)
    macs, long_macs = measured.series.macs[complete], long.series.macs[complete]
    rewards = np.array(
        [
            [reward(a, m, measured.series.setting) for a in row]
            for row, m in zip(trials, macs, strict=True)
        ]
    )
    long_rewards = np.array(
        [reward(a, m, long.series.setting) for a, m in zip(truth, long_macs, strict=True)]
    )
    cost_factors = np.array([reward(1.0, m, long.series.setting) for m in long_macs])
    tau, tau_macs = single_trial_tau(trials, truth), kendall(long_macs, truth)
    interval, noise = tau_interval(tau, n), seed_noise(trials)
    seconds = float(measured.seconds[complete].mean())
    in_budget = BUDGET_TRIALS * (pace / seconds if min(pace, seconds) > 0 else 1.0)
    median_accuracy = float(np.median(trials))
    reasons = _reasons(tau, interval, tau_macs, noise, median_accuracy, majority, n)
    return Assessment(
        series=measured.series,
        num_networks=n,
        tau=tau,
        interval=interval,
        tau_reward=single_trial_tau(rewards, long_rewards),
        tau_macs=tau_macs,
        tau_macs_reward=kendall(cost_factors, long_rewards),
        above_macs=bootstrap_interval(
            lambda rows: (
                single_trial_tau(trials[rows], truth[rows]) - kendall(long_macs[rows], truth[rows])
            ),
            n,
            seed=seed,
        ),
        noise=noise,
        agreement=seed_agreement(trials),
        median_accuracy=median_accuracy,
        seconds=seconds,
        trials_in_budget=in_budget,
        gain=selection_gain(tau, in_budget),
        reasons=tuple(reasons),
    )


def recommended(assessments: Sequence[Assessment]) -> Assessment | None:
    """The fit setting of highest selection gain; the first of equals."""
    return max((a for a in assessments if a.fit), key=lambda a: a.gain, default=None)


def _reasons(
    tau: float,
    interval: tuple[float, float],
    tau_macs: float,
    noise: Noise,
    median_accuracy: float,
    majority: float,
    n: int,
) -> list[str]:
    reasons = []
    if median_accuracy <= majority + MIN_ABOVE_MAJORITY:
        reasons.append(
            f"half of its trials reach {median_accuracy:.1%} or less, and answering the largest "
            f"class {majority:.1%}: they have learnt nothing yet"
        )
    if noise.reliability < MIN_RELIABILITY:
        reasons.append(
            f"seed noise exceeds the spread of networks: {noise.within:.4f} against "
            f"{noise.between:.4f}; another seed gives another order"
        )
    if interval[0] <= 0:
        reasons.append(
            f"its order of {n} networks cannot be told from chance: the interval of tau reaches "
            f"down to {interval[0]:.2f}"
        )
    elif tau < MIN_TAU:
        reasons.append(f"tau {tau:.2f} is below {MIN_TAU:g}: it ranks, but badly")
    if tau <= tau_macs:
        reasons.append(
            f"counting multiply-adds ranks as well, at no cost: tau {tau_macs:.2f} against "
            f"{tau:.2f}"
        )
    return reasons
