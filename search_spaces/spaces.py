"""The search spaces: named categorical choices, and how they become a network; no torch.

**A new space is added here**: write a function like `mnasnet` and name it in `SPACES`. A space of
another kind than `FactorizedSpace` needs `choices`, `decode` and `encode`; users bring theirs from
outside as `--space my_module:function`.
"""

import functools
import itertools
import operator
import random
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from search_spaces.adapt import adapt_resolution, fit_multiplier, scale_widths
from search_spaces.architecture import (
    Activation,
    Architecture,
    Stage,
    Unit,
    head_units,
    stage_units,
    stem_unit,
    units_by_stage,
)
from search_spaces.cost import Cost, count
from search_spaces.counts import COUNTS, KnownBlocks, row_of
from search_spaces.ops import MBConv, Op, PlainConv
from search_spaces.rounding import round_width
from search_spaces.zoo import efficientnet_b0, mobilenet_v2

Choice = str | int | float
Choices = Mapping[str, Choice]

_PAPER_RESOLUTION, _PAPER_MACS = 224, 400e6
_SMALLEST_DEFAULT_WIDTH = 0.2
_CALIBRATION_SAMPLE = 15


class Space(Protocol):
    """What a search needs to know of a space."""

    @property
    def name(self) -> str: ...

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """The options of every decision, by its name; the order is stable."""
        ...

    def decode(self, choices: Choices) -> Architecture:
        """The network that the choices name."""
        ...

    def encode(self, architecture: Architecture) -> dict[str, Choice]:
        """Choices that name the network; ValueError if the space does not hold it."""
        ...


def sample(space: Space, rng: random.Random) -> dict[str, Choice]:
    """Uniform choices."""
    return {name: rng.choice(options) for name, options in space.choices.items()}


def sample_networks(space: Space, number: int, seed: int) -> list[Architecture]:
    """Networks of uniform choices; the same seed, the same networks."""
    rng = random.Random(seed)
    return [space.decode(sample(space, rng)) for _ in range(number)]


_OPS: dict[str, Callable[..., Op]] = {
    "conv": PlainConv,
    "dwconv": lambda **choice: MBConv(expansion=1, **choice),
    "mbconv1": lambda **choice: MBConv(expansion=1, **choice),
    "mbconv3": lambda **choice: MBConv(expansion=3, **choice),
    "mbconv6": lambda **choice: MBConv(expansion=6, **choice),
}


