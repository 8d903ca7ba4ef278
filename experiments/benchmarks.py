"""Benchmarks of search strategies: spaces whose true accuracies are known."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nas.cli import UserError, load_function
from search_spaces.architecture import Architecture
from search_spaces.capacity import capacity
from search_spaces.cost import Cost
from search_spaces.counts import Row
from search_spaces.ops import MBConv
from search_spaces.spaces import Choice, Choices, FactorizedSpace, Space, mnasnet
from search_spaces.zoo import efficientnet_b0

_SAMPLE = 501
_TOY_NOISE = 0.01
_MEASURED_NOISE = 0.307
"""Points of accuracy between seeds, as the authors of Accel-NASBench measured."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A space with the true accuracy of each of its networks."""

    description: str
    space: Space
    accuracy: Callable[[Choices], float]
    """Noiseless."""
    noise: float
    """Standard deviation from seed to seed, in the unit of `accuracy`."""
    cost: Callable[[Choices], Cost]
    target_macs: float | None = None
    """The benchmark's own T."""

    def target(self, cost: str) -> float:
        """T in a field of `Cost`: the benchmark's own, or the median of a sample of the space."""
        if cost == "macs" and self.target_macs is not None:
            return self.target_macs
        rng = np.random.default_rng(0)
        choices = self.space.choices.items()
        networks = (
            {name: options[rng.integers(len(options))] for name, options in choices}
            for _ in range(_SAMPLE)
        )
        return float(np.median([getattr(self.cost(network), cost) for network in networks]))


def load_benchmark(reference: str) -> Benchmark:
    """`toy`, a file that defines `Objective` and `CHOICES` as Accel-NASBench's does here, or
    ``my_module:function`` of the user's own, an evaluator over our space `mnasnet`.

    Raises:
        UserError: None of these, or it does not load.
    """
    space = mnasnet(resolution=32, num_classes=10, target_macs=5e6)
    if reference == "toy":
        return Benchmark(
            description="toy: made-up accuracies over mnasnet at 32 px",
            space=space,
            accuracy=_Toy(space),
            noise=_TOY_NOISE,
            cost=space.cost,
        )
    if reference.endswith(".py"):
        return _from_file(Path(reference))
    function = load_function(reference, "--evaluator")
    return Benchmark(
        description=f"{reference} over mnasnet at 32 px",
        space=space,
        accuracy=lambda choices: float(function(space.decode(choices), epochs=1, seed=0)),
        noise=_TOY_NOISE,
        cost=space.cost,
    )


class _Toy:
    """Accuracy that saturates in the multiply-adds, with effects of choices and of pairs."""

    def __init__(self, space: FactorizedSpace) -> None:
        rng = np.random.default_rng(0)
        self._space, self._names = space, list(space.choices)
        self._effects = {n: rng.normal(0, 0.006, len(o)) for n, o in space.choices.items()}
        pairs = rng.choice(len(self._names), (20, 2))
        self._pairs = [
            (self._names[a], self._names[b], rng.normal(0, 0.01, (4, 4))) for a, b in pairs
        ]

    def __call__(self, choices: Choices) -> float:
        at = {name: options.index(choices[name]) for name, options in self._space.choices.items()}
        effects = sum(float(self._effects[name][i]) for name, i in at.items())
        effects += sum(float(table[at[a], at[b]]) for a, b, table in self._pairs)
        capacity = 0.9 - 0.25 * (self._space.cost(choices).macs / 5e6) ** -0.4
        return float(np.clip(capacity + effects, 0.0, 1.0))


