"""Data sets in memory: square uint8 images, with train, validation and test kept apart.

A search sees the train images alone: some are held out of them to judge candidates, and the
files of validation and test are not even opened.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.folders import folder_source
from nas.data.images import DataError, printable
from nas.data.named import digits_source, torchvision_class, torchvision_source
from nas.data.reading import fingerprint, notices, read, some
from nas.data.sources import ACCEPTED, Source
from nas.data.stratify import allocate, draw

MAX_NATIVE_SIZE = 224
"""Side in px of the store where none is asked for and the images are larger."""

_SAMPLE = 200  # headers read to find the native size
_STATISTICS_SAMPLE = 10_000


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their classes."""

    images: np.ndarray
    """uint8 RGB, C-contiguous (N, 3, S, S)."""
    labels: np.ndarray
    """int64 (N,), positions in `ImageData.classes`."""

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8, self.images.dtype
        assert self.labels.shape == self.images.shape[:1], self.labels.shape

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set, or the part of it that a stage may see."""

    name: str
    """Short and printable."""
    classes: tuple[str, ...]
    """Printable names, in the order of the labels."""
    fingerprint: str
    """12 hex digits of the content, whatever `size` and `limit`."""
    native_size: int
    """Median shorter side of the source's train images in px."""
    train: Split
    search_validation: Split | None = None
    """Held out of train to judge candidates; None outside a search."""
    validation: Split | None = None
    test: Split | None = None
    notices: tuple[str, ...] = ()
    """What the user should know, a line each."""

    def summary(self) -> str:
        """One line for the terminal: name, counts, splits, fingerprint."""
        splits = {
            "train": self.train,
            "search-val": self.search_validation,
            "val": self.validation,
            "test": self.test,
        }
        counts = {name: len(split) for name, split in splits.items() if split is not None}
        parts = (
            self.name,
            f"{sum(counts.values()):,} images",
            f"{len(self.classes):,} classes",
            " / ".join(f"{name} {count:,}" for name, count in counts.items()),
            f"fingerprint {self.fingerprint}",
        )
        return " · ".join(parts)


def load_for_search(
    source: str,
    *,
    size: int | None,
    limit: int | None = None,
    holdout: float = 0.1,
    seed: int = 0,
) -> ImageData:
    """The train images, some of them held out; validation and test stay unopened.

    Args:
        source: What `--data` takes, `ACCEPTED`.
        size: Side of the square store in px; None: the native size, at most 224.
        limit: At most this many train images, stratified, the held-out ones included.
        holdout: Share of them that becomes `search_validation`, stratified, one image of each
            class at least.
        seed: Fixes both choices; every stage that is to see the same split passes the same.

    Raises:
        DataError: No such source, too few images, or images that cannot be used (all named).
    """
    opened = open_source(source)
    _check_classes(opened)
    labels = opened.train.labels
    trained, judged = _hold_out(labels, limit, holdout, seed)
    native = _native_size(opened)
    order = np.concatenate([trained, judged])
    images, readings = read({"train": (opened.train, order)}, _store_size(size, native))
    store, found = images["train"], readings["train"]
    return ImageData(
        name=opened.name,
        classes=opened.classes,
        fingerprint=fingerprint(opened.classes, {"train": opened.train}, readings),
        native_size=native,
        # Views of one store: a copy of either would double the memory.
        train=Split(store[: len(trained)], labels[trained]),
        search_validation=Split(store[len(trained) :], labels[judged]),
        notices=notices(
            {
                "train": [found[i] for i in trained],
                "search-validation": [found[i] for i in judged],
            }
        ),
    )


def load_for_training(source: str, *, size: int | None) -> ImageData:
    """All train images, and validation and test as far as the source has them.

    Args:
        source: What `--data` takes, `ACCEPTED`.
        size: Side of the square store in px; None: the native size, at most 224.

    Raises:
        DataError: No such source, too few images, or images that cannot be used (all named).
    """
    opened = open_source(source)
    _check_classes(opened)
    parts = {"train": opened.train, **opened.others()}
    native = _native_size(opened)
    orders = {split: (part, np.arange(len(part.labels))) for split, part in parts.items()}
    images, readings = read(orders, _store_size(size, native))
    splits = {split: Split(images[split], part.labels) for split, part in parts.items()}
    return ImageData(
        name=opened.name,
        classes=opened.classes,
        fingerprint=fingerprint(opened.classes, parts, readings),
        native_size=native,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        notices=notices(readings),
    )


