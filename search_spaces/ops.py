"""The operations a stage may repeat. **A new op is added here, and only here.**

An op is a frozen dataclass with a literal `op` tag and a method `plan`, which lists its primitive
layers; cost model, module builder and JSON follow from that. Add it to `Op` at the end.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field

from search_spaces.layers import Conv, Layer, Pool, SqueezeExcite

Skip = Literal["identity", "pool", "none"]
NamedLayers = tuple[tuple[str, Layer], ...]

_MAX = 1000
"""Of kernels and expansions; beyond lie numbers that no float can hold."""


class Plan(NamedTuple):
    """What one repeat computes: ``act?(branch(x) + shortcut(x))``."""

    branch: NamedLayers
    shortcut: NamedLayers | None
    """Layers of the shortcut: `()` is the identity, `None` is no shortcut."""
    activation: bool = False
    """Whether the network's activation follows the sum (ResNet)."""


@dataclass(frozen=True, kw_only=True)
class _Convolutional:
    """Choices shared by the MnasNet ops."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    kernel: int = 3
    """Side of the (depthwise) kernel, odd."""
    se_ratio: float = 0.0
    """Squeezed width as a share of the block's INPUT channels, rounded down; 0: no SE."""
    skip: Skip = "identity"
    """`identity`: where stride is 1 and the widths agree. `pool`: 3x3 average pooling at the
    block's stride, channels zero-padded or cut to the block's width; MnasNet names pooling as a
    skip without saying how, so this form is ours. `none`: never."""

    def __post_init__(self) -> None:
        if not 1 <= self.kernel <= _MAX or self.kernel % 2 == 0:
            raise ValueError(
                f"`kernel` must be odd, or padding shifts the image, and 1 to {_MAX}; got {self}."
            )
        if not 0 <= self.se_ratio <= 1:
            raise ValueError(f"`0 <= se_ratio <= 1` must hold; got {self}.")

    def _se(self, in_channels: int, channels: int) -> NamedLayers:
        if self.se_ratio == 0:
            return ()
        squeezed = max(1, int(in_channels * self.se_ratio))
        return (("se", SqueezeExcite(channels, squeezed)),)

    def _shortcut(self, in_channels: int, out_channels: int, stride: int) -> NamedLayers | None:
        if self.skip == "pool":
            return (("pool", Pool("avg", in_channels, out_channels, stride=stride)),)
        if self.skip == "identity" and stride == 1 and in_channels == out_channels:
            return ()
        return None


@dataclass(frozen=True, kw_only=True)
class MBConv(_Convolutional):
    """Mobile inverted bottleneck (Sandler et al. 2018); expansion 1 has no 1x1 expansion."""

    op: Literal["mbconv"] = "mbconv"
    expansion: float = 6
    """Expanded width over the block's input channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.expansion <= _MAX:
            raise ValueError(f"`1 <= expansion <= {_MAX}` must hold; got {self}.")

    @property
    def label(self) -> str:
        return f"MBConv{self.expansion:g}"

    def plan(self, in_channels: int, out_channels: int, stride: int) -> Plan:
        middle = round(in_channels * self.expansion)
        expand = (("expand", Conv(in_channels, middle)),) if self.expansion != 1 else ()
        branch = (
            *expand,
            ("depthwise", Conv(middle, middle, self.kernel, stride, groups=middle)),
            *self._se(in_channels, middle),
            ("project", Conv(middle, out_channels, activation=False)),
        )
        return Plan(branch, self._shortcut(in_channels, out_channels, stride))


@dataclass(frozen=True, kw_only=True)
class PlainConv(_Convolutional):
    """Ordinary convolution, batch norm, activation."""

    op: Literal["conv"] = "conv"

    @property
    def label(self) -> str:
        return "Conv"

    def plan(self, in_channels: int, out_channels: int, stride: int) -> Plan:
        branch = (
            ("conv", Conv(in_channels, out_channels, self.kernel, stride)),
            *self._se(in_channels, out_channels),
        )
        return Plan(branch, self._shortcut(in_channels, out_channels, stride))


@dataclass(frozen=True, kw_only=True)
class SeparableConv(_Convolutional):
    """Depthwise then pointwise convolution, an activation after each (MobileNetV1)."""

    op: Literal["separable"] = "separable"
    skip: Skip = "none"

    @property
    def label(self) -> str:
        return "SepConv"

    def plan(self, in_channels: int, out_channels: int, stride: int) -> Plan:
        branch = (
            ("depthwise", Conv(in_channels, in_channels, self.kernel, stride, groups=in_channels)),
            *self._se(in_channels, in_channels),
            ("pointwise", Conv(in_channels, out_channels)),
        )
        return Plan(branch, self._shortcut(in_channels, out_channels, stride))


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """ResNet bottleneck with the stride on its kxk convolution, a projection where shapes change
    (He et al. 2015; "v1.5", as in torchvision and timm)."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    op: Literal["bottleneck"] = "bottleneck"
    kernel: int = 3
    """Side of the middle kernel, odd."""
    ratio: float = 0.25
    """Inner width as a share of the block's OUTPUT channels, rounded down."""

    def __post_init__(self) -> None:
        if not 1 <= self.kernel <= _MAX or self.kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd, and 1 to {_MAX}; got {self}.")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"`0 < ratio <= 1` must hold; got {self}.")

    @property
    def label(self) -> str:
        return "Bottleneck"

    def plan(self, in_channels: int, out_channels: int, stride: int) -> Plan:
        middle = max(1, int(out_channels * self.ratio))
        branch = (
            ("reduce", Conv(in_channels, middle)),
            ("conv", Conv(middle, middle, self.kernel, stride)),
            ("restore", Conv(middle, out_channels, activation=False)),
        )
        shortcut: NamedLayers = ()
        if stride != 1 or in_channels != out_channels:
            projection = Conv(in_channels, out_channels, stride=stride, activation=False)
            shortcut = (("project", projection),)
        return Plan(branch, shortcut, activation=True)


Op = Annotated[MBConv | PlainConv | SeparableConv | Bottleneck, Field(discriminator="op")]
