"""The largest of everything that the networks of a space have, or why they cannot share weights.

Loads no torch. What is shared: kernels (the centre of the largest), expansions, widths and squeezed
widths (the first channels), depth (the first blocks of a stage), stem and head. What has weights of
its own, in every block: each of `KINDS`, because the same channels mean another thing there. Skips
have no weights.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.architecture import Architecture, Stage
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.ops import MBConv, Op, PlainConv, SeparableConv
from search_spaces.spaces import Choice, Space, sample

KINDS = {
    "mbconv": "MBConv with an expansion",
    "mbconv1": "MBConv without one, whose depthwise kernels see the block's input",
    "conv": "plain convolution",
    "separable": "separable convolution",
}
"""Ops that have weights of their own, and what they are."""

_STARTS = 8
"""Networks from which each choice is changed alone."""
_SAME = ("resolution", "num_classes", "in_channels", "activation", "norm_eps", "norm_momentum")


class SharingError(ValueError):
    """Networks that cannot share weights."""


def kind_of(block: Any) -> str:
    """Which of `KINDS` the weights of an op are.

    Raises:
        SharingError: None of them.
    """
    match block:
        case MBConv(expansion=1):
            return "mbconv1"
        case MBConv():
            return "mbconv"
        case PlainConv():
            return "conv"
        case SeparableConv():
            return "separable"
    reason = "its networks have blocks that cannot be cut out of larger ones"
    if getattr(block, "op", "") == "bottleneck":
        reason = (
            "the shortcut of a ResNet bottleneck is a projection with weights in some networks and "
            "the identity in others, so that the same weights would not compute the same"
        )
    raise SharingError(
        f"No weights are shared between blocks of op {getattr(block, 'op', block)!r}: {reason}. "
        f"Shared are those of {', '.join(KINDS)}."
    )


@dataclass(frozen=True, kw_only=True)
class SharedStage:
    """The largest blocks of a stage."""

    kinds: frozenset[str]
    """Of `KINDS`: each has weights of its own in every block."""
    width: int
    repeats: int
    stride: int
    kernel: int
    expansion: float
    """Of kind `mbconv`; 1 where there is none."""
    se_ratio: float

    def largest(self, kind: str) -> Op:
        """The op whose weights hold those of all others of its kind."""
        shared: dict[str, Any] = {"kernel": self.kernel, "se_ratio": self.se_ratio, "skip": "none"}
        match kind:
            case "mbconv":
                return MBConv(expansion=self.expansion, **shared)
            case "mbconv1":
                return MBConv(expansion=1, **shared)
            case "conv":
                return PlainConv(**shared)
        return SeparableConv(**shared)

    def __or__(self, other: "SharedStage") -> "SharedStage":
        return SharedStage(
            kinds=self.kinds | other.kinds,
            width=max(self.width, other.width),
            repeats=max(self.repeats, other.repeats),
            stride=self.stride,
            kernel=max(self.kernel, other.kernel),
            expansion=max(self.expansion, other.expansion),
            se_ratio=max(self.se_ratio, other.se_ratio),
        )


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What the weights must be large enough for; `one | other` is large enough for both."""

    like: Architecture
    """One of the networks, which all agree with in what cannot differ."""
    stem_width: int
    stem_kernel: int
    stages: tuple[SharedStage, ...]
    head_width: int
    """0: no head."""

    @classmethod
    def around(cls, architecture: AnyNetwork) -> "Envelope":
        """Of one network.

        Raises:
            SharingError: It has blocks that share no weights.
        """
        if not isinstance(architecture, Architecture):
            raise SharingError(
                "No weights are shared between networks of a builder of your own: only the builder "
                "knows what they compute."
            )
        return cls(
            like=architecture,
            stem_width=architecture.stem.width,
            stem_kernel=architecture.stem.kernel,
            stages=tuple(map(_shared, architecture.stages)),
            head_width=architecture.head_width,
        )

    def __or__(self, other: "Envelope") -> "Envelope":
        """Of both.

        Raises:
            SharingError: They differ in what cannot be shared.
        """
        _check_alike(self.like, other.like)
        return replace(
            self,
            stem_width=max(self.stem_width, other.stem_width),
            stem_kernel=max(self.stem_kernel, other.stem_kernel),
            stages=tuple(a | b for a, b in zip(self.stages, other.stages, strict=True)),
            head_width=max(self.head_width, other.head_width),
        )

    def check(self, architecture: Architecture) -> None:
        """Raise unless the weights of the network are among those of the envelope.

        Raises:
            SharingError: They are not.
        """
        if self | Envelope.around(architecture) != self:
            raise SharingError(
                f"{architecture.name} is larger somewhere, or of another op, than what the shared "
                "weights were made for. Train a supernet for the space that it is of."
            )


def envelope_of(space: Space) -> Envelope:
    """Of all networks of a space.

    Each choice is changed alone, from a few networks drawn at random. That finds the largest of
    everything if no width, depth, kernel, expansion or ratio takes two choices to become largest,
    as in every `FactorizedSpace`.

    Raises:
        SharingError: Networks of the space cannot share weights.
    """
    rng = random.Random(0)
    envelope: Envelope | None = None
    for _ in range(_STARTS):
        start = sample(space, rng)
        for name, options in space.choices.items():
            for option in options:
                found = Envelope.around(space.decode({**start, name: option}))
                envelope = found if envelope is None else envelope | found
    if envelope is None:
        raise SharingError(f"Space {space.name!r} has no choices: there is nothing to share.")
    return envelope


def extremes(space: Space) -> tuple[Architecture, Architecture]:
    """The networks of the most and of the fewest multiply-adds, by changing choices one by one."""
    return _climb(space, lambda macs: macs), _climb(space, lambda macs: -macs)


def _climb(space: Space, value: Callable[[int], int]) -> Architecture:
    choices: dict[str, Choice] = {name: options[0] for name, options in space.choices.items()}
    best, before = value(count(space.decode(choices)).macs), None
    while best != before:
        before = best
        for name, options in space.choices.items():
            for option in options:
                changed = {**choices, name: option}
                if (reached := value(count(space.decode(changed)).macs)) > best:
                    choices, best = changed, reached
    return space.decode(choices)


def _shared(stage: Stage) -> SharedStage:
    kind = kind_of(stage.block)
    assert isinstance(stage.block, MBConv | PlainConv | SeparableConv)
    return SharedStage(
        kinds=frozenset({kind}),
        width=stage.width,
        repeats=stage.repeats,
        stride=stage.stride,
        kernel=stage.block.kernel,
        expansion=stage.block.expansion if isinstance(stage.block, MBConv) else 1,
        se_ratio=stage.block.se_ratio,
    )


def _check_alike(one: Architecture, other: Architecture) -> None:
    for name, (a, b) in {
        **{name: (getattr(one, name), getattr(other, name)) for name in _SAME},
        "stem stride": (one.stem.stride, other.stem.stride),
        "pooling after the stem": (one.stem.pool, other.stem.pool),
        "strides of the stages": tuple([s.stride for s in a.stages] for a in (one, other)),
        "head": (one.head_width > 0, other.head_width > 0),
    }.items():
        if a != b:
            raise SharingError(
                f"Networks share weights only if they agree in {name.replace('_', ' ')}; "
                f"{one.name} has {a}, {other.name} {b}."
            )
