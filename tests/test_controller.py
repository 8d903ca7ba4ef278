"""The controller's policy, its updates, and what it remembers."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nas.samplers.controller import ControllerSampler, ControllerSettings
from nas.samplers.policy import Learner, Policy
from tests.sampling import EASY, ask, distributions, new_study, resumed, search, uneven

SETTINGS = ControllerSettings()
SIZES = [2, 3, 1, 4]
NETWORKS = list(itertools.product(*map(range, SIZES)))
ROWS = [(network, float(network[0] == 1)) for network in NETWORKS[::2]]


def _log_probs(learner: Learner) -> torch.Tensor:
    """The log-probability of each of `NETWORKS`."""
    networks = torch.tensor(NETWORKS)
    with torch.no_grad():
        options = learner._policy(networks)
    return options.gather(-1, networks[..., None])[..., 0].sum(dim=1)


def _learner(seed: int = 0, **changes: Any) -> Learner:
    return Learner(SIZES, replace(SETTINGS, **changes), seed)


def test_the_policy_is_a_distribution_over_networks() -> None:
    learner = _learner(initial_range=1.0)
    assert _log_probs(learner).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert _log_probs(learner).std() > 0.1


def test_networks_are_drawn_with_their_probabilities() -> None:
    learner, rng = _learner(initial_range=1.0), np.random.default_rng(0)
    drawn = Counter(learner.sample(rng) for _ in range(3000))
    for network, log_prob in zip(NETWORKS, _log_probs(learner).tolist(), strict=True):
        expected = 3000 * math.exp(log_prob)
        assert abs(drawn[network] - expected) < 4 * expected**0.5 + 1


def test_the_published_numbers_and_the_first_weights() -> None:
    published = (0.00035, 0.00001, 0.95, 20, 100, 0.1)
    assert published == (
        SETTINGS.learning_rate,
        SETTINGS.entropy_weight,
        SETTINGS.moving_average,
        SETTINGS.minibatch,
        SETTINGS.hidden_size,
        SETTINGS.initial_range,
    )
    policy = Policy([2] * 42, SETTINGS, torch.Generator().manual_seed(0))
    weights = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    assert weights.abs().max() <= 0.1
    assert weights.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.01)


def test_an_update_makes_what_was_rewarded_more_likely_and_leaves_the_old_as_it_is() -> None:
    before = _learner()
    old = _log_probs(before)
    after = before.updated(ROWS)
    rewarded = torch.tensor([network[0] == 1 for network in NETWORKS])
    assert _log_probs(after)[rewarded].exp().sum() > old[rewarded].exp().sum() + 0.02
    assert torch.equal(_log_probs(before), old)


def test_the_clip_stops_an_update() -> None:
    def moved(clip: float) -> float:
        learner = _learner(clip=clip, epochs=100, learning_rate=0.003)
        return (_log_probs(learner.updated(ROWS)) - _log_probs(learner)).abs().max().item()

    assert moved(0.1) < moved(0.4) / 2


def test_the_unit_and_the_zero_of_rewards_do_not_matter() -> None:
    scaled = [(network, 1000 * reward - 300) for network, reward in ROWS]
    torch.testing.assert_close(
        _log_probs(_learner().updated(scaled)), _log_probs(_learner().updated(ROWS))
    )


def test_equal_rewards_teach_nothing() -> None:
    equal = [(network, 0.1) for network, _ in ROWS]
    moved = _log_probs(_learner(entropy_weight=0.0).updated(equal)) - _log_probs(_learner())
    assert moved.abs().max() == 0


def test_the_entropy_bonus_spreads_the_policy() -> None:
    def entropy(learner: Learner) -> float:
        log_probs = _log_probs(learner)
        return -(log_probs.exp() * log_probs).sum().item()

    narrow = _learner(initial_range=1.0, entropy_weight=1.0)
    equal = [(network, 0.1) for network, _ in ROWS]
    assert entropy(narrow.updated(equal)) > entropy(narrow) + 0.01


def test_the_moving_average_is_the_baseline_where_asked_for() -> None:
    learner = _learner(baseline="moving", moving_average=0.5)
    rewards = np.array([1.0, 3.0])
    # Begins at 2, then 1.5, then 2.25; the spread is 1.
    assert learner._advantages(rewards).tolist() == [-1.25, 0.75]
    # Goes on from 2.25: 1.625, 2.3125.
    assert learner._advantages(rewards).tolist() == [-1.3125, 0.6875]
    assert _learner()._advantages(rewards).tolist() == [-1, 1]


def test_what_is_kept_in_memory_changes_no_proposal() -> None:
    """Trials that end late change minibatches that were learnt from already."""
    settings = ControllerSettings(minibatch=4, epochs=5)
    study = new_study(ControllerSampler(settings=settings))
    late = []
    for until in (3, 16, 38, 41):
        search(study, EASY, uneven, until)
        late.append(study.ask(dict(distributions(EASY))))
    for trial in reversed(late):
        study.tell(trial, 1.0)
        number = len(study.get_trials(deepcopy=False))
        fresh = resumed(study, ControllerSampler(settings=settings), number)
        assert ask(study, EASY) == ask(fresh, EASY)


def test_the_process_keeps_its_random_numbers_and_its_threads() -> None:
    torch.set_num_threads(2)
    try:
        before = torch.get_rng_state()
        search(new_study(ControllerSampler()), EASY, uneven, 21)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_other_strategies_load_no_torch() -> None:
    code = "import sys, nas.samplers.controller; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
