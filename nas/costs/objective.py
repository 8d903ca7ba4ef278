"""What a study optimises: one number, or accuracy against cost; pure."""

from dataclasses import dataclass
from typing import Literal, Protocol

from nas.costs.metrics import MACS, Metric
from nas.costs.reward import Reward

Direction = Literal["maximize", "minimize"]


class Objective(Protocol):
    """Turns the outcome of a trial into the values of an Optuna trial."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Of the values, as Optuna names them."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the values, for tables and trial lines."""
        ...

    @property
    def metric(self) -> Metric:
        """The cost that `__call__` takes; what trials record and show."""
        ...

    def __call__(self, accuracy: float, cost: float) -> tuple[float, ...]:
        """The values of a network with `accuracy` in [0, 1] and `cost` in the metric's unit."""
        ...


@dataclass(frozen=True)
class RewardObjective:
    """The reward, to be maximised."""

    reward: Reward
    metric: Metric = MACS
    """Cost in the reward; `reward.target` is in its unit."""
    directions: tuple[Direction, ...] = ("maximize",)
    names: tuple[str, ...] = ("reward",)

    def __call__(self, accuracy: float, cost: float) -> tuple[float, ...]:
        return (self.reward(accuracy, cost),)


@dataclass(frozen=True)
class ParetoObjective:
    """Accuracy against cost, without a word on what one is worth in the other."""

    metric: Metric = MACS
    directions: tuple[Direction, ...] = ("maximize", "minimize")
    names: tuple[str, ...] = ("accuracy", "cost")

    def __call__(self, accuracy: float, cost: float) -> tuple[float, ...]:
        return accuracy, cost


@dataclass(frozen=True)
class AccuracyObjective:
    """Accuracy alone, for networks that are compared at like cost."""

    metric: Metric = MACS
    directions: tuple[Direction, ...] = ("maximize",)
    names: tuple[str, ...] = ("accuracy",)

    def __call__(self, accuracy: float, cost: float) -> tuple[float, ...]:
        return (accuracy,)
