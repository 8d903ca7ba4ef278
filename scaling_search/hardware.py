"""What the members of a family need on the device at hand: memory, time, and which will not fit.

Memory is counted without running anything (`nas.training.memory`); latency is measured
(`nas.costs.latency`). Nothing is run that does not fit, or that is expected to take long.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import pandas as pd
from tabulate import tabulate

from nas.cli import UserError, format_bytes
from nas.costs.metrics import MACS
from scaling_search.device import MARGIN, RECIPE, Device
from scaling_search.stopwatch import Reading, Stopwatch
from search_spaces.builder import AnyNetwork

BATCH = 64
"""Images of the larger inference."""
LARGEST_BATCH = 2**16
"""No larger batches are looked for."""
_DISORDER = 1.5
"""How much longer than a larger network one takes that was measured beside other work."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one network needs; memory in bytes."""

    name: str
    """The network's."""
    train_batch: int
    """Images of a training step."""
    training_bytes: int | None
    """Peak of a training step with `train_batch` images in the device's precision, by
    `Recipe.full`. None: it cannot be counted, see `notes`."""
    inference_bytes_1: int | None
    """Peak of an inference of one image, float32."""
    inference_bytes_64: int | None
    """Of 64."""
    latency_ms_1: float | None
    """Measured milliseconds of an inference of one image, float32. None: see `notes`."""
    latency_ms_64: float | None
    """Of 64."""
    fits_training: bool | None
    """Whether the device has the memory for training. None: not known."""
    fits_inference: bool | None
    """Whether it has it for an inference of 64 images."""
    largest_train_batch: int | None
    """The largest power of two, up to `LARGEST_BATCH`, that fits in training; 0: not even 2."""
    notes: tuple[str, ...] = ()
    """Why values are missing."""


def member_needs(
    architectures: Sequence[AnyNetwork],
    device: Device,
    *,
    train_batch: int = 128,
    measure: bool = True,
    on_member: Callable[[Needs], None] | None = None,
) -> list[Needs]:
    """What each network needs, in the order given; the cheapest is measured first.

    Args:
        architectures: The family's members (or networks of a user's builder).
        device: From `Device.at_hand`.
        train_batch: Images of a training step.
        measure: Whether latency is measured; memory is counted in any case.
        on_member: Called with each result when it is there, for progress.

    Raises:
        UserError: `train_batch` is below 2.
    """
    if train_batch < 2:
        raise UserError(f"Batch norm needs at least 2 images a step; got {train_batch}.")
    stopwatch = Stopwatch(device) if measure else None
    order = sorted(range(len(architectures)), key=lambda i: MACS(architectures[i]))
    results: dict[int, Needs] = {}
    for i in order:
        results[i] = _needs(architectures[i], device, train_batch, stopwatch)
        if on_member is not None:
            on_member(results[i])
    return [results[i] for i in range(len(architectures))]


def _needs(
    architecture: AnyNetwork, device: Device, train_batch: int, stopwatch: Stopwatch | None
) -> Needs:
    import torch

    from nas.training.memory import inference_bytes, training_bytes

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[device.precision]

    @functools.cache
    def training(batch: int) -> int:
        return training_bytes(architecture, batch_size=batch, recipe=RECIPE, dtype=dtype)

    first = second = Reading(None)
    try:
        peak, largest = training(train_batch), largest_batch(training, device, train_batch)
        one = inference_bytes(architecture, batch_size=1)
        many = inference_bytes(architecture, batch_size=BATCH)
    except UserError as error:
        peak = largest = one = many = None
        first = Reading(None, f"{error} It was not run.")
    else:
        if stopwatch is not None:
            first, second = stopwatch.measure(architecture, one=one, many=many, batch_size=BATCH)
    return Needs(
        name=architecture.name,
        train_batch=train_batch,
        training_bytes=peak,
        inference_bytes_1=one,
        inference_bytes_64=many,
        latency_ms_1=first.ms,
        latency_ms_64=second.ms,
        fits_training=None if peak is None else device.fits(peak),
        fits_inference=None if many is None else device.fits(many),
        largest_train_batch=largest,
        notes=tuple(reading.note for reading in (first, second) if reading.note),
    )


