"""Layers that train faster than PyTorch's own, and compute the same to rounding.

What they replace shows in a profile of small images on a CPU (experiments/LOG.md): oneDNN has a
fast gradient of a depthwise kernel up to 3 pixels wide, on maps that hold the kernel, and takes ten
times as long otherwise; a convolution on maps of one pixel costs three times its matrix product.
Only training takes these ways. Inference, export and latencies see PyTorch's layers. Tools that
know layers by their exact class, such as eager quantization-aware training, overlook `Convolution`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_WIDEST = 3
"""Columns of a depthwise kernel that oneDNN's fast gradient takes (v3.13)."""
_SAFE = 8
"""Channels from which on oneDNN's gradient of a strided 1x1 kernel keeps to its memory (v3.13 with
AVX2); with fewer it writes beyond, which may end the process."""


class Convolution(nn.Conv2d):
    """`nn.Conv2d` of a square, odd kernel, padded by (kernel - 1) / 2."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', ceil(H / stride), ceil(W / stride))``."""
        plain = torch.jit.is_scripting()  # pyright: ignore[reportPrivateImportUsage]
        if plain or not (self.training and _plainly_on_cpu(input)):
            return self._conv_forward(input, self.weight, self.bias)
        return self._trained(input)

    @torch.jit.unused
    def _trained(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1) and self.stride[0] > 1 and self.in_channels < _SAFE:
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
            return F.conv2d(x, self.weight, self.bias, groups=self.groups)
        depthwise = 1 < self.groups == self.in_channels == self.out_channels
        if x.shape[2:] == (1, 1) and (depthwise or self.groups == 1):
            return self._of_one_pixel(x, depthwise)
        if depthwise and self.bias is None and _is_slow(x, self.kernel_size[0], self.stride[0]):
            return _Depthwise.apply(x, self.weight, self.stride[0])
        return self._conv_forward(x, self.weight, self.bias)

    def _of_one_pixel(self, x: Tensor, depthwise: bool) -> Tensor:
        """All of the kernel but its centre lies on the padding."""
        weight, middle = self.weight, self.kernel_size[0] // 2
        centre = weight[:, :, middle, middle] if middle else weight.flatten(1)
        centre = centre.contiguous()  # part of a supernet's weights: the same bits as the whole
        if depthwise:
            y = x.flatten(1) * centre.flatten()
            y = y if self.bias is None else y + self.bias
        else:
            y = F.linear(x.flatten(1), centre, self.bias)
        # Strides that batch norms take for channels-last.
        return y.view(len(y), 1, 1, -1).permute(0, 3, 1, 2)


class Gated(Function):
    """``x * gate`` for a gate computed from ``Pooled.apply(x, link)``; x itself comes detached.

    Together the two write the gradient of x once, where autograd writes and adds those of the
    product and of the mean. The product's backward leaves what it knows in `link`; the mean's,
    which autograd can only run later, takes it from there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, link: list[Tensor]) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.link = link
        return x * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (grad,), (x, gate) = grads, ctx.saved_tensors
        ctx.link[:] = grad, gate.detach()
        return None, (grad * x).sum((2, 3), keepdim=True), None


class Pooled(Function):
    """The mean of each channel ``(N, C, 1, 1)``, whose backward is that of `Gated`, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, link: list[Tensor]) -> Tensor:
        ctx.link, ctx.pixels = link, x.shape[2] * x.shape[3]
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (grad,), (after, gate) = grads, ctx.link
        ctx.link.clear()
        return torch.addcmul(grad / ctx.pixels, after, gate), None


class _Depthwise(Function):
    """A depthwise convolution whose kernel's gradient oneDNN would compute slowly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight), stride = grads, ctx.saved_tensors, ctx.stride
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            padding = weight.shape[2] // 2
            of_x = _gradients(grad, x, weight, stride, (padding, padding), 0)
        if ctx.needs_input_grad[1]:
            kernel = weight.shape[2]
            small = max(x.shape[2:]) < _least_side(kernel, stride)
            of_weight = (_by_products if small else _by_strips)(grad, x, kernel, stride)
        return of_x, of_weight, None


@torch.jit.unused
def _plainly_on_cpu(x: Tensor) -> bool:
    return (
        isinstance(x, Tensor)  # no proxy of torch.fx
        and x.device.type in ("cpu", "meta")  # where a training's memory is counted
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_slow(x: Tensor, kernel: int, stride: int) -> bool:
    """Whether oneDNN's gradient is, and one of ours can be had."""
    sides, least = x.shape[2:], _least_side(kernel, stride)
    splits = kernel > _WIDEST and kernel // 2 % stride == 0
    return kernel > 1 and (max(sides) < least or (splits and min(sides) >= least))


def _least_side(kernel: int, stride: int) -> int:
    """Of a map that oneDNN says holds the kernel."""
    return kernel + -(kernel // 2) % stride


def _by_products(grad: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    """Products of all pixels with all results, summed over the batch channel by channel as
    matrices; each tap of the kernel then adds those that it joins."""
    count, channels, height, width = x.shape
    ins, outs = (
        t.permute(0, 2, 3, 1).reshape(-1, channels).t().contiguous().view(channels, count, -1)
        for t in (x, grad)
    )
    products = torch.bmm(ins.transpose(1, 2), outs).flatten(1)
    pixels = height * width
    one_each = torch.eye(pixels, device=x.device).view(pixels, 1, height, width)
    # (pixels, taps, results): 1 where the tap joins the pixel to the result.
    joins = F.unfold(one_each, kernel, padding=kernel // 2, stride=stride)
    taps = products @ joins.transpose(1, 2).reshape(-1, kernel**2)
    return taps.view(channels, 1, kernel, kernel)


def _by_strips(grad: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    """oneDNN's fast gradient for a few columns of the kernel at a time."""
    strips = []
    padding, width, out = kernel // 2, x.shape[3], grad.shape[3]
    for first in range(0, kernel, _WIDEST):
        columns = min(_WIDEST, kernel - first)
        last = first + (out - 1) * stride + columns  # of the columns read, padding included
        part = F.pad(x, (padding - first, last - padding - width, 0, 0))
        like = x.new_empty(x.shape[1], 1, kernel, columns)
        strips.append(_gradients(grad, part, like, stride, (padding, 0), 1))
    return torch.cat(strips, 3)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], which: int
) -> Tensor:
    """PyTorch's own, of x (0) or of the weight (1)."""
    mask = [which == 0, which == 1, False]
    strides, ones, none = [stride, stride], [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, strides, list(padding), ones, False, none, x.shape[1], mask
    )[which]
