"""Networks with costs, and accuracies that grow with them, for tests of the guided sampler."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.samplers.guided import GuidedSettings
from tests.sampling import Options, Params, uneven

SHORT = GuidedSettings(startup_trials=8, greedy_trials=16)
BLOCKS: Options = {
    f"block{i}.{name}": options
    for i in (1, 2, 3)
    for name, options in {"op": ("conv", "mbconv"), "kernel": (3, 5), "width": (8, 16, 32)}.items()
}
FEW: Options = {"block1.width": (8, 16, 32, 64), "block2.width": (8, 16, 32), "kernel": (3, 5, 7)}


def cost_of(params: Mapping[str, Any]) -> float:
    """Of networks of `BLOCKS` or `FEW`; hardly two of the latter cost the same."""
    widths = [value for name, value in params.items() if "width" in name]
    kernels = [value**2 for name, value in params.items() if "kernel" in name]
    wide = sum((1.1 + 0.07 * i) * width for i, width in enumerate(widths))
    return wide * (10 + sum(kernels)) * (1 + 0.5 * [*params.values()].count("conv"))


def costs_of(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Two of each network: `cost_of`, and one that tells of every choice."""
    return np.array([[cost_of(network), 1 + uneven(dict(network))] for network in networks])


def accuracy_of(params: Mapping[str, Any]) -> float:
    """Grows with the cost, and with some choices beside it."""
    bonus = sum(value in ("mbconv", 5) for value in params.values())
    return 0.3 + 0.08 * float(np.log(cost_of(params))) + 0.02 * bonus


def all_of(options: Options) -> list[Params]:
    """Every network of a space."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]
