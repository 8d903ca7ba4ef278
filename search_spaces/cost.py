"""What a network costs, by arithmetic on the one walk; no torch.

MACs are multiply-adds of convolutions (squeeze-excite included) and the classifier, the papers'
"FLOPS"; batch norm, activations, pooling and additions are not counted. They equal, to the
integer, fvcore's `conv` + `linear` count in eval mode.
"""

from dataclasses import dataclass

from search_spaces.architecture import Architecture, Unit, units


@dataclass(frozen=True)
class Cost:
    """Cost of a network, or of a part of one, for one image."""

    params: int = 0
    """Trainable parameters."""
    macs: int = 0
    """Multiply-adds of convolutions and linear layers."""
    activations: int = 0
    """Elements put out by convolutions (Dollar et al. 2021)."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.activations + other.activations,
        )


def count(architecture: Architecture) -> Cost:
    """Cost of the whole network."""
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
    costs = [Cost() for _ in range(len(architecture.stages) + 2)]
    for unit in units(architecture):
        if unit.name == "stem":
            index = 0
        elif unit.name.startswith("stages."):
            index = int(unit.name.split(".")[1]) + 1
        else:
            index = -1
        costs[index] += unit_cost(unit)
    return costs
