"""The controller's network and its updates by PPO; the one module of the samplers with torch."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from nas.samplers.controller import ControllerSettings
from nas.samplers.history import Indices


class Policy(nn.Module):
    """A distribution over networks: an LSTM reads the decisions so far, a softmax takes the next.

    Decision i has its own logits and its own embedding of the option that it took.
    """

    _refused: Tensor

    def __init__(
        self, sizes: Sequence[int], settings: ControllerSettings, generator: torch.Generator
    ) -> None:
        """`sizes`: the number of options of each decision, in order."""
        super().__init__()
        decisions, options, width = len(sizes), max(sizes), settings.hidden_size
        self._start = _empty(1, width)
        self._tokens = _empty(decisions, options, width)
        # On "meta" first: torch would draw the initial weights from its global generator.
        lstm = nn.LSTM(width, width, batch_first=True, device="meta", dtype=torch.float32)
        self._lstm = lstm.to_empty(device="cpu")
        self._heads = _empty(decisions, options, width)
        self._biases = _empty(decisions, options)
        bound = settings.initial_range
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        refused = np.arange(options) >= np.array(sizes)[:, None]
        self.register_buffer("_refused", torch.from_numpy(refused))

    def forward(self, networks: Tensor) -> Tensor:
        """Log-probabilities of each decision's options, given the decisions before it.

        Args:
            networks: Indices, (N, decisions).

        Returns:
            (N, decisions, options); -inf for options that a decision does not have.
        """
        place = torch.arange(networks.shape[1] - 1, device="cpu")
        taken = self._tokens[place, networks[:, :-1]]
        start = self._start.expand(len(networks), 1, -1)
        hidden, _ = self._lstm(torch.cat([start, taken], dim=1))
        logits = torch.einsum("nth,toh->nto", hidden, self._heads) + self._biases
        return logits.masked_fill(self._refused, -math.inf).log_softmax(dim=-1)

    @torch.no_grad()
    def sample(self, rng: np.random.Generator) -> Indices:
        """Draw a network."""
        chosen: list[int] = []
        token, state = self._start, None
        for refused, head, bias, embedding in zip(
            self._refused, self._heads, self._biases, self._tokens, strict=True
        ):
            hidden, state = self._lstm(token, state)
            logits = (head @ hidden[0] + bias).masked_fill(refused, -math.inf)
            weights = logits.double().softmax(dim=0).numpy()
            chosen.append(int(rng.choice(len(weights), p=weights / weights.sum())))
            token = embedding[chosen[-1]][None]
        return tuple(chosen)


class Learner:
    """A policy with its optimizer; `updated` gives the next and leaves this as it is."""

    def __init__(self, sizes: Sequence[int], settings: ControllerSettings, seed: int) -> None:
        self._settings = settings
        generator = torch.Generator(device="cpu").manual_seed(seed)
        self._policy = Policy(sizes, settings, generator)
        self._optimizer = torch.optim.Adam(
            self._policy.parameters(), lr=settings.learning_rate, foreach=False
        )
        self._average: float | None = None

    def sample(self, rng: np.random.Generator) -> Indices:
        """Draw a network from the policy."""
        with _one_thread():
            return self._policy.sample(rng)

    def updated(self, rows: Sequence[tuple[Indices, float]]) -> "Learner":
        """The learner after one minibatch of networks with their rewards, higher is better."""
        learner = copy.deepcopy(self)
        networks = torch.tensor([network for network, _ in rows], device="cpu")
        advantages = learner._advantages(np.array([reward for _, reward in rows]))
        with _one_thread(), torch.enable_grad():
            learner._train(networks, torch.tensor(advantages, dtype=torch.float32, device="cpu"))
        return learner

    def _advantages(self, rewards: np.ndarray) -> np.ndarray:
        """Rewards above the baseline, in standard deviations of the minibatch; 0 where all are
        equal.

        The moving average begins with the first minibatch's mean and takes a minibatch up, reward
        by reward, before this is compared with it.
        """
        weight = self._settings.moving_average
        average = float(rewards.mean()) if self._average is None else self._average
        for reward in rewards.tolist():
            average = weight * average + (1 - weight) * reward
        self._average = average
        baseline = average if self._settings.baseline == "moving" else rewards.mean()
        spread = rewards.std()
        # Equal rewards have a spread too, by rounding.
        if spread <= 1e-9 * np.abs(rewards).max():
            return np.zeros_like(rewards)
        return (rewards - baseline) / spread

    def _train(self, networks: Tensor, advantages: Tensor) -> None:
        """Epochs of PPO's clipped objective (Schulman et al. 2017, eq. 7); each decision is a
        step, all of a network's steps share its advantage.

        The old probabilities are those of this policy before the update: trials that were asked
        before the last update count as if it had proposed them.
        """
        before = self._taken(self._policy(networks), networks).detach()
        for _ in range(self._settings.epochs):
            log_probs = self._policy(networks)
            ratio = (self._taken(log_probs, networks) - before).exp()
            gain = _clipped(ratio, advantages[:, None], self._settings.clip).sum(dim=1)
            entropy = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=(1, 2))
            self._optimizer.zero_grad()
            (-(gain + self._settings.entropy_weight * entropy).mean()).backward()
            self._optimizer.step()

    @staticmethod
    def _taken(log_probs: Tensor, networks: Tensor) -> Tensor:
        return log_probs.gather(-1, networks[..., None])[..., 0]


def _clipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=torch.float32, device="cpu"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices: more threads only wait for each other, and sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
