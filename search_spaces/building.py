"""Calls a user's builder: its module, and what the module says of the network.

Costs come from running the module once on torch's meta device, where tensors have shapes and no
content; a module that wants content (`Tensor.item`, say) is run on the CPU instead.
"""

import hashlib
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from search_spaces.builder import BuilderError, BuiltNetwork
from search_spaces.cost import Cost
from search_spaces.references import UnresolvedError, load_object

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a built module says of its network."""

    cost: Cost
    num_classes: int
    digest: str


class BuiltModule(nn.Module):
    """A builder's module, with the network that it is.

    Weights are saved and loaded under the names of `module`, the user's own.
    """

    def __init__(self, architecture: BuiltNetwork) -> None:
        """Build it; initial weights come from torch's global generator.

        Raises:
            BuilderError: The builder cannot be had, or fails.
        """
        super().__init__()
        self.architecture = architecture
        self.module = build(architecture)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, resolution, resolution)`` to logits ``(N, num_classes)``."""
        return self.module(images)


def build(network: BuiltNetwork) -> nn.Module:
    """What the builder returns.

    Raises:
        BuilderError: It cannot be imported or called, raises, or returns no usable module.
    """
    builder = _load(network.reference)
    try:
        module = builder(depth=network.depth, width=network.width, resolution=network.resolution)
    except Exception as error:
        raise BuilderError(f"{network.call} raised {type(error).__name__}: {error}.") from error
    if not isinstance(module, nn.Module):
        raise BuilderError(
            f"A builder returns a torch.nn.Module, but {network.call} returned "
            f"{type(module).__name__}."
        )
    if lazy := [name for name, parameter in module.named_parameters() if is_lazy(parameter)]:
        raise BuilderError(
            f"{network.call} has parameters without a shape ({', '.join(lazy[:3])}). Give its "
            "layers their input channels instead of lazy ones."
        )
    return module


@lru_cache(maxsize=2**14)
def facts_of(reference: str, depth: float, width: float, resolution: int) -> Facts:
    """Cost, classes and digest of the module that these arguments make; remembered.

    Raises:
        BuilderError: The builder, or its module on one image, breaks a rule.
    """
    network = BuiltNetwork(
        name=reference, reference=reference, depth=depth, width=width, resolution=resolution
    )
    _load(reference)
    try:
        return _measure(network, "meta")
    except Exception:
        return _measure(network, "cpu")


def check_training(network: BuiltNetwork) -> None:
    """Run the module once as training does, with dropout and batch statistics.

    Raises:
        BuilderError: It fails, or puts out anything but the logits of evaluation.
    """
    with torch.random.fork_rng(devices=[]):
        module = build(network).train()
        classes = _logits(network, module, num_images=2).shape[1]
    if classes != network.num_classes:
        raise BuilderError(
            f"The module of {network.call} puts out {classes} logits in training, but "
            f"{network.num_classes} after. Return the same in both."
        )


def _measure(network: BuiltNetwork, device: str) -> Facts:
    outputs: list[int] = []
    mapping: dict[Any, Any] = {torch.ops.aten.convolution: _counting_outputs(outputs)}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        module = build(network).eval()
        with counter:
            logits = _logits(network, module, num_images=1)
    cost = Cost(
        params=sum(p.numel() for p in module.parameters() if p.requires_grad),
        macs=counter.get_total_flops() // 2,
        activations=sum(outputs),
    )
    return Facts(cost=cost, num_classes=logits.shape[1], digest=_digest(network, module))


@torch.no_grad()
def _logits(network: BuiltNetwork, module: nn.Module, num_images: int) -> Tensor:
    """Logits ``(num_images, classes)`` of empty images."""
    shape = (num_images, network.in_channels, network.resolution, network.resolution)
    try:
        logits = module(torch.zeros(shape))
    except Exception as error:
        raise BuilderError(
            f"The module of {network.call} cannot compute images {shape}: "
            f"{type(error).__name__}: {error}."
        ) from error
    if not (isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == num_images):
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BuilderError(
            f"The module of {network.call} must map images {shape} to logits "
            f"({num_images}, classes), in training too, but gave {what}."
        )
    return logits


def _counting_outputs(outputs: list[int]) -> Callable[..., int]:
    """torch's count of a convolution, noting the elements that it puts out."""

    def count(
        images: Any, kernel: Any, *args: Any, out_shape: Any, transposed: bool = False, **_: Any
    ) -> int:
        outputs.append(math.prod(out_shape))
        # bias, stride, padding, dilation, transposed: the operator's order
        transposed = args[4] if len(args) > 4 else transposed
        return conv_flop_count(images, kernel, out_shape, transposed=transposed)

    return count


def _digest(network: BuiltNetwork, module: nn.Module) -> str:
    tensors = chain(module.named_parameters(), module.named_buffers())
    lines = [
        network.reference,
        str(network.resolution),
        _ADDRESS.sub("", repr(module)),
        *(f"{name} {tuple(tensor.shape)} {tensor.requires_grad}" for name, tensor in tensors),
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _load(reference: str) -> Callable[..., Any]:
    try:
        builder = load_object(reference, "builder")
    except UnresolvedError as error:
        raise BuilderError(str(error)) from error
    if not callable(builder):
        raise BuilderError(f"The builder {reference} is {builder!r}, which is no function.")
    try:
        inspect.signature(builder).bind(depth=1.0, width=1.0, resolution=1)
    except (TypeError, ValueError) as error:
        raise BuilderError(
            f"A builder is called as f(depth=..., width=..., resolution=...), which {reference} "
            f"does not take: {error}."
        ) from error
    return builder
