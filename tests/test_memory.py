"""Counted memory: equal to what the real training holds, and near to what the profiler sees."""

import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from nas.cli import UserError, format_bytes
from nas.costs.memory import Memory
from nas.data.dataset import Split
from nas.training.memory import _LiveBytes, inference_bytes, training_bytes
from nas.training.parts import build_network
from nas.training.recipe import Recipe
from nas.training.trainer import Trainer
from search_spaces.builder import AnyNetwork, BuiltNetwork
from search_spaces.cost import count
from search_spaces.zoo import load_architecture
from tests.models import EVERY_OP
from tests.searching import network

MOBILE = replace(load_architecture("mobilenet-v1"), resolution=64, num_classes=10)
SGD = Recipe(epochs=3, batch_size=8, min_steps=1, ema_decay=0.9, precision="fp32")


class Users(nn.Module):
    """Asks for values while it is built, makes a tensor as it runs, and has a frozen layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rates = torch.linspace(0, 1, 3).tolist()
        self.conv = nn.Conv2d(3, width, 3)
        self.frozen = nn.Conv2d(width, width, 3).requires_grad_(False)
        self.last = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.frozen(self.conv(images).relu()) + torch.ones(1)
        return self.last(features.flatten(2).mean(2))


class ValueDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3)) * images.sum().item()


class ThroughNumpy(ValueDependent):
    """Numpy refuses meta tensors by a TypeError, where torch raises a RuntimeError."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = torch.linspace(0, 1, 3).numpy()

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3)) * float(images.numpy().sum())


def users(*, depth: float, width: float, resolution: int) -> nn.Module:
    return Users(round(8 * width))


def value_dependent(*, depth: float, width: float, resolution: int) -> nn.Module:
    return ValueDependent()


def through_numpy(*, depth: float, width: float, resolution: int) -> nn.Module:
    return ThroughNumpy()


def built(function: str, resolution: int = 16) -> BuiltNetwork:
    reference = f"tests.test_memory:{function}"
    return BuiltNetwork(name=function, reference=reference, resolution=resolution)


def train(architecture: AnyNetwork, recipe: Recipe) -> None:
    """Two real steps, so that the second has the state of a long training."""
    shape = (recipe.batch_size, 3, architecture.resolution, architecture.resolution)
    labels = np.arange(recipe.batch_size) % 5
    split = Split(images=np.zeros(shape, np.uint8), labels=labels)
    trainer = Trainer(
        build_network(architecture, 0), split, recipe, seed=0, device=torch.device("cpu")
    )
    trainer.run_until(2)


