"""What the shape of a network says of how well it may learn, untrained; no torch.

Two sums over the one walk, `units`. Beside what a network costs they tell a search the most: on
measured ImageNet accuracies (experiments/LOG.md) they explain a third of what multiply-adds and
parameters leave open after 60 networks.
"""

import math
from dataclasses import dataclass

from search_spaces.architecture import Architecture, Unit, units
from search_spaces.layers import Conv


@dataclass(frozen=True)
class Capacity:
    """Of a network, or of a part of one."""

    channels: int = 0
    """Channels that a nonlinearity follows, over all layers: those of linear projections are not
    among them, nor squeeze-excite's."""
    log_fan_in: float = 0.0
    """Sum over the convolutions of log(kernel^2 * input channels / groups): the entropy of a
    network at initialisation but for its resolution (Shen et al. 2023, DeepMAD)."""

    def __add__(self, other: "Capacity") -> "Capacity":
        return Capacity(self.channels + other.channels, self.log_fan_in + other.log_fan_in)


def capacity(architecture: Architecture) -> Capacity:
    """Of the whole network."""
    return sum(map(unit_capacity, units(architecture)), Capacity())


def unit_capacity(unit: Unit) -> Capacity:
    """Of one step of the walk."""
    convolutions = [layer for _, layer, _ in unit.layers if isinstance(layer, Conv)]
    channels = sum(conv.out_channels for conv in convolutions if conv.activation)
    if unit.plan.activation:
        channels += convolutions[-1].out_channels
    return Capacity(channels, sum(math.log(conv.fan_in) for conv in convolutions))
