"""Folders of images: train/ beside val/ and test/, or class folders that are divided."""

import os
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.images import DataError
from nas.data.reading import some
from nas.data.sources import ACCEPTED, Files, Images, Source, divided
from nas.untrusted import printable

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class _Links:
    """Which symbolic links are followed."""

    root: str
    """The data set's folder, without links."""
    follow: bool
    """Whether links may leave it."""

    def refusal(self, link: Path) -> str:
        """Why a link is not followed; empty if it is."""
        try:
            target = os.path.realpath(link)
        except OSError as error:
            return f"link that cannot be followed: {error.strerror}"
        if _holds(target, os.path.realpath(link.parent)):
            return "link to a folder that it is in"
        if not self.follow and not _holds(self.root, target):
            return f"link out of the data set, to {printable(target)}; --follow-links allows it"
        return ""


def folder_source(root: Path, *, follow_links: bool = False) -> Source:
    """The images below a folder.

    Args:
        root: The folder; may itself be a link.
        follow_links: Whether links in it may lead out of it.

    Raises:
        DataError: Its layout is none of those accepted, so that nothing more can be said of it.
    """
    name = printable(root.resolve().name or root, 60)
    links = _Links(os.path.realpath(root), follow_links)
    folders, problems = _split_folders(root, links)
    if "train" not in folders:
        if folders:
            found = ", ".join(f"{printable(path.name)}/" for path in folders.values())
            raise DataError(f"{printable(root)} has {found} but no train/. {ACCEPTED}")
        classes = _class_names(root)
        images, empty = _list_files(root, classes, links)
        problems += [*_look_alikes(classes), *_empty(empty)]
        return divided(
            name,
            tuple(map(printable, classes)),
            images,
            problems=tuple(problems),
            closed=images.closed,
        )
    classes = _class_names(folders["train"])
    # Names only: a search of hours must not end in a test set that does not fit.
    listed = {split: _list_files(folder, classes, links) for split, folder in folders.items()}
    problems += [
        *_strangers(folders, classes),
        *_look_alikes(classes),
        *_empty([folder for _, empty in listed.values() for folder in empty]),
    ]
    train = listed["train"][0]
    others: dict[str, Images] = {s: images for s, (images, _) in listed.items() if s != "train"}
    return Source(
        name=name,
        classes=tuple(map(printable, classes)),
        train=train,
        others=lambda: others,
        problems=tuple(problems),
        closed=train.closed,
    )


def _split_folders(root: Path, links: _Links) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split, and what is wrong with them."""
    folders: dict[str, Path] = {}
    problems = []
    for split, names in _SPLITS.items():
        found = [path for path in _subfolders(root) if path.name.lower() in names]
        if len(found) > 1:
            both = " and ".join(printable(path) for path in found)
            problems.append(f"{both} would both be the {split} images; keep one of them.")
        for path in found[:1]:
            if path.is_symlink() and (reason := links.refusal(path)):
                raise DataError(f"{printable(path)}: {reason}.")
            folders[split] = path
    return folders, problems


def _strangers(folders: dict[str, Path], classes: Sequence[str]) -> list[str]:
    train = printable(folders["train"])
    composed = {unicodedata.normalize("NFC", name) for name in classes}
    strangers: list[str] = []
    twins: list[str] = []
    for folder in folders.values():
        for label in set(_class_names(folder)) - set(classes):
            known = unicodedata.normalize("NFC", label) in composed
            (twins if known else strangers).append(printable(folder / label))
    problems = []
    if strangers:
        problems.append(
            f"Classes that {train} lacks: {some(sorted(strangers), ', ')}. "
            "Classes come from train; remove these folders, or add images of them to train."
        )
    if twins:
        problems.append(
            f"Names that look like those of {train}, but have accents of another Unicode form (NFC "
            f"or NFD): {some(sorted(twins), ', ')}. Rename these folders."
        )
    return problems


def _look_alikes(classes: Sequence[str]) -> list[str]:
    """Names that differ in what cannot be shown would be one name in every report."""
    shown = Counter(map(printable, classes))
    twice = [name for name, number in shown.items() if number > 1]
    return [f"Several class folders would be shown as {', '.join(twice)}; rename them."] * bool(
        twice
    )


def _empty(folders: Sequence[str]) -> list[str]:
    if not folders:
        return []
    return [
        f"Class folders without images: {some(folders, ', ')}. Add images, or remove the folders."
    ]


def _class_names(folder: Path) -> list[str]:
    names = [path.name for path in _subfolders(folder)]
    if not names:
        raise DataError(f"{printable(folder)} holds no class folders. {ACCEPTED}")
    return names


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [folder / e.name for e in entries if not _is_junk(e.name) and _is_folder(e)]
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed: {error.strerror}.") from error
    return sorted(found)


def _list_files(folder: Path, classes: Sequence[str], links: _Links) -> tuple[Files, list[str]]:
    """Every file below the class folders of `folder`, and the class folders without any.

    An absent class is no error here.
    """
    paths: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    refused: dict[Path, str] = {}
    present = {path.name for path in _subfolders(folder)}
    for label, name in enumerate(classes):
        if name not in present:
            continue
        found = dict(_walk(folder / name, links))
        if not found:
            empty.append(printable(folder / name))
        paths += sorted(found)
        labels += [label] * len(found)
        refused |= {path: reason for path, reason in found.items() if reason}
    files = Files(folder, tuple(paths), np.array(labels, dtype=np.int64), refused)
    return files, empty


def _walk(top: Path, links: _Links) -> Iterator[tuple[Path, str]]:
    """Every file below `top`, and what is not entered, with the reason.

    Linked folders come last, and none twice: a few links among folders make more paths than there
    is time.
    """
    folders = deque([top])
    seen: set[str] = set()
    while folders:
        folder = folders.popleft()
        if folder.is_symlink() and (reason := links.refusal(folder)):
            yield folder, reason
            continue
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                found = sorted((e for e in entries if not _is_junk(e.name)), key=lambda e: e.name)
        except OSError as error:
            yield folder, f"cannot be listed: {error.strerror}"
            continue
        for entry in found:
            path = folder / entry.name
            if _is_folder(entry):
                folders.append(path) if entry.is_symlink() else folders.appendleft(path)
            else:
                yield path, links.refusal(path) if entry.is_symlink() else ""


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in _JUNK
