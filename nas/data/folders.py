"""Folders of images: train/ beside val/ and test/, or class folders that are divided."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nas.data.images import DataError, printable
from nas.data.sources import ACCEPTED, Files, Source, divided

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")


def folder_source(root: Path) -> Source:
    name = printable(root.resolve().name or root)
    folders = _split_folders(root)
    if "train" not in folders:
        if folders:
            found = ", ".join(f"{printable(path.name)}/" for path in folders.values())
            raise DataError(f"{printable(root)} has {found} but no train/. {ACCEPTED}")
        classes = _class_names(root)
        return divided(name, tuple(map(printable, classes)), _list_files(root, classes))
    classes = _class_names(folders["train"])
    # Names only: a search of hours must not end in a test set that does not fit.
    strangers = [
        printable(folder / label)
        for folder in folders.values()
        for label in _class_names(folder)
        if label not in classes
    ]
    if strangers:
        raise DataError(
            f"Classes that {printable(folders['train'])} lacks: {', '.join(strangers)}. "
            "Classes come from train; remove these folders, or add images of them to train."
        )
    return Source(
        name=name,
        classes=tuple(map(printable, classes)),
        train=_list_files(folders["train"], classes),
        others=lambda: {
            split: _list_files(folder, classes)
            for split, folder in folders.items()
            if split != "train"
        },
    )


def _split_folders(root: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for split, names in _SPLITS.items():
        found = [path for path in _subfolders(root) if path.name.lower() in names]
        if len(found) > 1:
            both = " and ".join(printable(path) for path in found)
            raise DataError(f"{both} would both be the {split} images; keep one of them.")
        if found:
            folders[split] = found[0]
    return folders


def _class_names(folder: Path) -> list[str]:
    names = [path.name for path in _subfolders(folder)]
    if not names:
        raise DataError(f"{printable(folder)} holds no class folders. {ACCEPTED}")
    return names


def _subfolders(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed: {error.strerror}.") from error
    return [path for path in paths if path.is_dir() and not _is_junk(path.name)]


def _list_files(folder: Path, classes: Sequence[str]) -> Files:
    """Every file below the class folders of `folder`; an absent class is no error here."""
    paths: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []

    def fail(error: OSError) -> None:
        name = printable(error.filename)
        raise DataError(f"{name} cannot be listed: {error.strerror}.") from error

    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        found = [
            Path(directory, file)
            for directory, _, files in os.walk(folder / name, onerror=fail)
            for file in files
            if not _is_junk(file)
        ]
        if not found:
            empty.append(printable(folder / name))
        paths += sorted(found)
        labels += [label] * len(found)
    if empty:
        raise DataError(
            f"Class folders without images: {', '.join(empty)}. Add images, or remove the folders."
        )
    return Files(folder, tuple(paths), np.array(labels, dtype=np.int64))


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in _JUNK