def largest_batch(training: Callable[[int], int], device: Device, start: int) -> int | None:
    """The largest power of two, up to `LARGEST_BATCH`, that fits; 0: not even 2; None: not known.

    Args:
        training: Batch size -> peak bytes; grows almost in proportion, which gives a first guess.
        device: Whose memory it must fit.
        start: A batch size to guess from.
    """
    if device.memory is None:
        return None
    guess = start * device.memory / (MARGIN * training(start))
    batch = 2 ** int(math.log2(min(max(guess, 2), LARGEST_BATCH)))
    while batch < LARGEST_BATCH and device.fits(training(2 * batch)):
        batch *= 2
    while batch > 1 and not device.fits(training(batch)):
        batch //= 2
    return batch if batch > 1 else 0


def needs_frame(needs: Sequence[Needs], device: Device) -> pd.DataFrame:
    """Columns for family.csv, one row a member in the order of `needs`.

    Returns:
        The fields of `Needs` but for the name, then device, device_bytes (free), threads,
        precision (of training) and torch.
    """
    names = [field.name for field in fields(Needs) if field.name != "name"]
    rows = [{name: getattr(need, name) for name in names} for need in needs]
    frame = pd.DataFrame(rows, columns=pd.Index(names))
    for name in names:
        if name == "notes":
            frame[name] = [" ".join(need.notes) for need in needs]
        elif name.startswith("latency"):
            frame[name] = frame[name].astype("Float64")
        else:
            frame[name] = frame[name].astype("boolean" if name.startswith("fits") else "Int64")
    return frame.assign(
        device=device.name,
        device_bytes=device.memory,
        threads=device.threads,
        precision=device.precision,
        torch=device.torch,
    )


def needs_table(needs: Sequence[Needs], device: Device) -> str:
    """For the terminal: the device, a row a member, what does not fit, and why values miss."""
    if not needs:
        return f"device  {device.describe()}"
    batch = needs[0].train_batch
    rows = [
        {
            "name": need.name,
            f"train b{batch}": _shown(need.training_bytes, need.fits_training),
            "infer b1": _shown(need.inference_bytes_1),
            f"infer b{BATCH}": _shown(need.inference_bytes_64, need.fits_inference),
            "ms b1": _milliseconds(need.latency_ms_1),
            f"ms b{BATCH}": _milliseconds(need.latency_ms_64),
            "largest batch": _batch(need.largest_train_batch),
        }
        for need in needs
    ]
    align = ("left", *["right"] * (len(rows[0]) - 1))
    table = tabulate(rows, headers="keys", colalign=align, disable_numparse=True)
    lines = [
        f"device  {device.describe()}",
        f"        memory: tensors at the peak, training in {device.precision} with SGD and the "
        "moving average, inference in fp32",
        "        latency: fp32, median",
        f"\n{table}\n",
        *_marks(needs, device),
        *(f"note    {need.name}: {note}" for need in needs for note in need.notes),
        *_disorder(needs),
    ]
    return "\n".join(lines).rstrip()


def _marks(needs: Sequence[Needs], device: Device) -> Iterator[str]:
    if device.memory is None:
        return
    room = f"({format_bytes(device.memory)} free, {MARGIN - 1:.0%} to spare)"
    training = [need.name for need in needs if need.fits_training is False]
    inference = [need.name for need in needs if need.fits_inference is False]
    if training:
        batch = needs[0].train_batch
        yield f"! will not fit in training with {batch} images {room}: {', '.join(training)}"
    if inference:
        yield f"! will not fit in inference with {BATCH} images {room}: {', '.join(inference)}"


def _disorder(needs: Sequence[Needs]) -> Iterator[str]:
    """What is to be said where a network took clearly less time than a smaller one."""
    for small, large in itertools.pairwise(needs):
        if (small.inference_bytes_1 or 0) >= (large.inference_bytes_1 or 0):
            continue
        both = (small.latency_ms_1, large.latency_ms_1), (small.latency_ms_64, large.latency_ms_64)
        for less, more in both:
            if less is not None and more is not None and less > _DISORDER * more:
                yield (
                    f"note    {large.name} took {_milliseconds(more)} ms and the smaller "
                    f"{small.name} {_milliseconds(less)} ms: other work was in the way, so do not "
                    "rely on these latencies. The same command measures them again"
                )
                return


def _shown(count: int | None, fits: bool | None = None) -> str:
    return "-" if count is None else format_bytes(count) + (" !" if fits is False else "")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _batch(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}{'+' if value == LARGEST_BATCH else ''}" if value else "none"