def _from_file(path: Path) -> Benchmark:
    if not path.exists():
        raise UserError(f"`--evaluator {path}` does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"`--evaluator {path}` is no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("Objective", "CHOICES"):
        if not hasattr(module, name):
            raise UserError(f"`--evaluator {path}` defines no {name}.")
    if len(module.CHOICES) != 28:
        raise UserError(
            f"`CHOICES` of `--evaluator {path}` must hold four decisions for each of the seven "
            f"stages of EfficientNet, 28 in all, but holds {len(module.CHOICES)}."
        )
    objective = module.Objective()
    space = _TableSpace(path.stem, objective, module.CHOICES)
    return Benchmark(
        description=f"{path.name}: measured ImageNet accuracies, in percent",
        space=space,
        accuracy=space.accuracy,
        noise=_MEASURED_NOISE,
        cost=space.cost,
        target_macs=1e6 * objective.T,
    )


Block = tuple[Any, ...]
"""Expansion, kernel, layers, squeeze-excite."""


class _TableSpace:
    """Seven blocks of expansion, kernel, layers and squeeze-excite in the widths and strides of
    EfficientNet-B0, with accuracies by a fit to measured networks and additive costs."""

    _DECISIONS = ("expansion", "kernel", "layers", "se")

    def __init__(self, name: str, objective: Any, choices: list[list[int]]) -> None:
        self.name, self._objective = name, objective
        names = [f"block{i // 4 + 1}.{self._DECISIONS[i % 4]}" for i in range(len(choices))]
        self.choices: dict[str, tuple[Choice, ...]] = {
            name: tuple(options) for name, options in zip(names, choices, strict=True)
        }
        first = self._blocks({name: options[0] for name, options in self.choices.items()})
        self._sums = _Sum(first, self._numbers)

    def accuracy(self, choices: Choices) -> float:
        return float(self._objective.acc(self._blocks(choices)))

    def cost(self, choices: Choices) -> Cost:
        """The benchmark's own, which counts more than convolutions and classifier."""
        params, macs, *_ = self._sums(self._blocks(choices))
        return Cost(params=round(params), macs=round(macs))

    def counts(self, networks: Sequence[Choices]) -> np.ndarray:
        """`COUNTS`, (networks, 5); no activations, which the benchmark does not tell."""
        return np.array([self._row(choices) for choices in networks])

    def _row(self, choices: Choices) -> Row:
        *rounded, log_fan_in = self._sums(self._blocks(choices))
        return *map(round, rounded), log_fan_in

    def decode(self, choices: Choices) -> Architecture:
        return self._network(self._blocks(choices))

    def encode(self, architecture: Architecture) -> dict[str, Choice]:
        raise NotImplementedError("The benchmark knows its networks by their choices.")

    def _blocks(self, choices: Choices) -> list[Block]:
        values = [choices[name] for name in self.choices]
        return [tuple(values[i : i + 4]) for i in range(0, len(values), 4)]

    def _network(self, blocks: list[Block]) -> Architecture:
        reference = efficientnet_b0()
        stages = tuple(
            replace(stage, block=MBConv(kernel=k, expansion=e, se_ratio=se / 4), repeats=n)
            for stage, (e, k, n, se) in zip(reference.stages, blocks, strict=True)
        )
        return replace(reference, name=self.name, stages=stages)

    def _numbers(self, blocks: list[Block]) -> Row:
        macs, params = self._objective.macs(blocks), self._objective.params(blocks)
        able = capacity(self._network(blocks))
        return 1e6 * params, 1e6 * macs, 0, able.channels, able.log_fan_in


class _Sum:
    """Numbers of a network as sums of what its blocks add to those of the first."""

    def __init__(self, first: list[Block], numbers_of: Callable[[list[Block]], Row]) -> None:
        self._blocks, self._numbers_of = first, numbers_of
        self._added: dict[tuple[int, Block], Row] = {}

    def __call__(self, blocks: list[Block]) -> Row:
        return tuple(map(sum, zip(self._first, *map(self._of, enumerate(blocks)), strict=True)))

    @cached_property
    def _first(self) -> Row:
        return self._numbers_of(self._blocks)

    def _of(self, at: tuple[int, Block]) -> Row:
        """What a block adds at its place."""
        if at not in self._added:
            place, block = at
            whole = self._numbers_of([*self._blocks[:place], block, *self._blocks[place + 1 :]])
            self._added[at] = tuple(a - b for a, b in zip(whole, self._first, strict=True))
        return self._added[at]
