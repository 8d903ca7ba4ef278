"""MnasNet's search strategy: a recurrent controller that PPO trains on what its networks scored.

Tan et al. 2019 (arXiv:1807.11626, §4.3) take the controller of NASNet (Zoph et al. 2018,
arXiv:1707.07012, appendix A.2-A.3). What these publish is the paper's here, what they do not is
ours, and `ControllerSettings` says which is which.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from nas.samplers.history import (
    Choices,
    ChoiceSampler,
    Indices,
    scores,
)
from nas.samplers.seeding import seed_for

if TYPE_CHECKING:
    from nas.samplers.policy import Learner

_KEPT_STATES = 4


@dataclass(frozen=True, kw_only=True)
class ControllerSettings:
    """The numbers of the controller and its training."""

    hidden_size: int = 100
    """Units of the one LSTM layer (published); our embeddings of tokens are as wide."""
    initial_range: float = 0.1
    """Weights begin uniform in ± this (published)."""
    minibatch: int = 20
    """Networks per update (published)."""
    learning_rate: float = 0.00035
    """Published."""
    entropy_weight: float = 0.00001
    """Published."""
    moving_average: float = 0.95
    """Weight of the past in the moving average of rewards (published); see `baseline`."""
    baseline: Literal["minibatch", "moving"] = "minibatch"
    """What a reward is compared with. Published is the moving average of rewards. Ours is the
    minibatch's mean: the average lags behind a policy that improves, praises all it does, and the
    policy settles early: 66.0 against 66.3 after 1,000 evaluations of the benchmark of
    `experiments`."""
    epochs: int = 30
    """Steps on each minibatch; ours. On that benchmark (the MnasNet space, noise 0.307, medians of
    5 seeds after 200 / 500 / 1,000 evaluations) 30 returned 65.4 / 66.3 / 66.3; 20, 65.2 / 66.1 /
    66.3; 40, 65.5 / 66.2 / 66.3; 20 at learning rate 0.001, 65.5 / 66.2 / 66.3."""
    clip: float = 0.2
    """How far PPO lets a decision's probability ratio leave 1; ours (Schulman et al. 2017)."""

    # Ours too, without a number: Adam, no clip of gradients, logits without temperature or tanh,
    # rewards divided by the minibatch's standard deviation, so that their unit does not matter.


class _State(NamedTuple):
    sizes: list[int]
    rows: list[tuple[Indices, float]]
    learner: "Learner"


class ControllerSampler(ChoiceSampler):
    """Draws each network from a policy, an LSTM that decides choice by choice.

    The policy is that of the seed's initial weights after one update for every `minibatch`
    finished trials, by number. Updates are computed again where a search is resumed, and kept in
    the instance from then on, so the first proposal after a restart takes as long as all updates
    together. As the policy narrows it proposes a network again: that is its own reinforcement and
    not prevented here; whoever runs the trials can reuse the first measurement.
    """

    def __init__(self, *, settings: ControllerSettings | None = None, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self._settings = settings or ControllerSettings()
        self._states: list[_State] = []

    def choose(
        self, study: Study, trial: FrozenTrial, choices: Choices, rng: np.random.Generator
    ) -> Indices:
        trials = self.past.finished(study)
        used = trials[: len(trials) - len(trials) % self._settings.minibatch]
        networks = self.past.encode(choices, used)
        rows = list(zip(networks, scores(study, used)[:, 0].tolist(), strict=True))
        return self._learner(choices.sizes, rows).sample(rng)

    def _learner(self, sizes: list[int], rows: list[tuple[Indices, float]]) -> "Learner":
        """The policy that has learnt `rows`, from the longest beginning of them still known.

        Only the last states are kept: a trial that ends late changes the last minibatches.
        """
        valid = [s for s in self._states if s.sizes == sizes and s.rows == rows[: len(s.rows)]]
        if not valid:
            from nas.samplers.policy import Learner  # torch, for this strategy alone

            learner = Learner(sizes, self._settings, seed_for(self._seed, 0, "weights"))
            valid = [_State(sizes, [], learner)]
        step = self._settings.minibatch
        for end in range(len(valid[-1].rows) + step, len(rows) + 1, step):
            learner = valid[-1].learner.updated(rows[end - step : end])
            valid = [*valid[1 - _KEPT_STATES :], _State(sizes, rows[:end], learner)]
        self._states = valid
        return valid[-1].learner
