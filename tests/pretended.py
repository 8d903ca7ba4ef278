"""A GPU that is not there: its tensors have a device and shapes, but no data.

Mixing devices raises as on a real one, asking for a value raises too, and so does a copy to it that
would wait. Where PyTorch needs a driver even so, it is answered for; the backward pass cannot be
had, and gradients appear without it.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from nas.training import augment, parts
from nas.training.augment import per_image
from search_spaces.network import module_of

GPU = torch.device("cuda")
FREE = 10**9
"""Bytes that are free on it."""


class WaitsError(AssertionError):
    """Something waited for the GPU."""


class _Mode(fake_tensor.FakeTensorMode):
    avoid_device_init = True  # pyright: ignore


class _NoWaiting(TorchDispatchMode):
    """Copies from the CPU to the GPU must not block; in pinned memory, they do not."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        ops = torch.ops.aten
        if func in (ops._to_copy.default, ops.copy_.default):
            source = args[1] if func is ops.copy_.default else args[0]
            blocks = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            if blocks and source.device.type == "cpu" and result.device.type == "cuda":
                raise WaitsError(f"a copy of {tuple(source.shape)} to the GPU")
        return result


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU, while it lasts."""
    load = DataLoader.__iter__
    for owner, name, answer in (
        # What is done on the CPU is really done.
        (DataLoader, "__iter__", really(lambda loader: iter([*load(loader)]))),
        (augment, "per_image", really(per_image)),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "is_bf16_supported", lambda **_: True),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "mem_get_info", lambda *_: (FREE, FREE)),
        (torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()),
        (torch.cuda, "set_rng_state", lambda *_: None),
        (torch.cuda, "empty_cache", lambda: None),
        (torch.cuda, "synchronize", lambda *_: None),
        (fake_tensor, "init_gpu_context", lambda *_: None),
        (parts, "module_of", really(module_of)),
        (Tensor, "pin_memory", lambda tensor: tensor),
        (Tensor, "backward", _backward),
        (Tensor, "__int__", _int),
        (torch, "_fused_sgd_", _fused),
        (torch, "_fused_adamw_", _fused),
    ):
        monkeypatch.setattr(owner, name, answer)
    with _Mode(allow_non_fake_inputs=True):
        yield GPU


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises `WaitsError` where a copy would wait for the GPU."""
    with _NoWaiting():
        yield


def really(function: Callable[..., Any]) -> Callable[..., Any]:
    """With real tensors, of the CPU."""

    def run(*args: Any, **options: Any) -> Any:
        with fake_tensor.unset_fake_temporarily():
            return function(*args, **options)

    return run


def _int(tensor: Tensor) -> int:
    """The CPU has values; which one does not matter here."""
    return 1 if tensor.device.type == "cpu" else int(tensor.item())


def _fused(*lists: list[Tensor], **numbers: Any) -> None:
    """What the kernels ask for: all on the GPU, and laid out alike."""
    scalars = [number for number in numbers.values() if isinstance(number, Tensor)]
    tensors = [*itertools.chain(*lists), *scalars]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    whole = [some for some in lists if some and some[0].ndim == lists[0][0].ndim]
    for alike in zip(*whole, strict=True):
        strides = {
            tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1) for t in alike
        }
        assert len(strides) == 1, strides


def _backward(loss: Tensor) -> None:
    """Every weight that the loss comes from gets a gradient."""
    assert loss.device.type == "cuda"
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), nn.Parameter):
            leaf.grad = torch.empty_like(leaf)
        todo += [before for before, _ in node.next_functions]
