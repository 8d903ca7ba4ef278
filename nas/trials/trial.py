"""What passes between a study, its proposer and its workers: proposals, jobs and results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from nas.trials.evaluate import Outcome
from nas.trials.retries import Retries
from search_spaces.builder import AnyNetwork

MeasurementKey = tuple[str, int, int]
"""Digest, epochs, seed: equal keys would repeat a training to the letter."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One network to measure."""

    architecture: AnyNetwork
    epochs: int
    seed: int
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the Optuna trial, with their `distributions`."""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes of the trial."""

    @property
    def key(self) -> MeasurementKey:
        return self.architecture.digest, self.epochs, self.seed


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at one slot, as handed to a worker."""

    slot: int
    trial_id: int
    number: int
    """Number of the trial in the record."""
    proposal: Proposal
    cost: float
    """Of the network, by the objective's metric."""
    rungs: tuple[int, ...]
    """Epochs after which a worker reports; the last are all that the proposal asks for."""
    retries: Retries = field(default_factory=Retries)
    """Attempts before this one."""

    @property
    def attempt(self) -> int:
        """0 for the first."""
        return self.retries.number


@dataclass(frozen=True, kw_only=True)
class Result:
    """A slot that ended."""

    job: Job
    outcome: Outcome
    values: tuple[float, ...] | None
    """Of the objective; None if the trial failed or was stopped early."""
    macs: int
    params: int
    curve: Mapping[int, float] = field(default_factory=dict)
    """The objective at the rungs that were reached, by epoch; empty without halving."""

    @property
    def value(self) -> float | None:
        """The first of the values."""
        return None if self.values is None else self.values[0]

    @property
    def cost(self) -> float:
        """Of the network, by the objective's metric."""
        return self.job.cost

    @property
    def pruned(self) -> bool:
        """Whether it was stopped early; its accuracy is that of fewer epochs then."""
        return self.outcome.reason == "pruned"

    @property
    def epochs(self) -> int:
        """Epochs that were trained for it, as far as is known: to its last rung."""
        if self.outcome.reused_from:
            return 0
        return self.outcome.epochs if self.values is None else self.job.proposal.epochs


class Proposer(Protocol):
    """Decides what a slot measures. Slots are proposed once each, in order."""

    def propose(self, slot: int) -> Proposal:
        """The network of a fresh slot."""
        ...

    def state(self, slot: int) -> Mapping[str, Any]:
        """What `restore` needs beside the proposal; of JSON types."""
        ...

    def restore(
        self, slot: int, proposal: Proposal, state: Mapping[str, Any], result: Result | None
    ) -> Proposal:
        """Learn of a slot that an earlier process proposed; in order, before any `propose`.

        Args:
            slot: Its number.
            proposal: As the record holds it.
            state: The last `state` of the slot that was written.
            result: How it ended; None if it is still to be measured.

        Returns:
            The proposal with what the record does not hold (its distributions).
        """
        ...

    def observe(self, result: Result) -> None:
        """Learn how a slot ended for good."""
        ...
