"""Splits read into memory, and what was found on the way: problems, fingerprint, notices."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from nas.cli import plural
from nas.data.images import DataError, Reading
from nas.data.sources import Images
from nas.ram import available_memory

_NAMED = 10  # problems that a message names; the rest it counts


Orders: TypeAlias = Mapping[str, tuple[Images, np.ndarray]]
"""By split, its images and the positions of the chosen ones."""
Stores: TypeAlias = dict[str, np.ndarray]
"""By split, the chosen images in their order, uint8 (N, 3, S, S)."""


def read(
    orders: Orders, size: int, *, decode_all: bool = False
) -> tuple[Stores, dict[str, list[Reading]]]:
    """Of each split the chosen images in their order, and a reading of every image.

    Args:
        orders: What is wanted.
        size: Side of the square store in px.
        decode_all: Whether the others are decoded too, so that their readings tell of all damage.

    Raises:
        DataError: Too little memory. What is wrong with an image is in its reading.
    """
    count = sum(len(order) for _, order in orders.values())
    _check_memory(count, size)
    stores = sliced(np.empty((count, 3, size, size), dtype=np.uint8), orders)
    return stores, decode(orders, stores, decode_all=decode_all)


def sliced(store: np.ndarray, orders: Orders) -> Stores:
    """Views of one store, each split's images after those of the one before."""
    ends = np.cumsum([len(order) for _, order in orders.values()])
    return dict(zip(orders, np.split(store, ends[:-1]), strict=True))


def decode(orders: Orders, stores: Stores, *, decode_all: bool = False) -> dict[str, list[Reading]]:
    """Decode the chosen images into the stores; a reading of every image."""
    readings: dict[str, list[Reading]] = {}
    for split, (images, order) in orders.items():
        targets = {int(position): stores[split][i] for i, position in enumerate(order)}
        if decode_all:
            unused = np.empty((len(images.labels), 3, 1, 1), dtype=np.uint8)
            targets = {**dict(enumerate(unused)), **targets}
        readings[split] = images.read(targets)
    return readings


def bad_images(
    parts: Mapping[str, Images], readings: Mapping[str, Sequence[Reading]]
) -> tuple[str, ...]:
    """A line for each image that cannot be used: its name and why."""
    return tuple(
        f"{parts[split].name(i)}: {reading.problem}"
        for split, found in readings.items()
        for i, reading in enumerate(found)
        if reading.problem
    )


def refuse(layout: Sequence[str], bad: Sequence[str]) -> None:
    """Raise if anything is wrong, with all of it.

    Args:
        layout: Sentences on the parts and classes.
        bad: Lines of `bad_images`.

    Raises:
        DataError: There is something; `problems` has all the lines.
    """
    sentences = list(layout)
    if bad:
        number = f"{len(bad):,} images cannot" if len(bad) > 1 else "1 image cannot"
        rest = " `python -m nas.doctor --data ...` names all." if len(bad) > _NAMED else ""
        sentences.append(
            f"{number} be used:\n  {some(bad, chr(10) + '  ')}\n"
            f"Repair or remove them, or leave them out with --skip-bad.{rest}"
        )
    if sentences:
        error = DataError("\n".join(sentences))
        error.problems = (*layout, *bad)
        raise error


def _check_memory(count: int, size: int) -> None:
    needed, available = count * 3 * size * size, available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"{count:,} images of {size} px need {needed / 1e9:.1f} GB of memory; "
            f"{available / 1e9:.1f} GB are available. Choose a smaller size, or limit the images."
        )


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
    trained = {reading.digest for reading in readings["train"] if not reading.problem}
    for split, part in readings.items():
        again = sum(reading.digest in trained for reading in part if not reading.problem)
        if split != "train" and again:
            lines.append(
                f"{again:,} of {len(part):,} {split} images are in train too, byte for byte: "
                "accuracy on them says little."
            )
    return tuple(lines)


def left_out(skipped: Sequence[str]) -> tuple[str, ...]:
    """What is said of images that were left out on request."""
    if not skipped:
        return ()
    number, were = len(skipped), "was" if len(skipped) == 1 else "were"
    unusable = f"{plural(number, 'image')} that cannot be used {were} left out"
    return (f"{unusable}: {some(skipped, '; ')}.",)


def some(lines: Sequence[str], separator: str) -> str:
    """The first ten lines, and how many more there are."""
    rest = len(lines) - _NAMED
    return separator.join([*lines[:_NAMED], *([f"and {rest:,} more"] if rest > 0 else [])])
