"""Latencies of several networks on one device, without those that would take long or not fit."""

import math
from typing import NamedTuple

from nas.cli import UserError, format_bytes, format_duration, format_number
from nas.costs.latency import cpu_threads, measure_latency
from nas.costs.metrics import MACS
from scaling_search.device import MARGIN, Device, free_memory
from search_spaces.builder import AnyNetwork

MOST_SECONDS = 3.0
"""For one inference; those that take longer are not measured."""
FIRST_MACS = {"cpu": 1e11, "cuda": 1e13}
"""Multiply-adds of an inference that is tried before another has shown the device's speed."""


class Reading(NamedTuple):
    """A latency, or why there is none."""

    ms: float | None
    note: str = ""


class Stopwatch:
    """Measures networks, of which cheaper ones come first: they tell how long others take."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._rate: float | None = None
        """Multiply-adds per second with one image, of the network before."""

    def measure(
        self, architecture: AnyNetwork, *, one: int, many: int, batch_size: int
    ) -> tuple[Reading, Reading]:
        """Latency of an inference of one image and of `batch_size` images.

        Args:
            architecture: The network.
            one: Bytes that the first needs.
            many: Bytes that the second needs.
            batch_size: Images of the second.
        """
        macs = max(1.0, MACS(architecture))
        if self._rate is None and macs > FIRST_MACS[self._device.kind]:
            note = (
                f"latency not measured: {format_number(macs)} multiply-adds may take long, and no "
                "smaller member shows how long"
            )
            return Reading(None, note), Reading(None)
        first = self._run(architecture, 1, one, macs / self._rate if self._rate else 0.0)
        if first.ms is None:
            return first, Reading(None)
        self._rate = 1e3 * macs / first.ms
        return first, self._run(architecture, batch_size, many, batch_size * first.ms / 1e3)

    def _run(self, architecture: AnyNetwork, batch: int, needed: int, expected: float) -> Reading:
        import torch

        images = f"{batch} image{'s' if batch > 1 else ''}"
        free = free_memory(self._device.kind)
        if free is not None and MARGIN * needed > free:
            note = f"{images}: not run, {format_bytes(needed)} needed, {format_bytes(free)} free"
            return Reading(None, note)
        if expected > MOST_SECONDS:
            note = f"{images}: not run, about {format_duration(expected)} expected"
            return Reading(None, f"{note} (at most {format_duration(MOST_SECONDS)})")
        try:
            with cpu_threads(self._device.threads):
                value = measure_latency(
                    architecture,
                    device=torch.device(self._device.kind),
                    batch_size=batch,
                    patience=MOST_SECONDS,
                )
        except UserError:
            return Reading(None, f"{images}: ran out of memory, though it was to fit")
        if math.isinf(value):
            if batch == 1:
                self._rate = MACS(architecture) / MOST_SECONDS  # larger ones are not tried then
            return Reading(None, f"{images}: took more than {MOST_SECONDS:g} s")
        return Reading(float(f"{value:.5g}"))
