"""What members need of a device: which fit, the largest batch, and what is left unmeasured."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scaling_search.stopwatch
from nas.cli import UserError
from nas.training.memory import inference_bytes, training_bytes
from scaling_search.device import MARGIN, RECIPE, Device
from scaling_search.hardware import (
    LARGEST_BATCH,
    Needs,
    largest_batch,
    member_needs,
    needs_frame,
    needs_table,
)
from scaling_search.stopwatch import Stopwatch
from search_spaces.architecture import Architecture
from tests.searching import network
from tests.test_memory import built

SMALL, LARGE = network(8), network(64)
DEVICE = Device(
    kind="cpu", name="a cpu", memory=2**30, threads=1, precision="fp32", torch=torch.__version__
)


def between(small: Architecture, large: Architecture, batch: int) -> Device:
    """A device that trains one with this batch, and not the other."""
    peaks = (training_bytes(network, batch_size=batch, recipe=RECIPE) for network in (small, large))
    return replace(DEVICE, memory=int(MARGIN * sum(peaks) / 2))


def test_the_device_at_hand() -> None:
    device = Device.at_hand("cpu", threads=3)
    assert (device.kind, device.threads, device.precision) == ("cpu", 3, "fp32")
    assert device.torch == torch.__version__
    assert device.memory is not None
    assert device.memory > 2**20
    assert device.name
    assert device.describe().startswith(f"{device.name} · 3 threads · ")
    assert Device.at_hand("cpu").threads == torch.get_num_threads()


def test_members_are_counted_in_order_and_measured_from_the_cheapest() -> None:
    seen: list[Needs] = []
    needs = member_needs([LARGE, SMALL], DEVICE, train_batch=16, on_member=seen.append)
    assert [need.name for need in needs] == [LARGE.name, SMALL.name]
    assert seen == needs[::-1]
    for architecture, need in zip([LARGE, SMALL], needs, strict=True):
        assert need.training_bytes == training_bytes(architecture, batch_size=16, recipe=RECIPE)
        assert need.inference_bytes_1 == inference_bytes(architecture, batch_size=1)
        assert need.inference_bytes_64 == inference_bytes(architecture, batch_size=64)
        assert need.fits_training is need.fits_inference is True
        assert need.latency_ms_1 is not None
        assert need.latency_ms_64 is not None
        assert 0 < need.latency_ms_1 < need.latency_ms_64
        assert need.notes == ()


def test_members_that_do_not_fit_are_marked() -> None:
    device = between(SMALL, LARGE, 256)
    small, large = member_needs([SMALL, LARGE], device, train_batch=256, measure=False)
    assert (small.fits_training, large.fits_training) == (True, False)
    assert small.largest_train_batch is not None
    assert large.largest_train_batch is not None
    assert small.largest_train_batch >= 256 > large.largest_train_batch > 0
    table = needs_table([small, large], device)
    marked = [line for line in table.splitlines() if "!" in line]
    assert [line.split()[0] for line in marked] == ["w64k3", "!"]
    assert marked[-1].startswith("! will not fit in training with 256 images (")
    assert marked[-1].endswith(" free, 10% to spare): w64k3")


def test_inference_may_not_fit_either() -> None:
    device = replace(DEVICE, memory=inference_bytes(LARGE, batch_size=64))  # without the margin
    (need,) = member_needs([LARGE], device, train_batch=2, measure=False)
    assert need.fits_inference is False
    assert "! will not fit in inference with 64 images" in needs_table([need], device)


@given(st.floats(0, 7), st.floats(3, 10), st.integers(1, 500))
def test_the_largest_batch(fixed: float, memory: float, start: int) -> None:
    """The largest power of two that fits, wherever the search starts."""

    def training(batch: int) -> int:
        return int(10**fixed) + 1000 * batch

    device = replace(DEVICE, memory=int(10**memory))
    fitting = [2**n for n in range(1, 17) if device.fits(training(2**n))]
    assert largest_batch(training, device, start) == max(fitting, default=0)


def test_of_a_real_network() -> None:
    (need,) = member_needs([LARGE], DEVICE, train_batch=2, measure=False)
    largest = need.largest_train_batch
    assert largest is not None
    assert DEVICE.fits(training_bytes(LARGE, batch_size=largest, recipe=RECIPE))
    assert not DEVICE.fits(training_bytes(LARGE, batch_size=2 * largest, recipe=RECIPE))


def test_unknown_memory_marks_nothing() -> None:
    device = replace(DEVICE, memory=None)
    (need,) = member_needs([LARGE], device, measure=False)
    assert need.fits_training is need.fits_inference is need.largest_train_batch is None
    assert "free memory unknown" in needs_table([need], device)
    assert "!" not in needs_table([need], device)


def test_lower_precision_counts_as_such() -> None:
    low = replace(DEVICE, precision="bf16")
    fp32, bf16 = (member_needs([LARGE], d, measure=False)[0] for d in (DEVICE, low))
    assert fp32.training_bytes is not None
    assert bf16.training_bytes is not None
    assert bf16.training_bytes < fp32.training_bytes
    assert bf16.inference_bytes_64 == fp32.inference_bytes_64


def test_a_module_that_cannot_be_counted_is_not_run() -> None:
    (need,) = member_needs([built("value_dependent")], DEVICE)
    assert need.training_bytes is need.latency_ms_1 is need.fits_training is None
    assert need.notes[0].endswith("It was not run.")
    assert "note    value_dependent: The memory" in needs_table([need], DEVICE)


def test_a_users_module() -> None:
    (need,) = member_needs([built("users")], DEVICE, train_batch=4)
    assert need.latency_ms_64 is not None
    assert need.fits_training


def test_a_batch_of_one() -> None:
    with pytest.raises(UserError, match="at least 2 images a step; got 1"):
        member_needs([SMALL], DEVICE, train_batch=1)


def test_columns() -> None:
    needs = member_needs([SMALL, LARGE], between(SMALL, LARGE, 8), train_batch=8, measure=False)
    frame = needs_frame(needs, DEVICE)
    assert list(frame.columns) == [
        *("train_batch", "training_bytes", "inference_bytes_1", "inference_bytes_64"),
        *("latency_ms_1", "latency_ms_64", "fits_training", "fits_inference"),
        *("largest_train_batch", "notes"),
        *("device", "device_bytes", "threads", "precision", "torch"),
    ]
    assert list(frame["fits_training"]) == [True, False]
    assert list(frame["device"]) == ["a cpu"] * 2
    assert list(frame["latency_ms_1"].isna()) == [True, True]
    assert pd.api.types.is_integer_dtype(frame["training_bytes"])
    assert str(needs[0].training_bytes) in frame.to_csv()
    assert list(needs_frame([], DEVICE).columns) == list(frame.columns)


@pytest.mark.parametrize("field", ["latency_ms_1", "latency_ms_64"])
def test_impossible_latencies_are_noticed(field: str) -> None:
    """As beside another training (B0 139 ms, B1 21.6 ms)."""
    small, large = member_needs([SMALL, LARGE], DEVICE, measure=False)
    for first, second, noticed in ((139, 21.6, True), (30, 21.6, False), (None, 21.6, False)):
        needs = [replace(small, **{field: first}), replace(large, **{field: second})]
        words = f"{LARGE.name} took 21.6 ms and the smaller {SMALL.name} 139 ms: other work was"
        assert (words in needs_table(needs, DEVICE)) is noticed
        assert "other work" not in needs_table(needs[::-1], DEVICE)


def test_the_table() -> None:
    common: dict[str, Any] = {"train_batch": 128, "fits_inference": True}
    needs = [
        Needs(
            name="B0",
            training_bytes=11440625392,
            inference_bytes_1=34118304,
            inference_bytes_64=840196248,
            latency_ms_1=23.007,
            latency_ms_64=3038.4,
            fits_training=True,
            largest_train_batch=LARGEST_BATCH,
            **common,
        ),
        Needs(
            name="B7",
            training_bytes=494590574464,
            inference_bytes_1=444837568,
            inference_bytes_64=11671438072,
            latency_ms_1=1287.1,
            latency_ms_64=None,
            fits_training=False,
            largest_train_batch=0,
            notes=("64 images: took more than 3 s",),
            **common,
        ),
    ]
    device = replace(DEVICE, memory=24 * 2**30, torch="2.15")
    assert needs_table(needs, device) == (
        "device  a cpu · 1 thread · 24.0 GiB free · torch 2.15\n"
        "        memory: tensors at the peak, training in fp32 with SGD and the moving average, "
        "inference in fp32\n"
        "        latency: fp32, median\n"
        "\n"
        "name      train b128    infer b1    infer b64    ms b1    ms b64    largest batch\n"
        "------  ------------  ----------  -----------  -------  --------  ---------------\n"
        "B0          10.7 GiB    32.5 MiB      801 MiB       23     3,038          65,536+\n"
        "B7         461 GiB !     424 MiB     10.9 GiB    1,287         -             none\n"
        "\n"
        "! will not fit in training with 128 images (24.0 GiB free, 10% to spare): B7\n"
        "note    B7: 64 images: took more than 3 s"
    )
    assert needs_table([], device).startswith("device  a cpu")


class TestStopwatch:
    """What it leaves out, and why."""

    def test_what_does_not_fit_is_not_run(self) -> None:
        one, many = Stopwatch(DEVICE).measure(SMALL, one=1, many=2**60, batch_size=64)
        assert one.ms is not None
        assert many.ms is None
        assert many.note.startswith("64 images: not run, 1,073,741,824 GiB needed, ")

    def test_a_first_network_that_may_take_long(self) -> None:
        vast = replace(LARGE, resolution=10**5)
        readings = Stopwatch(DEVICE).measure(vast, one=1, many=1, batch_size=64)
        assert [reading.ms for reading in readings] == [None, None]
        assert "multiply-adds may take long, and no smaller member" in readings[0].note

    def test_what_is_expected_to_take_long(self) -> None:
        stopwatch = Stopwatch(DEVICE)
        one, many = stopwatch.measure(SMALL, one=1, many=1, batch_size=10**9)
        assert one.ms is not None
        assert many.note.startswith("1000000000 images: not run, about ")
        one, many = stopwatch.measure(replace(SMALL, resolution=10**6), one=1, many=1, batch_size=2)
        assert (one.ms, many.ms) == (None, None)
        assert one.note.startswith("1 image: not run, about ")

    def test_what_takes_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And then nothing larger is tried."""
        monkeypatch.setattr(scaling_search.stopwatch, "MOST_SECONDS", 1e-9)
        stopwatch = Stopwatch(DEVICE)
        assert stopwatch.measure(SMALL, one=1, many=1, batch_size=2) == (
            (None, "1 image: took more than 1e-09 s"),
            (None, ""),
        )
        one, _ = stopwatch.measure(LARGE, one=1, many=1, batch_size=2)
        assert one.note.startswith("1 image: not run, about ")

    def test_torch_is_left_as_it_was(self) -> None:
        threads, state = torch.get_num_threads(), torch.random.get_rng_state()
        device = replace(DEVICE, threads=threads + 1)
        Stopwatch(device).measure(SMALL, one=1, many=1, batch_size=2)
        assert torch.get_num_threads() == threads
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    device = Device.at_hand("cuda")
    assert device.precision in ("bf16", "fp16")
    (need,) = member_needs([network(512)], device, train_batch=64)
    assert need.latency_ms_1 is not None
    assert math.isfinite(need.latency_ms_1)