@dataclass(frozen=True, kw_only=True)
class FactorizedSpace:
    """Factorized hierarchical space (Tan et al. 2019, section 4.1).

    A network is a sequence of blocks; the layers of a block are equal, blocks differ. Each block
    chooses op, kernel, SE ratio, skip, a factor on the reference width, and a difference to the
    reference depth (at least one layer stays).
    """

    name: str
    reference: Architecture
    """Widths, depths, strides, stem and head that the choices are relative to."""
    ops: tuple[str, ...]
    """`dwconv` is the separable convolution of MnasNet's release: MBConv with expansion 1."""
    kernels: tuple[int, ...] = (3, 5)
    se_ratios: tuple[float, ...] = (0.0, 0.25)
    skips: tuple[str, ...] = ("identity",)
    width_factors: tuple[float, ...] = (0.75, 1.0, 1.25)
    depth_changes: tuple[int, ...] = (-1, 0, 1)
    base_width: float = 1.0
    """Factor on every reference width, stem and head included."""
    width_divisor: int = 8
    """Widths are multiples of this."""

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        return {
            f"block{i}.{decision}": options
            for i in range(1, len(self.reference.stages) + 1)
            for decision, options in self._decisions.items()
            if len(options) > 1
        }

    @property
    def size(self) -> int:
        """How many ways there are to choose; some name the same network."""
        size = 1
        for options in self.choices.values():
            size *= len(options)
        return size

    def decode(self, choices: Choices) -> Architecture:
        """The network that the choices name.

        Raises:
            ValueError: A choice is missing, unknown, or not among its options.
        """
        self._check(choices)
        network = self._network(choices)
        return replace(network, name=f"{self.name}-{network.digest}")

    def _check(self, choices: Choices) -> None:
        options = self._all_choices
        if unknown := set(choices) ^ set(options):
            raise ValueError(f"Space {self.name!r} has other choices: {', '.join(sorted(unknown))}")
        for name, value in choices.items():
            if value not in options[name]:
                raise ValueError(f"`{name}` must be one of {options[name]}, but got {value!r}.")

    def _network(self, choices: Choices) -> Architecture:
        """As `decode`, without its name."""
        stages = tuple(self._chosen(choices, place) for place in range(len(self.reference.stages)))
        return replace(self._sized, stages=stages)

    def encode(self, architecture: Architecture) -> dict[str, Choice]:
        """Choices that name the network (the first, where several do).

        Raises:
            ValueError: The space does not hold the network.
        """
        chosen: dict[str, Choice] = {}
        for i, (reference, stage) in enumerate(
            zip(self.reference.stages, architecture.stages, strict=False), start=1
        ):
            for values in itertools.product(*self._decisions.values()):
                choice = dict(zip(self._decisions, values, strict=True))
                if self._stage(reference, choice) == stage:
                    chosen |= {f"block{i}.{name}": value for name, value in choice.items()}
                    break
        choices = {name: chosen[name] for name in self.choices if name in chosen}
        if len(choices) != len(self.choices) or self.decode(choices).digest != architecture.digest:
            raise ValueError(f"Space {self.name!r} does not hold {architecture.name!r}.")
        return choices

    def cost(self, choices: Choices) -> Cost:
        """What `count(decode(choices))` gives.

        Raises:
            ValueError: As `decode`.
        """
        params, macs, activations = self.counts([choices])[0, :3].tolist()
        return Cost(int(params), int(macs), int(activations))

    def counts(self, networks: Sequence[Choices]) -> np.ndarray:
        """`COUNTS` of the networks that the choices name, (networks, 5), in a hundredth of the time
        of decoding them once blocks were seen.

        A block's counts depend on its own choices and on the width before it alone.

        Raises:
            ValueError: As `decode`.
        """
        for choices in networks:
            if len(choices) != len(self._all_choices):
                self._check(choices)
        try:
            keys = [[key_of(choices) for choices in networks] for key_of in self._keys]
        except KeyError:
            for choices in networks:
                self._check(choices)
            raise
        self._learn(networks, keys)
        counts = np.zeros((len(networks), len(COUNTS)))
        for known, of_block in zip(self._known, keys, strict=True):
            counts += known[of_block]
        return counts

    def _learn(self, networks: Sequence[Choices], keys: Sequence[Sequence[Hashable]]) -> None:
        """The counts of blocks not seen before."""
        for place, (known, of_block) in enumerate(zip(self._known, keys, strict=True)):
            if new := known.new(of_block):
                blocks = {key: self._block(networks[i], place) for key, i in new.items()}
                known.learn({key: row_of(block) for key, block in blocks.items()})

    def _block(self, choices: Choices, place: int) -> list[Unit]:
        """What a block is made of; with the stem for the first, the head for the last."""
        self._check(choices)
        sized, stage = self._sized, self._chosen(choices, place)
        before = sized.stem.width if place == 0 else self._chosen(choices, place - 1).width
        units = list(stage_units(place, stage, before, self._sizes[place]))
        stem = [stem_unit(sized)] if place == 0 else []
        last = place == len(self.reference.stages) - 1
        head = head_units(sized, stage.width, units[-1].out_size) if last else ()
        return [*stem, *units, *head]

    @functools.cached_property
    def _sized(self) -> Architecture:
        """Has the stem and the head of every network."""
        return scale_widths(self.reference, self.base_width, self.width_divisor)

    @functools.cached_property
    def _sizes(self) -> list[int]:
        """Of the input of every block, in pixels; strides are not chosen."""
        _, *blocks, _ = units_by_stage(self.reference)
        return [block[0].in_size for block in blocks]

    @functools.cached_property
    def _known(self) -> list[KnownBlocks]:
        """Block by block."""
        return [KnownBlocks() for _ in self.reference.stages]

    @functools.cached_property
    def _keys(self) -> list[Callable[[Choices], Hashable]]:
        """For every block what its cost depends on."""
        keys: list[Callable[[Choices], Hashable]] = []
        for i in range(1, len(self.reference.stages) + 1):
            own, before = f"block{i}.", f"block{i - 1}.width"
            names = [n for n in self._all_choices if n.startswith(own) or n == before]
            keys.append(operator.itemgetter(*names) if names else _nothing)
        return keys

    @functools.cached_property
    def _all_choices(self) -> dict[str, tuple[Choice, ...]]:
        """`choices`, made once; of the protocol's property itself pyright allows no caching."""
        return self.choices

    @property
    def _decisions(self) -> dict[str, tuple[Choice, ...]]:
        return {
            "op": self.ops,
            "kernel": self.kernels,
            "se": self.se_ratios,
            "skip": self.skips,
            "width": self.width_factors,
            "layers": self.depth_changes,
        }

    def _chosen(self, choices: Choices, place: int) -> Stage:
        """The stage at a place, counted from 0."""
        choice = {
            decision: choices.get(f"block{place + 1}.{decision}", options[0])
            for decision, options in self._decisions.items()
        }
        return self._stage(self.reference.stages[place], choice)

    def _width(self, reference: float) -> int:
        return round_width(reference * self.base_width, self.width_divisor)

    def _stage(self, reference: Stage, choice: Mapping[str, Any]) -> Stage:
        op = _OPS[choice["op"]]
        return Stage(
            block=op(kernel=choice["kernel"], se_ratio=choice["se"], skip=choice["skip"]),
            width=self._width(reference.width * choice["width"]),
            repeats=max(1, reference.repeats + choice["layers"]),
            stride=reference.stride,
        )


