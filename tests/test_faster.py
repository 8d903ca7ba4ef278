"""Layers that train faster than PyTorch's: the same to rounding, and only where they are."""

import copy
import itertools
import os
import subprocess
import sys
from ctypes.util import find_library

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.blocks import Hardswish, SiLU, SqueezeExcitation
from search_spaces.faster import Convolution
from search_spaces.layers import SqueezeExcite

STRIDED = """
import torch
from search_spaces.faster import Convolution

torch.set_num_threads(1)
for channels in range(1, 10):
    for side in (4, 8, 32):
        images = torch.randn(5, channels, side, side).to(memory_format=torch.channels_last)
        layer = Convolution(channels, 16, 1, 2).to(memory_format=torch.channels_last)
        layer(images).sum().backward()
"""
SIDES = [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (2, 3), (1, 5), (9, 4), (12, 5)]


def _convolution(channels: int, kernel: int, stride: int, groups: int, bias: bool) -> Convolution:
    torch.manual_seed(0)
    padding = kernel // 2
    return Convolution(
        channels, channels, kernel, stride, padding=padding, groups=groups, bias=bias
    ).to(memory_format=torch.channels_last)


def _exact(module: Convolution, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients by PyTorch's convolution in double precision."""
    exact = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size[0],
        module.stride[0],
        padding=module.kernel_size[0] // 2,
        groups=module.groups,
        bias=module.bias is not None,
    )
    exact.load_state_dict(module.state_dict())
    return _gradients(exact.double(), x.detach().double())


def _gradients(module: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of x and the parameters for fixed ones of the output."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    found = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])
    return y.detach(), list(found)


def test_strided_1x1_kernels_of_few_channels_are_trained_within_their_memory() -> None:
    checker = find_library("c_malloc_debug")
    if checker is None:
        pytest.skip("needs glibc's checker of the heap")
    environment = {**os.environ, "LD_PRELOAD": checker, "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", STRIDED], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("kernel", "stride"), [*itertools.product((1, 3, 5, 7), (1, 2))])
@pytest.mark.parametrize("groups", [1, 2, 6], ids=["dense", "grouped", "depthwise"])
def test_a_convolution_and_its_gradients_are_pytorchs(
    groups: int, kernel: int, stride: int
) -> None:
    for side, bias in itertools.product(SIDES, (False, True)):
        module = _convolution(6, kernel, stride, groups, bias)
        x = torch.randn(5, 6, *side).to(memory_format=torch.channels_last)
        expected, exact = _exact(module, x)
        for images in (x, x.contiguous()):
            y, found = _gradients(module, images)
            torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
            for gradient, truth in zip(found, exact, strict=True):
                assert gradient.shape == truth.shape
                torch.testing.assert_close(gradient.double(), truth, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "ours"),
    [
        *((2, 3, 1, True), (2, 5, 1, True), (4, 5, 1, True), (4, 5, 2, True), (3, 3, 2, True)),
        *((8, 5, 1, True), (16, 5, 2, True), (8, 7, 1, True)),
        *((4, 3, 1, False), (8, 3, 2, False), (8, 7, 2, False)),
    ],
)
def test_where_onednn_is_slow_the_gradient_is_ours(
    side: int, kernel: int, stride: int, ours: bool
) -> None:
    module, x = _convolution(4, kernel, stride, 4, False), torch.randn(2, 4, side, side)
    assert (_node(module(x)) == "_DepthwiseBackward") == ours


def test_one_pixel_is_a_matrix_product() -> None:
    x = torch.randn(3, 6, 1, 1)
    for kernel, groups in itertools.product((1, 3), (1, 6)):
        y = _convolution(6, kernel, 1, groups, False)(x)
        assert "Convolution" not in _node(y)
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_only_training_in_full_precision_is_ours() -> None:
    module, x = _convolution(6, 5, 1, 6, False), torch.randn(3, 6, 2, 2)
    with torch.no_grad():
        plain = F.conv2d(x, module.weight, padding=2, groups=6)
        assert torch.equal(module(x), plain)
    assert _node(copy.deepcopy(module).eval()(x)) == "ConvolutionBackward0"
    assert _node(copy.deepcopy(module).double()(x.double())) == "ConvolutionBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert _node(module(x)) == "ConvolutionBackward0"


def _node(y: Tensor) -> str:
    node = y.grad_fn
    while node is not None and node.name() in ("PermuteBackward0", "ViewBackward0"):
        node = node.next_functions[0][0]
    assert node is not None
    return node.name()


class _Plain(SqueezeExcitation):
    """The gate by PyTorch's own derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self._gate(x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("side", [(1, 1), (4, 3)])
def test_the_gate_has_the_gradients_of_its_formula(side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gate = SqueezeExcitation(SqueezeExcite(6, 2), SiLU()).double()
    plain = _Plain(SqueezeExcite(6, 2), SiLU()).double()
    plain.load_state_dict(gate.state_dict())
    x = torch.randn(3, 6, *side, dtype=torch.float64)
    (y, found), (expected, truth) = _gradients(gate, x), _gradients(plain, x)
    torch.testing.assert_close([y, *found], [expected, *truth], rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(gate, (x.requires_grad_(),))
    (once,) = torch.autograd.grad(gate(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()
    assert torch.equal(gate.eval()(x), y)


def test_the_gate_leaves_out_what_wants_no_gradient() -> None:
    gate, x = SqueezeExcitation(SqueezeExcite(6, 2), SiLU()), torch.randn(3, 6, 2, 2)
    gate(x).sum().backward()
    trained = [parameter.grad for parameter in gate.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in trained)
    frozen = copy.deepcopy(gate).requires_grad_(False)
    frozen.zero_grad()
    frozen(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert not frozen(x.detach()).requires_grad


def test_the_gate_under_autocast() -> None:
    torch.manual_seed(0)
    gate = SqueezeExcitation(SqueezeExcite(6, 2), SiLU())
    plain = _Plain(SqueezeExcite(6, 2), SiLU())
    plain.load_state_dict(gate.state_dict())
    for x in (torch.randn(3, 6, 2, 2), torch.randn(3, 6, 2, 2, dtype=torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16):
            (y, found), (expected, truth) = _gradients(gate, x), _gradients(plain, x)
        assert [t.dtype for t in found] == [t.dtype for t in truth]
        torch.testing.assert_close([y, *found], [expected, *truth], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("activation", [SiLU, Hardswish])
def test_an_activation_is_in_place_only_without_gradient(activation: type[nn.Module]) -> None:
    x = torch.randn(8, 3)
    y, before = activation()(x.requires_grad_()), x.detach().clone()
    assert torch.equal(x, before)
    with torch.no_grad():
        assert activation()(x.detach()).data_ptr() == x.data_ptr()
    assert torch.equal(x, y)
