"""What a network is: a frozen value that names it whole, input resolution and classes included.

Everything else (cost, module, scaling, export) reads an `Architecture` through one walk, `units`.
Importing this module loads no torch.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from tabulate import tabulate

from search_spaces.layers import Classifier, Conv, Pool
from search_spaces.ops import NamedLayers, Op, Plan

SCHEMA = 1
"""Version of the JSON form; raised when a field changes its meaning."""

MAX_NAME = 200
MAX_BLOCKS = 10_000
"""Deeper networks are a slip of phi, and counting their cost block by block takes minutes."""

MAX_SIZE = 10**12
"""Of widths, classes, pixels and the like: products of a few such still are floats."""

Activation = Literal["silu", "relu", "relu6", "hardswish"]


class ArchitectureError(ValueError):
    """An architecture, or the JSON of one, that breaks a rule."""


def _at_least(minimum: int, owner: object, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ArchitectureError(f"`{name} >= {minimum}` must hold, but got {value} in {owner}.")


def _limited(**values: int) -> None:
    for name, value in values.items():
        if value > MAX_SIZE:
            raise ArchitectureError(f"`{name} <= {MAX_SIZE:,}` must hold, but got more.")


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    width: int
    kernel: int = 3
    stride: int = 2
    pool: bool = False
    """Whether 3x3 max pooling at stride 2 follows (ResNet)."""

    def __post_init__(self) -> None:
        _at_least(1, self, width=self.width, kernel=self.kernel, stride=self.stride)
        _limited(width=self.width, kernel=self.kernel, stride=self.stride)
        if self.kernel % 2 == 0:
            raise ArchitectureError(f"`kernel` must be odd, or padding shifts the image; {self}.")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`repeats` equal blocks; only the first has the stride and changes the width."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    block: Op
    width: int
    """Output channels."""
    repeats: int
    stride: int

    def __post_init__(self) -> None:
        _at_least(1, self, width=self.width, repeats=self.repeats, stride=self.stride)
        _limited(width=self.width, stride=self.stride)


class Unit(NamedTuple):
    """One step of the walk: the stem, a block, the head or the classifier."""

    name: str
    """Path of the unit, `stem`, `stages.2.0`, `head` or `classifier`."""
    plan: Plan
    in_size: int
    """Spatial size of the input, in pixels."""
    drop_path: float = 0.0
    """Probability that stochastic depth drops the branch."""

    @property
    def layers(self) -> Iterator[tuple[str, Any, int]]:
        """`(name, layer, input size)` of every primitive layer, branch first, then shortcut."""
        for prefix, layers in (("branch", self.plan.branch), ("shortcut", self.plan.shortcut)):
            size = self.in_size
            for name, layer in layers or ():
                yield f"{prefix}.{name}", layer, size
                size = layer.out_size(size)

    @property
    def out_size(self) -> int:
        size = self.in_size
        for _, layer in self.plan.branch:
            size = layer.out_size(size)
        return size


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A convolutional image classifier. Inputs are ``(N, in_channels, resolution, resolution)``."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """A label for people; not part of `digest`."""
    resolution: int
    """Side of the square input, in pixels."""
    num_classes: int
    stem: Stem
    stages: tuple[Stage, ...]
    head_width: int
    """Channels of the 1x1 convolution before pooling; 0: none."""
    in_channels: int = 3
    activation: Activation = "silu"
    dropout: float = 0.2
    """Rate before the classifier."""
    drop_path: float = 0.2
    """Stochastic depth: block i of N is dropped with probability `drop_path` * i / N."""
    norm_eps: float = 1e-3
    """Epsilon of every batch norm."""
    norm_momentum: float = 0.01
    """Batch-norm momentum in PyTorch's sense (1 - TensorFlow's)."""

    def __post_init__(self) -> None:
        if not self.name.isprintable() or len(self.name) > MAX_NAME:
            raise ArchitectureError(
                f"`name` must be at most {MAX_NAME} printable characters; got "
                f"{self.name[:MAX_NAME]!a}."
            )
        if (blocks := sum(stage.repeats for stage in self.stages)) > MAX_BLOCKS:
            raise ArchitectureError(
                f"At most {MAX_BLOCKS:,} blocks are supported; {self.name!r} has {blocks:,}."
            )
        _at_least(
            1,
            self.name,
            resolution=self.resolution,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            stages=len(self.stages),
        )
        _at_least(0, self.name, head_width=self.head_width)
        _limited(
            resolution=self.resolution,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            head_width=self.head_width,
        )
        for rate in ("dropout", "drop_path"):
            if not 0 <= getattr(self, rate) < 1:
                raise ArchitectureError(
                    f"`0 <= {rate} < 1` must hold, but got {getattr(self, rate)} in {self.name}."
                )
        if not (self.norm_eps > 0 and 0 < self.norm_momentum <= 1):
            raise ArchitectureError(
                "`norm_eps > 0` and `0 < norm_momentum <= 1` must hold, but got "
                f"{self.norm_eps} and {self.norm_momentum} in {self.name}."
            )

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that depend on every field but `name`; stable across versions."""
        return hashlib.sha256(_canonical(replace(self, name="")).encode()).hexdigest()[:12]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the stem, the stages and the head (where there is one)."""
        stages = tuple(stage.width for stage in self.stages)
        return (self.stem.width, *stages, *((self.head_width,) if self.head_width else ()))

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages: what depth scales."""
        return sum(stage.repeats for stage in self.stages)

    def to_json(self) -> str:
        """The JSON form; `from_json` gives back an equal value."""
        return json.dumps(_fields(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read `to_json`'s form.

        Raises:
            ArchitectureError: The text is no JSON, of another schema version, or breaks a rule;
                every offending field is named.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArchitectureError(f"This is not the JSON of an architecture: {error}.") from error
        if not isinstance(fields, dict) or "schema" not in fields:
            raise ArchitectureError("An architecture's JSON is an object with a `schema` field.")
        schema = fields.pop("schema")
        if schema != SCHEMA:
            raise ArchitectureError(
                f"This file has schema {schema!r}; this version reads schema {SCHEMA}. "
                "Read it with the version that wrote it."
            )
        try:
            return _adapter(cls).validate_json(json.dumps(fields), strict=True)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'architecture'}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ArchitectureError(f"The architecture is not valid: {problems}.") from error

    def table(self) -> str:
        """The stages as in EfficientNet's Table 1, with parameters and multiply-adds."""
        from search_spaces.cost import stage_costs  # cost reads architectures, not the reverse

        rows = [
            (i, label, f"{size}x{size}", width, repeats, f"{cost.params:,}", f"{cost.macs:,}")
            for i, ((label, size, width, repeats), cost) in enumerate(
                zip(self._stage_rows(), stage_costs(self), strict=True), start=1
            )
        ]
        header = ("stage", "operator", "resolution", "channels", "layers", "params", "MACs")
        align = ("right", "left", "right", "right", "right", "right", "right")
        return tabulate(rows, header, colalign=align, disable_numparse=True)

    def _stage_rows(self) -> Iterator[tuple[str, int, int, int]]:
        sizes = {unit.name: unit.in_size for unit in units(self)}
        pool = " & MaxPool" if self.stem.pool else ""
        label = f"Conv, k{self.stem.kernel}x{self.stem.kernel}{pool}"
        yield label, sizes["stem"], self.stem.width, 1
        for i, stage in enumerate(self.stages):
            yield _describe(stage.block), sizes[f"stages.{i}.0"], stage.width, stage.repeats
        last = sizes["head"] if self.head_width else sizes["classifier"]
        label = "Conv1x1 & Pooling & FC" if self.head_width else "Pooling & FC"
        yield label, last, self.head_width or self.stages[-1].width, 1


def units(architecture: Architecture) -> Iterator[Unit]:
    """The one walk: stem, blocks, head and classifier in the order of computation."""
    unit = stem_unit(architecture)
    yield unit
    channels, size = architecture.stem.width, unit.out_size
    depth, index = architecture.num_blocks, 0
    for i, stage in enumerate(architecture.stages):
        for unit in stage_units(i, stage, channels, size):
            drop = architecture.drop_path * index / depth if unit.plan.shortcut is not None else 0.0
            yield unit._replace(drop_path=drop)
            channels, size, index = stage.width, unit.out_size, index + 1
    yield from head_units(architecture, channels, size)


def stem_unit(architecture: Architecture) -> Unit:
    """The first unit of the walk."""
    stem, channels = architecture.stem, architecture.in_channels
    layers: NamedLayers = (("conv", Conv(channels, stem.width, stem.kernel, stem.stride)),)
    if stem.pool:
        layers = (*layers, ("pool", Pool("max", stem.width, stem.width, stride=2)))
    return Unit("stem", Plan(layers, None), architecture.resolution)


def stage_units(place: int, stage: Stage, in_channels: int, in_size: int) -> Iterator[Unit]:
    """The blocks of the stage at a place, counted from 0; without `drop_path`, which depends on the
    blocks before and after."""
    channels, size = in_channels, in_size
    for j in range(stage.repeats):
        plan = stage.block.plan(channels, stage.width, stage.stride if j == 0 else 1)
        unit = Unit(f"stages.{place}.{j}", plan, size)
        yield unit
        channels, size = stage.width, unit.out_size


def head_units(architecture: Architecture, in_channels: int, size: int) -> Iterator[Unit]:
    """Head, if there is one, and classifier."""
    channels = in_channels
    if architecture.head_width:
        head: NamedLayers = (("conv", Conv(channels, architecture.head_width)),)
        yield Unit("head", Plan(head, None), size)
        channels = architecture.head_width
    classifier: NamedLayers = (("fc", Classifier(channels, architecture.num_classes)),)
    yield Unit("classifier", Plan(classifier, None), size)


def units_by_stage(architecture: Architecture) -> list[list[Unit]]:
    """The walk in parts: the stem, every stage, and head and classifier together."""
    parts: list[list[Unit]] = [[] for _ in range(len(architecture.stages) + 2)]
    for unit in units(architecture):
        if unit.name == "stem":
            index = 0
        elif unit.name.startswith("stages."):
            index = int(unit.name.split(".")[1]) + 1
        else:
            index = -1
        parts[index].append(unit)
    return parts


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """To be made once: it takes 75 times as long as reading a network with it."""
    return TypeAdapter(kind)


def _describe(block: Any) -> str:
    parts = [f"{block.label}, k{block.kernel}x{block.kernel}"]
    if getattr(block, "se_ratio", 0):
        parts.append(f"SE {block.se_ratio:g}")
    if getattr(block, "skip", "identity") != "identity":
        parts.append({"pool": "pool skip", "none": "no skip"}[block.skip])
    return ", ".join(parts)


def _canonical(architecture: Architecture) -> str:
    return json.dumps(_fields(architecture), sort_keys=True, separators=(",", ":"))


def _fields(architecture: Architecture) -> dict[str, Any]:
    """What JSON says of it, where 6 and 6.0 are the same number: equal networks, equal bytes."""

    def normal(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: normal(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [normal(item) for item in value]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value

    return {"schema": SCHEMA, **normal(asdict(architecture))}
