"""Splits read into memory, and what was found on the way: problems, fingerprint, notices."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nas.data.images import DataError, Reading
from nas.data.sources import Images

_NAMED = 10  # problems that a message names; the rest it counts


def read(
    orders: Mapping[str, tuple[Images, np.ndarray]], size: int
) -> tuple[dict[str, np.ndarray], dict[str, list[Reading]]]:
    """Of each split the chosen images in their order, and a reading of every image.

    Raises:
        DataError: Too little memory, or problems, of all splits at once.
    """
    _check_memory(sum(len(order) for _, order in orders.values()), size)
    stores: dict[str, np.ndarray] = {}
    readings: dict[str, list[Reading]] = {}
    problems: list[str] = []
    for split, (images, order) in orders.items():
        stores[split] = np.empty((len(order), 3, size, size), dtype=np.uint8)
        targets = {int(position): stores[split][i] for i, position in enumerate(order)}
        readings[split] = images.read(targets)
        problems += [
            f"{images.name(i)}: {reading.problem}"
            for i, reading in enumerate(readings[split])
            if reading.problem
        ]
    if problems:
        number = f"{len(problems):,} images cannot" if len(problems) > 1 else "1 image cannot"
        raise DataError(
            f"{number} be used:\n  {some(problems, chr(10) + '  ')}\nRepair or remove them."
        )
    return stores, readings


def _check_memory(count: int, size: int) -> None:
    needed, available = count * 3 * size * size, _available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"{count:,} images of {size} px need {needed / 1e9:.1f} GB of memory; "
            f"{available / 1e9:.1f} GB are available. Choose a smaller size, or limit the images."
        )


def _available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not Linux: all of the memory is the best bound there is
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def fingerprint(
    classes: Sequence[str], parts: Mapping[str, Images], readings: Mapping[str, Sequence[Reading]]
) -> str:
    """12 hex digits of the classes and, by split, of every image's key and content."""
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for split in sorted(parts):
        digest.update(f"\n{split} {len(readings[split])}\n".encode())
        for i, reading in enumerate(readings[split]):
            digest.update(hashlib.sha256(parts[split].key(i)).digest() + reading.digest)
    return digest.hexdigest()[:12]


def notices(readings: Mapping[str, Sequence[Reading]]) -> tuple[str, ...]:
    """What the user should know but need not act on: frames left out, duplicates of train."""
    lines = []
    several = sum(reading.several_frames for part in readings.values() for reading in part)
    if several:
        lines.append(f"{several:,} files hold several frames; the first of each is used.")
    trained = {reading.digest for reading in readings["train"]}
    for split, part in readings.items():
        again = sum(reading.digest in trained for reading in part)
        if split != "train" and again:
            lines.append(
                f"{again:,} of {len(part):,} {split} images are in train too, byte for byte: "
                "accuracy on them says little."
            )
    return tuple(lines)


def some(lines: Sequence[str], separator: str) -> str:
    """The first ten lines, and how many more there are."""
    rest = len(lines) - _NAMED
    return separator.join([*lines[:_NAMED], *([f"and {rest:,} more"] if rest > 0 else [])])
