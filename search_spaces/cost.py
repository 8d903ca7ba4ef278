"""What a network costs, by arithmetic on the one walk; no torch.

The module of a user's own builder has no walk: `search_spaces.building` runs it once and counts,
with the same outcome for the same layers.

MACs are multiply-adds of convolutions (squeeze-excite included) and the classifier, the papers'
"FLOPS"; batch norm, activations, pooling and additions are not counted. They equal, to the
integer, fvcore's `conv` + `linear` count in eval mode.
"""

from dataclasses import dataclass

from search_spaces.architecture import Architecture, Unit, units, units_by_stage
from search_spaces.builder import AnyNetwork, BuiltNetwork


@dataclass(frozen=True)
class Cost:
    """Cost of a network, or of a part of one, for one image."""

    params: int = 0
    """Trainable parameters."""
    macs: int = 0
    """Multiply-adds of convolutions and linear layers, and of a builder's other matrix products,
    such as attention's."""
    activations: int = 0
    """Elements put out by convolutions (Dollar et al. 2021)."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.activations + other.activations,
        )


def count(architecture: AnyNetwork) -> Cost:
    """Cost of the whole network.

    Raises:
        BuilderError: A user's builder cannot be had, or breaks a rule.
    """
    if isinstance(architecture, BuiltNetwork):
        return architecture.cost
    return sum(map(unit_cost, units(architecture)), Cost())


def unit_cost(unit: Unit) -> Cost:
    """Cost of one step of the walk."""
    return sum(
        (
            Cost(layer.params, layer.macs(size), layer.activations(size))
            for _, layer, size in unit.layers
        ),
        Cost(),
    )


def stage_costs(architecture: Architecture) -> list[Cost]:
    """Costs of the stem, of every stage, and of head and classifier together."""
    return [sum(map(unit_cost, part), Cost()) for part in units_by_stage(architecture)]
