"""Data sets in memory or in a mapped file: square uint8 images, with train, validation and test
kept apart.

A search sees the train images alone: some are held out of them to judge candidates, and the
files of validation and test are not even opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.cache import Cache, read_cached
from nas.data.folders import folder_source
from nas.data.images import DataError, Reading
from nas.data.named import digits_source, torchvision_class, torchvision_source
from nas.data.reading import bad_images, fingerprint, left_out, notices, refuse
from nas.data.scan import layout_problems, without_bad
from nas.data.sources import ACCEPTED, Source
from nas.data.stratify import allocate, draw
from nas.untrusted import printable

MAX_NATIVE_SIZE = 224
"""Side in px of the store where none is asked for and the images are larger."""

_SAMPLE = 200  # headers read to find the native size
_UNEVEN = 4  # times the images of the smallest class in the largest, from which a note says so


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
    skipped: tuple[str, ...] = ()
    """Images that were left out on request, a line each with the reason."""

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
    judges: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    follow_links: bool = False,
    cache: Cache | None = None,
) -> ImageData:
    """The train images, some of them held out; validation and test stay unopened.

    Args:
        source: What `--data` takes, `ACCEPTED`.
        size: Side of the square store in px; None: the native size, at most 224.
        limit: At most this many train images, stratified, the held-out ones included.
        holdout: Share of them that becomes `search_validation`, stratified, one image of each
            class at least.
        judges: Images of `search_validation` instead; those above the share are train images that
            `limit` leaves out, so that training has as many as without them.
        seed: Fixes both choices; every stage that is to see the same split passes the same.
        skip_bad: Leave out images that cannot be used, instead of refusing; all are decoded first.
        follow_links: Follow symbolic links out of the data set's folder.
        cache: Where decoded images are kept; None: nowhere, they stay in memory.

    Raises:
        DataError: No such source, too few images, or images that cannot be used (all named).
    """
    opened, skipped = _open(source, follow_links, skip_bad, others=False)
    layout, labels = layout_problems(opened), opened.train.labels
    native = _native_size(opened, layout)
    nothing = np.arange(0)
    trained, judged = (
        (nothing, nothing) if layout else _hold_out(labels, limit, holdout, judges, seed)
    )
    order = np.concatenate([trained, judged])
    orders = {"train": (opened.train, order)}
    images, readings, told = read_cached(
        orders, _store_size(size, native), cache, decode_all=bool(layout)
    )
    refuse(layout, bad_images({"train": opened.train}, readings))
    store, found = images["train"], readings["train"]
    return ImageData(
        name=opened.name,
        classes=opened.classes,
        fingerprint=fingerprint(opened.classes, {"train": opened.train}, readings),
        native_size=native,
        # Views of one store: a copy of either would double the memory.
        train=Split(store[: len(trained)], labels[trained]),
        search_validation=Split(store[len(trained) :], labels[judged]),
        notices=left_out(skipped)
        + told
        + notices(
            {
                "train": [found[i] for i in trained],
                "search-validation": [found[i] for i in judged],
            }
        ),
        skipped=skipped,
    )


def load_for_training(
    source: str,
    *,
    size: int | None,
    train_size: int | None = None,
    skip_bad: bool = False,
    follow_links: bool = False,
    cache: Cache | None = None,
) -> ImageData:
    """All train images, and validation and test as far as the source has them.

    Args:
        source: What `--data` takes, `ACCEPTED`.
        size: Side of the square store in px; None: the native size, at most 224.
        train_size: That of train, where its images have so many pixels: no more than their native
            size, and no fewer than `size`. None: `size`.
        skip_bad: Leave out images that cannot be used, instead of refusing; all are decoded first.
        follow_links: Follow symbolic links out of the data set's folder.
        cache: As for `load_for_search`.

    Raises:
        DataError: No such source, too few images, or images that cannot be used (all named).
    """
    opened, skipped = _open(source, follow_links, skip_bad, others=True)
    layout = layout_problems(opened)
    parts = {"train": opened.train, **opened.others()}
    native = _native_size(opened, layout)
    side = _store_size(size, native)
    sides = {"train": max(side, min(native, train_size or side))}
    images: dict[str, np.ndarray] = {}
    readings: dict[str, list[Reading]] = {}
    told: list[str] = []
    for split, part in parts.items():
        found, read, lines = read_cached(
            {split: (part, np.arange(len(part.labels)))},
            sides.get(split, side),
            cache,
            decode_all=bool(layout),
        )
        images, readings, told = images | found, readings | read, [*told, *lines]
    refuse(layout, bad_images(parts, readings))
    splits = {split: Split(images[split], part.labels) for split, part in parts.items()}
    return ImageData(
        name=opened.name,
        classes=opened.classes,
        fingerprint=fingerprint(opened.classes, parts, readings),
        native_size=native,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        notices=left_out(skipped) + tuple(dict.fromkeys(told)) + notices(readings),
        skipped=skipped,
    )


def native_size(source: str, *, follow_links: bool = False) -> int:
    """Median shorter side of the train images in px, by the headers of at most 200.

    Raises:
        DataError: No such source, or none of these images can be opened.
    """
    opened = open_source(source, follow_links=follow_links)
    return _native_size(opened, layout_problems(opened))


def majority_share(split: Split) -> float:
    """Accuracy of always answering the most frequent class, in [0, 1]."""
    return float(np.bincount(split.labels).max() / len(split))


def single_answer(split: Split) -> float:
    """Balanced accuracy of always answering one class, whichever has images, in (0, 1]."""
    return 1 / len(np.unique(split.labels))


def uneven(labels: np.ndarray, classes: Sequence[str]) -> str:
    """What is to be said of classes of which one has four times the images of another, or more;
    empty where none has."""
    present, counts = np.unique(labels, return_counts=True)
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < _UNEVEN * counts[least]:
        return ""
    return (
        f"class {classes[present[most]]!r} has {counts[most]:,} images to train on, "
        f"{classes[present[least]]!r} {counts[least]:,}; with --balanced classes count alike"
    )


def open_source(source: str, *, follow_links: bool = False) -> Source:
    """Find out what `source` names.

    Args:
        source: What `--data` takes, `ACCEPTED`.
        follow_links: Follow symbolic links out of a folder.

    Raises:
        DataError: Nothing that is accepted, or a folder that cannot be listed.
    """
    if source == "digits":
        return digits_source()
    if not source:  # a variable of the shell that is not set; as a path it is the folder one is in
        raise DataError(f"`--data` is empty. {ACCEPTED}")
    name, _, root = source.removeprefix("torchvision:").partition("@")
    if not source.startswith("torchvision:"):
        try:
            path = Path(source).expanduser()
            is_folder, exists = path.is_dir(), path.exists()
        except (OSError, RuntimeError) as error:  # a name too long, a user whom nobody knows
            reason = getattr(error, "strerror", None) or error  # without the name again
            raise DataError(f"{printable(source, 200)} cannot be opened: {reason}.") from error
        if is_folder:
            return folder_source(path, follow_links=follow_links)
        if exists:
            raise DataError(
                f"{printable(source)} is a file and no folder; unpack an archive. {ACCEPTED}"
            )
    dataset = torchvision_class(name)
    if dataset is None:
        raise DataError(f"{printable(source, 200)} does not exist. {ACCEPTED}")
    return torchvision_source(dataset, root or "data")


def _open(
    source: str, follow_links: bool, skip_bad: bool, *, others: bool
) -> tuple[Source, tuple[str, ...]]:
    """The source, and a line for each image that was left out of it."""
    opened = open_source(source, follow_links=follow_links)
    return without_bad(opened, others=others) if skip_bad else (opened, ())


def _hold_out(
    labels: np.ndarray, limit: int | None, holdout: float, judges: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and to judge by; every class is in both."""
    if not 0 < holdout < 1:
        raise DataError(f"`0 < holdout < 1` must hold; got {holdout}.")
    counts = np.bincount(labels)
    kept, spare = np.arange(len(labels)), np.arange(0)
    if limit is not None and limit < len(labels):
        if limit < 2 * len(counts):
            raise DataError(
                f"{limit} images leave fewer than 2 for each of {len(counts)} classes, one to "
                f"train on and one to judge by. Allow at least {2 * len(counts)}."
            )
        kept, spare = draw(labels, allocate(counts, limit, low=2, high=counts), seed=seed)
    among = np.bincount(labels[kept])
    share = round(holdout * len(kept))
    held = allocate(among, min(share, judges or share), low=1, high=among - 1)
    judged, trained = draw(labels[kept], held, seed=seed + 1)
    return kept[trained], _joined(labels, kept[judged], spare, judges or 0, seed + 2)


