"""Peak memory of a training step and of an inference, counted without computing anything.

The network is built on torch's meta device, whose tensors have shapes but no data. One step of
`Trainer`, or one inference, runs on it while the bytes of all storages alive are added up (the idea
of `torch.distributed._tools.mem_tracker`). This counts tensors: parameters, gradients, optimizer
state, moving average, the images, what backward needs, and operations' results. It cannot see what
kernels take for themselves (workspaces of cuDNN and oneDNN, copies in another layout), the
allocator's rounding and fragmentation, the CUDA context (some hundred MB), and Python.

Against the tensors of the real `Trainer` it is exact to the byte. Of all that `torch.profiler` sees
allocated on a CPU it misses 0 to 0.3 % in training where activations dominate (B0, MobileNetV2 and
ResNet-50 at 128 to 224 px), up to 14 % with 8 images of 64 px, where the buffers of oneDNN and
im2col show, and up to 7 % in inference.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.cli import UserError
from nas.training.parts import build_network
from nas.training.recipe import Recipe
from search_spaces.builder import AnyNetwork

_META = torch.device("meta")
_FULL = Recipe.full(1)
_LOWERED = frozenset(
    (
        *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.linear),
        *(torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm),
        *(Tensor.__matmul__, F.scaled_dot_product_attention),
    )
)
"""Calls that autocast makes in the lower precision."""


def training_bytes(
    architecture: AnyNetwork,
    *,
    batch_size: int,
    recipe: Recipe = _FULL,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Peak bytes of a training step of `Trainer`, once optimizer and average have their state.

    Args:
        architecture: The network.
        batch_size: Images of the step, at least 2.
        recipe: Names the optimizer, and whether there is a moving average; the rest of it, its
            batch size too, does not count.
        dtype: What autocast computes in (`nas.training.parts.autocast_dtype`); float32: none.

    Raises:
        UserError: The network does not run without data.
    """
    assert batch_size >= 2, batch_size
    network = _on_meta(architecture).train()
    memory = _LiveBytes()
    memory.add([*network.parameters(), *network.buffers()])
    with memory:
        held = _state(network, recipe)
        for parameter in _trainable(network):
            parameter.grad = torch.empty_like(parameter)  # of the step before
        images, labels = _images(architecture, batch_size)
        pixels = torch.empty_like(images, dtype=torch.float32)  # as `normalise` makes them
        with _Autocast(dtype):
            logits = _run(network, pixels, architecture)
        del pixels
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        for parameter in network.parameters():
            parameter.grad = None
        loss.backward()
    del held
    return memory.peak


def inference_bytes(architecture: AnyNetwork, *, batch_size: int) -> int:
    """Peak bytes of an inference in eval mode, without gradients, float32.

    Args:
        architecture: The network.
        batch_size: Images of the inference.

    Raises:
        UserError: The network does not run without data.
    """
    assert batch_size >= 1, batch_size
    network = _on_meta(architecture).eval()
    memory = _LiveBytes()
    memory.add([*network.parameters(), *network.buffers()])
    with memory, torch.no_grad():
        images, _ = _images(architecture, batch_size)
        _run(network, torch.empty_like(images, dtype=torch.float32), architecture)
    return memory.peak


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages alive, and the most there were; views share their storage's."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def add(self, results: Any) -> None:
        """Count the storages of all tensors in `results` that are not counted yet."""
        for tensor in tree_leaves(results):
            if not isinstance(tensor, Tensor):
                continue
            # Its Python object lives as long as the storage itself, whoever holds that.
            storage = tensor.untyped_storage()
            if id(storage) not in self._sizes:
                self._sizes[id(storage)] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, id(storage))
        self.peak = max(self.peak, self.live)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        self.add(results)
        return results


class _Autocast(TorchFunctionMode):
    """Autocast for meta tensors, which have none: convolutions and matrix products in `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._dtype != torch.float32 and func in _LOWERED:
            args = tuple(map(self._cast, args))
            kwargs = {name: self._cast(value) for name, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        self._weights.clear()
        super().__exit__(*error)

    def _cast(self, tensor: Any) -> Any:
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            return tensor
        if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad):
            return tensor.to(self._dtype)
        if id(tensor) not in self._weights:  # once, as autocast does
            self._weights[id(tensor)] = tensor.to(self._dtype)
        return self._weights[id(tensor)]


def _on_meta(architecture: AnyNetwork) -> nn.Module:
    """The network without data; a user's module that asks for values is built on the CPU first."""
    try:
        with _META:
            return build_network(architecture, seed=0).to(_META)
    except Exception:  # whatever the user's code raises
        return build_network(architecture, seed=0).to(_META)


def _images(architecture: AnyNetwork, batch_size: int) -> tuple[Tensor, Tensor]:
    """uint8 images, as batches have them, and labels."""
    shape = (batch_size, architecture.in_channels, architecture.resolution, architecture.resolution)
    images = torch.empty(shape, dtype=torch.uint8, device=_META)
    return images, torch.empty(batch_size, dtype=torch.int64, device=_META)


def _state(network: nn.Module, recipe: Recipe) -> list[Tensor]:
    """What a fused optimizer (torch's refuse meta tensors) and the moving average keep."""
    parameters = _trainable(network)
    state: list[Tensor] = []
    if recipe.optimizer == "adamw":
        state += map(torch.empty_like, parameters * 2)
        state += [torch.empty((), device=_META) for _ in parameters]  # steps, for each its own
    elif recipe.momentum > 0:
        state += map(torch.empty_like, parameters)
    if recipe.ema_decay != 0:
        state += map(torch.empty_like, [*network.parameters(), *network.buffers()])
        state.append(torch.empty((), dtype=torch.int64, device=_META))  # updates so far
    return state


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _run(network: nn.Module, images: Tensor, architecture: AnyNetwork) -> Tensor:
    try:
        with _META:  # for tensors that a user's `forward` makes
            return network(images)
    except Exception as error:  # of torch, or of what is between: numpy raises TypeError
        raise UserError(
            f"The memory of {architecture.name!r} cannot be counted: its forward pass fails on "
            f"torch's meta device, whose tensors have no data ({error}). Let it not ask for "
            "values, as Tensor.item does."
        ) from error