def _nothing(choices: Choices) -> None:
    """What a block that has no choices depends on; unlike a lambda it can be pickled."""


@functools.cache
def mnasnet(
    resolution: int = _PAPER_RESOLUTION,
    num_classes: int = 1000,
    target_macs: float = _PAPER_MACS,
    in_channels: int = 3,
) -> FactorizedSpace:
    """MnasNet's space around MobileNetV2, 432 options a block (Tan et al. 2019, section 4.1).

    432 = 4 ops x 2 kernels x 2 SE ratios x 3 skips x 3 widths x 3 depths; the paper prints three
    ops and its own count asks for four: MBConv with expansion 3 and 6, as in its networks.
    """
    space = FactorizedSpace(
        name="mnasnet",
        reference=_reference(mobilenet_v2(), "relu", num_classes, in_channels),
        ops=("conv", "dwconv", "mbconv3", "mbconv6"),
        skips=("identity", "pool", "none"),
    )
    return _adapt(space, resolution, target_macs)


@functools.cache
def efficientnet(
    resolution: int = _PAPER_RESOLUTION,
    num_classes: int = 1000,
    target_macs: float = _PAPER_MACS,
    in_channels: int = 3,
) -> FactorizedSpace:
    """MBConv only, around EfficientNet-B0, which it holds; 108 options a block (ours)."""
    space = FactorizedSpace(
        name="efficientnet",
        reference=_reference(efficientnet_b0(), "silu", num_classes, in_channels),
        ops=("mbconv1", "mbconv3", "mbconv6"),
    )
    return _adapt(space, resolution, target_macs)


SPACES: dict[str, Callable[..., FactorizedSpace]] = {
    "mnasnet": mnasnet,
    "efficientnet": efficientnet,
}


def default_target_macs(resolution: int, num_classes: int) -> float:
    """A target that suits an image size, to two digits.

    400 M multiply-adds at 224 px in proportion to the pixels; for small images, whose networks
    keep fewer strides, at least what EfficientNet-B0 costs at a fifth of its width.
    """
    b0 = adapt_resolution(replace(efficientnet_b0(), num_classes=num_classes), resolution)
    floor = count(scale_widths(b0, _SMALLEST_DEFAULT_WIDTH, divisor=4)).macs
    proportional = _PAPER_MACS * (resolution / _PAPER_RESOLUTION) ** 2
    return float(f"{max(proportional, floor):.1e}")


def _reference(
    network: Architecture,
    activation: Activation,
    num_classes: int,
    in_channels: int,
) -> Architecture:
    """`network` for the user's classes, with EfficientNet's norm and dropout."""
    b0 = efficientnet_b0()
    return replace(
        network,
        num_classes=num_classes,
        in_channels=in_channels,
        activation=activation,
        drop_path=b0.drop_path if activation == "silu" else 0.0,
        norm_eps=b0.norm_eps,
        norm_momentum=b0.norm_momentum,
    )


def _adapt(space: FactorizedSpace, resolution: int, target_macs: float) -> FactorizedSpace:
    """The space for another image size and budget.

    Widths are such that the space lies around `target_macs` as it does around 400 M at 224 px, by
    the median of a fixed sample of its networks. Below half the published widths all widths are
    multiples of 4, not 8, or the width choices would round to the same networks.
    """
    rng = random.Random(0)
    sampled = [sample(space, rng) for _ in range(_CALIBRATION_SAMPLE)]

    def median_macs(sized: FactorizedSpace) -> float:
        return statistics.median(count(sized.decode(choices)).macs for choices in sampled)

    share = median_macs(space) / _PAPER_MACS
    adapted = replace(space, reference=adapt_resolution(space.reference, resolution))
    for divisor in (8, 4):
        adapted = replace(adapted, width_divisor=divisor)
        base_width = fit_multiplier(
            lambda width, fixed=adapted: median_macs(replace(fixed, base_width=width)) / share,
            target_macs,
            f"space {space.name!r} at {resolution} px",
        )
        adapted = replace(adapted, base_width=base_width)
        if base_width >= 0.5:
            break
    return adapted
