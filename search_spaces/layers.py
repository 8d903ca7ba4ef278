"""The primitive layers of a network, each with its own arithmetic; no torch.

Every number follows from a layer's shape, so the cost model and the module builder read the same
values and cannot disagree. Sizes are spatial and square: a layer maps ``(N, C, size, size)`` to
``(N, C', out_size(size), out_size(size))``. Batch norm belongs to its convolution.
"""

from dataclasses import dataclass
from typing import Literal


def strided(size: int, stride: int) -> int:
    """Spatial size after a stride, in pixels: ``ceil(size / stride)`` for odd kernels."""
    return -(-size // stride)


@dataclass(frozen=True)
class Conv:
    """Bias-free convolution, batch norm and, if `activation`, the network's activation."""

    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: bool = True

    @property
    def fan_in(self) -> int:
        """Numbers that one output is made from."""
        return self.kernel**2 * self.in_channels // self.groups

    @property
    def params(self) -> int:
        """Trainable parameters: the kernel, and gamma and beta of the batch norm."""
        return self.fan_in * self.out_channels + 2 * self.out_channels

    def out_size(self, size: int) -> int:
        return strided(size, self.stride)

    def macs(self, size: int) -> int:
        """Multiply-adds for an input of `size` pixels."""
        return self.fan_in * self.out_channels * self.out_size(size) ** 2

    def activations(self, size: int) -> int:
        """Elements that the convolution puts out."""
        return self.out_channels * self.out_size(size) ** 2


@dataclass(frozen=True)
class SqueezeExcite:
    """Global pooling, two 1x1 convolutions with bias, a sigmoid gate (Hu et al. 2018)."""

    channels: int
    squeezed: int

    @property
    def params(self) -> int:
        return 2 * self.channels * self.squeezed + self.squeezed + self.channels

    def out_size(self, size: int) -> int:
        return size

    def macs(self, size: int) -> int:
        return 2 * self.channels * self.squeezed

    def activations(self, size: int) -> int:
        return self.squeezed + self.channels


@dataclass(frozen=True)
class Pool:
    """Average or max pooling; `out_channels` above (below) `in_channels` pads zeros (cuts)."""

    kind: Literal["avg", "max"]
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    params: int = 0

    def out_size(self, size: int) -> int:
        return strided(size, self.stride)

    def macs(self, size: int) -> int:
        return 0

    def activations(self, size: int) -> int:
        return 0


@dataclass(frozen=True)
class Classifier:
    """Global average pooling, dropout and a fully connected layer with bias."""

    in_channels: int
    num_classes: int

    @property
    def params(self) -> int:
        return (self.in_channels + 1) * self.num_classes

    def out_size(self, size: int) -> int:
        return 1

    def macs(self, size: int) -> int:
        return self.in_channels * self.num_classes

    def activations(self, size: int) -> int:
        return 0


Layer = Conv | SqueezeExcite | Pool | Classifier