def allocated(run: Callable[[], object], folder: Path) -> int:
    """The most bytes that the profiler sees allocated at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    file = folder / "trace.json"
    profiler.export_chrome_trace(str(file))
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e["name"] == "[memory]"]
    changes = [e["args"]["Bytes"] for e in sorted(events, key=lambda event: event["ts"])]
    return max(np.cumsum(changes))


def test_storages_are_counted_while_they_live() -> None:
    with _LiveBytes() as memory:
        first = torch.empty(100)
        second = first.view(10, 10)[2:]
        assert memory.live == 400  # views share
        del first
        assert memory.live == 400
        third = second.contiguous().clone()
        assert memory.live == 400 + 320
        del second
        assert memory.live == 320
        third.add_(1)
        assert (memory.live, memory.peak) == (320, 720)
    del third
    assert memory.live == 0


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0}, {"optimizer": "adamw"}], ids=str)
def test_it_counts_what_the_real_training_holds(
    changes: dict[str, object], ema_decay: float
) -> None:
    recipe = replace(SGD, ema_decay=ema_decay, augment="none", **changes)
    gc.collect()
    with _LiveBytes() as real:
        train(EVERY_OP, recipe)
    assert training_bytes(EVERY_OP, batch_size=8, recipe=recipe) == real.peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", [EVERY_OP, built("users")], ids=["ops", "users"])
def test_also_with_autocast_and_for_a_users_module(
    architecture: AnyNetwork, precision: str
) -> None:
    recipe = replace(SGD, precision=precision)
    gc.collect()
    with _LiveBytes() as real:
        train(architecture, recipe)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    peak = training_bytes(architecture, batch_size=8, recipe=recipe, dtype=dtype)
    assert peak == real.peak


def test_the_profiler_sees_the_same(tmp_path: Path) -> None:
    """Kernels take a little for themselves, the less the larger the images."""
    architecture = replace(load_architecture("mobilenet-v2"), resolution=128, num_classes=10)
    recipe = replace(SGD, batch_size=8)
    real = allocated(lambda: train(architecture, recipe), tmp_path)
    counted = training_bytes(architecture, batch_size=8, recipe=recipe)
    assert 0.97 * real < counted < 1.005 * real

    def infer() -> None:
        module = build_network(architecture, 0).eval()
        with torch.no_grad():
            module(torch.zeros(16, 3, 128, 128))

    assert inference_bytes(architecture, batch_size=16) == pytest.approx(
        allocated(infer, tmp_path), rel=0.1
    )


def test_it_grows_in_proportion_to_the_batch() -> None:
    one, two, five = (inference_bytes(MOBILE, batch_size=batch) for batch in (1, 2, 5))
    assert five - two == 3 * (two - one)
    assert one > 4 * count(MOBILE).params
    few, more, many = (training_bytes(MOBILE, batch_size=batch) for batch in (16, 32, 64))
    assert (many - more) / 32 == pytest.approx((more - few) / 16, rel=0.01)
    assert few > 4 * 4 * count(MOBILE).params  # weights, gradients, momentum and average


def test_lower_precision_takes_less() -> None:
    full = training_bytes(MOBILE, batch_size=64)
    low = training_bytes(MOBILE, batch_size=64, dtype=torch.bfloat16)
    assert full / 2 < low < 0.75 * full


def test_a_huge_network_costs_no_memory() -> None:
    huge = replace(EVERY_OP, resolution=32_000)
    assert training_bytes(huge, batch_size=4096) > 5e14


@pytest.mark.parametrize("name", ["value_dependent", "through_numpy"])
def test_a_forward_that_asks_for_values_is_told(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' cannot be counted: .* as Tensor\.item"):
        training_bytes(built(name), batch_size=2)


def test_the_generator_is_left_as_it_was() -> None:
    state = torch.random.get_rng_state()
    training_bytes(EVERY_OP, batch_size=2)
    inference_bytes(built("users"), batch_size=2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_as_a_metric() -> None:
    metric = Memory(batch_size=16)
    assert (metric.name, metric.unit) == ("memory", "bytes")
    assert metric(network(8)) == training_bytes(network(8), batch_size=16)
    assert metric(network(8)) == metric(replace(network(8), name="the same"))
    assert metric(network(8)) < metric(network(16)) < Memory(batch_size=32)(network(16))
    assert metric.conditions == {"batch_size": 16, "torch": torch.__version__}
    assert metric.describe() == (
        "bytes at the peak of a training step (batch 16, float32; tensors only)"
    )
    assert metric.format(3.3 * 2**30) == "3.30 GiB"
    assert metric(built("users")) > 0


def test_a_batch_of_one_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="needs two images; got a batch of 1"):
        Memory(batch_size=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1536, "1.50 KiB"),
        (80e6, "76.3 MiB"),
        (840e6, "801 MiB"),
        (1050e6, "0.98 GiB"),
        (494590574464, "461 GiB"),
        (math.ldexp(5000, 30), "5,000 GiB"),
    ],
)
def test_bytes_read_well(value: float, text: str) -> None:
    assert format_bytes(value) == text


def test_the_metric_loads_no_torch() -> None:
    code = (
        "import sys, nas.costs.memory, scaling_search.hardware\n"
        "nas.costs.memory.Memory(batch_size=2)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