def _joined(
    labels: np.ndarray, judged: np.ndarray, spare: np.ndarray, judges: int, seed: int
) -> np.ndarray:
    """Positions of so many images to judge by: those `judged`, and of the `spare` ones the rest."""
    if judges <= len(judged):
        return judged
    if judges > len(judged) + len(spare):
        raise DataError(
            f"{judges} images to judge by are more than the {len(judged) + len(spare)} that are "
            "not trained on. Ask for fewer, or lower the number of images in training."
        )
    counts = np.bincount(labels[spare])
    more, _ = draw(
        labels[spare], allocate(counts, judges - len(judged), low=0, high=counts), seed=seed
    )
    return np.sort(np.concatenate([judged, spare[more]]))


def _native_size(source: Source, layout: Sequence[str]) -> int:
    total = len(source.train.labels)
    positions = np.unique(np.linspace(0, total - 1, min(total, _SAMPLE)).astype(int))
    sides = source.train.shorter_sides(positions.tolist()) if total else []
    if not sides and not total:
        refuse([*layout, f"There is no train image of {source.name}. {ACCEPTED}"], ())
    if not sides:
        seen = {"train": source.train.take(positions)}
        unread = f"No train image of {source.name} can be opened, not even {seen['train'].name(0)}."
        refuse([*layout, unread], bad_images(seen, {"train": seen["train"].read({})}))
    return int(np.median(sides))


def _store_size(size: int | None, native: int) -> int:
    if size is None:
        return min(native, MAX_NATIVE_SIZE)
    if size < 1:
        raise DataError(f"`size` must be at least 1 px; got {size}.")
    return size
