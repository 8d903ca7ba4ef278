"""What a network costs, as the search counts it: multiply-adds, parameters, activations, or time.

**A new cost is added to `METRICS`** if arithmetic gives it. What has to be measured, as latency has
(`nas.costs.latency`), is an object that follows the protocol `Metric`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from nas.cli import format_number
from search_spaces.builder import AnyNetwork
from search_spaces.cost import Cost, count

Network = TypeVar("Network", bound=AnyNetwork)


class Metric(Protocol):
    """A cost of networks; positive, less is better.

    Of an `Architecture`, or of a `BuiltNetwork` where a user's own builder is scaled.
    """

    @property
    def name(self) -> str:
        """As `--cost` names it, and tables their columns."""
        ...

    @property
    def unit(self) -> str:
        """`multiply-adds`, `parameters`, `activations` or `ms`."""
        ...

    @property
    def conditions(self) -> Mapping[str, Any]:
        """What must stay the same for two values to compare, such as the device of a latency."""
        ...

    def __call__(self, architecture: Any) -> float:
        """The cost of a network, in `unit`; the same whenever it is asked for."""
        ...

    def format(self, value: float) -> str:
        """A value for people, short: `8.21M`, `1.23 ms`."""
        ...

    def describe(self) -> str:
        """Unit and conditions for people, to stand behind a number."""
        ...


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A cost by exact arithmetic (`search_spaces.cost`), for one image."""

    name: str
    unit: str
    of: Callable[[Cost], int] = field(repr=False)
    """Which of the counts."""
    suffix: str = ""
    """What follows a formatted value, so that it is not taken for multiply-adds."""
    definition: str = ""
    """What is counted."""

    @property
    def conditions(self) -> Mapping[str, Any]:
        return {}

    def __call__(self, architecture: AnyNetwork) -> float:
        return float(self.of(count(architecture)))

    def format(self, value: float) -> str:
        return f"{format_number(value)}{self.suffix}"

    def describe(self) -> str:
        return f"{self.unit} ({self.definition})"


def _macs(cost: Cost) -> int:
    return cost.macs


def _params(cost: Cost) -> int:
    return cost.params


def _activations(cost: Cost) -> int:
    return cost.activations


MACS = Counted(name="macs", unit="multiply-adds", of=_macs, definition="conv + linear")
PARAMS = Counted(
    name="params", unit="parameters", of=_params, suffix=" params", definition="trainable"
)
ACTIVATIONS = Counted(
    name="activations",
    unit="activations",
    of=_activations,
    suffix=" acts",
    definition="elements put out by convolutions",
)


def typical(networks: Sequence[Network]) -> Network:
    """The one of median multiply-adds."""
    return sorted(networks, key=MACS)[len(networks) // 2]


METRICS: dict[str, Metric] = {metric.name: metric for metric in (MACS, PARAMS, ACTIVATIONS)}
"""The costs that arithmetic gives; `latency` is measured (`nas.costs.latency.Latency`)."""
