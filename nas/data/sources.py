"""Where images come from: files or items of a dataset, listed and labelled but not yet decoded."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from PIL import Image

from nas.data.images import (
    Reading,
    check_header,
    explain,
    quiet_pillow,
    read_files,
    shorter_sides,
    store,
)
from nas.data.stratify import three_way
from nas.untrusted import printable

ACCEPTED = (
    "`--data` takes: digits; a folder with train/ and val/ or test/, or a folder of class folders, "
    "none of which has such a name; a torchvision dataset, CIFAR10 or CIFAR10@/path/to/root "
    "(torchvision:CIFAR10 where a folder has that name; its default root is ./data)."
)


class Images(Protocol):
    """Labelled images in a fixed order, not yet decoded."""

    @property
    def labels(self) -> np.ndarray:
        """Classes, int64 (N,)."""
        ...

    def take(self, positions: np.ndarray) -> Self:
        """Some of the images."""
        ...

    def key(self, position: int) -> bytes:
        """What, beside the content, belongs to the fingerprint."""
        ...

    def name(self, position: int) -> str:
        """How messages call an image."""
        ...

    def shorter_sides(self, positions: Sequence[int]) -> list[int]:
        """Shorter sides in px of those that can be opened."""
        ...

    def read(self, targets: Mapping[int, np.ndarray]) -> list[Reading]:
        """Hash every image and write those that have a target; as `images.read_files`."""
        ...


@dataclass(frozen=True, eq=False)
class Files:
    """Images in files."""

    root: Path
    """The folder that holds the class folders."""
    paths: tuple[Path, ...]
    labels: np.ndarray
    refused: Mapping[Path, str] = field(default_factory=dict)
    """Those of the paths that must not be opened, and why."""

    @property
    def closed(self) -> frozenset[int]:
        """Classes of these."""
        refused = [path in self.refused for path in self.paths]
        return frozenset(self.labels[np.array(refused, dtype=bool)].tolist())

    def take(self, positions: np.ndarray) -> Self:
        paths = tuple(self.paths[i] for i in positions)
        return replace(self, paths=paths, labels=self.labels[positions])

    def key(self, position: int) -> bytes:
        return os.fsencode(self.paths[position].relative_to(self.root).as_posix())

    def name(self, position: int) -> str:
        return printable(self.paths[position])

    def shorter_sides(self, positions: Sequence[int]) -> list[int]:
        paths = [self.paths[i] for i in positions]
        return shorter_sides([path for path in paths if path not in self.refused])

    def read(self, targets: Mapping[int, np.ndarray]) -> list[Reading]:
        allowed = [i for i, path in enumerate(self.paths) if path not in self.refused]
        readings = [Reading(problem=self.refused.get(path, "")) for path in self.paths]
        found = read_files(
            [self.paths[i] for i in allowed],
            {j: targets[i] for j, i in enumerate(allowed) if i in targets},
        )
        for i, reading in zip(allowed, found, strict=True):
            readings[i] = reading
        return readings


@dataclass(frozen=True, eq=False)
class Items:
    """Images of a dataset in Python: `dataset[i]` is (image, label, …)."""

    title: str
    dataset: Any
    indices: np.ndarray
    labels: np.ndarray

    def take(self, positions: np.ndarray) -> Self:
        return replace(self, indices=self.indices[positions], labels=self.labels[positions])

    def key(self, position: int) -> bytes:
        return str(self.labels[position]).encode()

    def name(self, position: int) -> str:
        return f"{self.title}[{self.indices[position]}]"

    def shorter_sides(self, positions: Sequence[int]) -> list[int]:
        sides = []
        with quiet_pillow():
            for i in positions:
                try:
                    sides.append(min(self._image(i).size))
                except Exception:  # the code of a dataset raises anything; reading names it
                    continue
        return sides

    def read(self, targets: Mapping[int, np.ndarray]) -> list[Reading]:
        # One thread: a dataset of torchvision need not be safe in several (FakeData is not).
        with quiet_pillow():
            return [self._read(i, targets.get(i)) for i in range(len(self.indices))]

    def _read(self, position: int, out: np.ndarray | None) -> Reading:
        try:
            image = self._image(position)
            check_header(image)
            head = f"{image.mode} {image.size} ".encode()
            digest = hashlib.sha256(head + image.tobytes()).digest()
            if out is not None:
                store(image, out)
        except Exception as error:  # the code of a dataset raises anything
            return Reading(problem=explain(error))
        return Reading(digest)

    def _image(self, position: int) -> Image.Image:
        image = self.dataset[int(self.indices[position])][0]
        if isinstance(image, Image.Image):
            return image
        from torchvision.transforms.functional import to_pil_image

        return to_pil_image(image)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set by its parts, undecoded."""

    name: str
    """Short, printable."""
    classes: tuple[str, ...]
    """Printable names; the position is the label."""
    train: Images
    others: Callable[[], dict[str, Images]]
    """Lists `validation` and `test`, as far as they exist; not called by a search."""
    problems: tuple[str, ...] = ()
    """What is wrong with the layout of all parts, a sentence each with its remedy."""
    closed: frozenset[int] = frozenset()
    """Labels of classes with folders that are not entered: how many images they have is unknown."""


def divided(
    name: str,
    classes: tuple[str, ...],
    images: Images,
    *,
    problems: tuple[str, ...] = (),
    closed: frozenset[int] = frozenset(),
) -> Source:
    """A source of one part, divided into train, validation and test."""
    train, validation, test = (
        images.take(positions) for positions in three_way(images.labels, len(classes))
    )
    others = {"validation": validation, "test": test}
    return Source(
        name=name,
        classes=classes,
        train=train,
        others=lambda: {split: part for split, part in others.items() if len(part.labels)},
        problems=problems,
        closed=closed,
    )