def native_size(source: str) -> int:
    """Median shorter side of the train images in px, by the headers of at most 200.

    Raises:
        DataError: No such source, or none of these images can be opened.
    """
    return _native_size(open_source(source))


def channel_statistics(
    split: Split,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel, in units of [0, 1].

    At most 10,000 images, evenly spaced, are looked at. The deviation of a constant channel is
    1/255, so that one may divide by it.
    """
    step = max(1, -(-len(split) // _STATISTICS_SAMPLE))
    histogram = np.zeros((3, 256), dtype=np.int64)
    for image in split.images[::step]:
        for channel in range(3):
            histogram[channel] += np.bincount(image[channel].ravel(), minlength=256)
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(axis=1)
    deviation = np.maximum(np.sqrt(variance), 1 / 255)
    return _triple(mean), _triple(deviation)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def majority_share(split: Split) -> float:
    """Accuracy of always answering the most frequent class, in [0, 1]."""
    return float(np.bincount(split.labels).max() / len(split))


def open_source(source: str) -> Source:
    """Find out what `source` names.

    Raises:
        DataError: Nothing that is accepted, or a folder whose layout does not fit.
    """
    if source == "digits":
        return digits_source()
    name, _, root = source.removeprefix("torchvision:").partition("@")
    if not source.startswith("torchvision:"):
        path = Path(source).expanduser()
        if path.is_dir():
            return folder_source(path)
        if path.exists():
            raise DataError(f"{printable(source)} is a file; unpack it. {ACCEPTED}")
    dataset = torchvision_class(name)
    if dataset is None:
        raise DataError(f"{printable(source)} does not exist. {ACCEPTED}")
    return torchvision_source(dataset, root or "data")


def _hold_out(
    labels: np.ndarray, limit: int | None, holdout: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and to judge by; every class is in both."""
    if not 0 < holdout < 1:
        raise DataError(f"`0 < holdout < 1` must hold; got {holdout}.")
    counts = np.bincount(labels)
    kept = np.arange(len(labels))
    if limit is not None and limit < len(labels):
        if limit < 2 * len(counts):
            raise DataError(
                f"{limit} images leave fewer than 2 for each of {len(counts)} classes, one to "
                f"train on and one to judge by. Allow at least {2 * len(counts)}."
            )
        kept, _ = draw(labels, allocate(counts, limit, low=2, high=counts), seed=seed)
        counts = np.bincount(labels[kept])
    held = allocate(counts, round(holdout * len(kept)), low=1, high=counts - 1)
    judged, trained = draw(labels[kept], held, seed=seed + 1)
    return kept[trained], kept[judged]


def _check_classes(source: Source) -> None:
    if len(source.classes) < 2:
        raise DataError(
            f"{source.name} has {len(source.classes)} class ({', '.join(source.classes)}); "
            f"at least 2 are needed to tell apart. {ACCEPTED}"
        )
    counts = np.bincount(source.train.labels, minlength=len(source.classes))
    few = [f"{source.classes[i]} ({counts[i]})" for i in np.flatnonzero(counts < 2)]
    if few:
        raise DataError(
            f"Classes of {source.name} with fewer than 2 train images: {some(few, ', ')}. "
            "One is trained on and one held out: add images, or remove the classes."
        )


def _native_size(source: Source) -> int:
    total = len(source.train.labels)
    positions = np.unique(np.linspace(0, total - 1, min(total, _SAMPLE)).astype(int))
    sides = source.train.shorter_sides(positions.tolist()) if total else []
    if not sides:
        example = f", not even {source.train.name(0)}" if total else ""
        raise DataError(f"No train image of {source.name} can be opened{example}. {ACCEPTED}")
    return int(np.median(sides))


def _store_size(size: int | None, native: int) -> int:
    if size is None:
        return min(native, MAX_NATIVE_SIZE)
    if size < 1:
        raise DataError(f"`size` must be at least 1 px; got {size}.")
    return size
