"""Decoded images in a file: decoded once, then mapped by every process of the machine.

A file's name says all that its pixels depend on: which images were chosen at which size, under
which rule and Pillow, what these images contain, and the checksum of the result. So two processes
may make the same file at once, a damaged one is told by reading it, and none is ever out of date.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, cast

import numpy as np
from PIL import __version__ as PILLOW

from nas.data.images import RULE, DataError, Reading
from nas.data.reading import Orders, Stores, decode, read, sliced

_RESERVE = 256 * 2**20
"""Bytes of the disk that are left to the record and the results."""
_PIECE = 2**24
"""Bytes of a checksum at a time."""
_UNFINISHED = "unfinished-"
_DAMAGE = (ValueError, EOFError, TypeError, OverflowError, TokenError)
"""What NumPy raises over a file with no header of its own, a damaged one, or less than it says."""


@dataclass(frozen=True)
class Cache:
    """Where decoded images are kept."""

    folder: Path
    """It is made."""
    is_read_only: bool = False
    """Take what is there, but write nothing: for a dry run."""


class Mapped(np.memmap):
    """Rows of a file of this module. Pickled it is the file's name, so that a process on the same
    machine maps the file instead of taking a copy."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        mapping = getattr(self, "_mmap", None)  # what was computed from rows has none
        if mapping is None or not self.flags.c_contiguous:
            return np.array(self).__reduce_ex__(protocol)
        base = np.frombuffer(mapping, np.uint8).ctypes.data
        return _map, (str(self.filename), self.ctypes.data - base, self.shape)


def read_cached(
    orders: Orders, size: int, cache: Cache | None, *, decode_all: bool = False
) -> tuple[Stores, dict[str, list[Reading]], tuple[str, ...]]:
    """As `nas.data.reading.read`, from a file in the cache, which is made if it is not there.

    Where it is, every image is hashed, but none is decoded. Where it cannot be made, the images
    stay in memory, which the lines returned last then say; so they do without a cache, and where
    all are to be decoded.
    """
    told = ()
    if cache is not None and not decode_all:
        try:
            if (found := _find(orders, size, cache)) is not None:
                return *found, ()
            if not cache.is_read_only:
                return *_make(orders, size, cache.folder), ()
        except OSError as error:
            told = (
                f"The decoded images are not kept in {cache.folder}: {error.strerror}. So every "
                "start decodes them, and every worker holds its own. Make room, or name another "
                "--cache-dir.",
            )
    return *read(orders, size, decode_all=decode_all), told


def _find(
    orders: Orders, size: int, cache: Cache
) -> tuple[Stores, dict[str, list[Reading]]] | None:
    files = sorted(cache.folder.glob(f"{_selection(orders, size)}-*.npy"))
    if not files:
        return None
    readings = {split: images.read({}) for split, (images, _) in orders.items()}
    content = _content(orders, readings)
    for file in files:
        if file.name.split("-")[1] != content:
            continue
        if (store := _open(file, _shape(orders, size))) is not None:
            return sliced(store, orders), readings
        if not cache.is_read_only:
            file.unlink(missing_ok=True)
    return None


def _make(orders: Orders, size: int, folder: Path) -> tuple[Stores, dict[str, list[Reading]]]:
    """
    Raises:
        OSError: The folder cannot be written, or its disk is too full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    shape = _shape(orders, size)
    _check_room(folder, shape)
    with _unfinished(folder) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        file.flush()
        start, end = file.tell(), file.tell() + int(np.prod(shape))
        if hasattr(os, "posix_fallocate"):  # not so on a Mac
            # With all blocks reserved, a full disk is an error here and no SIGBUS later.
            os.posix_fallocate(file.fileno(), 0, end)
        store = np.memmap(file.name, np.uint8, "r+", start, shape)
        readings = decode(orders, sliced(store, orders))
        chosen = (readings[split][i] for split, (_, order) in orders.items() for i in order)
        if any(reading.problem for reading in chosen):
            return sliced(np.array(store), orders), readings  # which will be refused
        store.flush()
        os.fsync(file.fileno())
        content, checksum = _content(orders, readings), _checksum(store)
        name = f"{_selection(orders, size)}-{content}-{checksum:08x}.npy"
        os.replace(file.name, folder / name)
    return sliced(_map(str(folder / name), start, shape), orders), readings


def _shape(orders: Orders, size: int) -> tuple[int, ...]:
    return (sum(len(order) for _, order in orders.values()), 3, size, size)


def _open(file: Path, shape: tuple[int, ...]) -> "Mapped | None":
    """The images of a file; None if it is damaged."""
    try:
        found = np.lib.format.open_memmap(file, mode="r")
    except _DAMAGE:
        return None
    whole = (found.shape, found.dtype, found.flags.c_contiguous) == (shape, np.uint8, True)
    if whole and f"{_checksum(found):08x}" == file.stem.split("-")[2]:
        return _map(str(file), found.offset, shape)
    return None


def _map(file: str, start: int, shape: tuple[int, ...]) -> Mapped:
    """Rows from byte `start` on.

    Raises:
        DataError: The file is gone, as it is on another machine.
    """
    try:
        whole = Mapped(file, np.uint8, "r")
    except OSError as error:
        raise DataError(
            f"The decoded images {file} cannot be mapped: {error.strerror}. Start the command "
            "again; it makes the file anew."
        ) from error
    return cast(Mapped, whole[start : start + int(np.prod(shape))].reshape(shape))


def _selection(orders: Orders, size: int) -> str:
    """12 hex digits of all but the images themselves: known before anything is read."""
    digest = hashlib.sha256(f"rule {RULE}, Pillow {PILLOW}, {size} px".encode())
    for split, (images, order) in orders.items():
        digest.update(f"\n{split} {len(images.labels)} {len(order)}\n".encode())
        digest.update(order.astype("<i8").tobytes())
    return digest.hexdigest()[:12]


def _content(orders: Orders, readings: Mapping[str, Sequence[Reading]]) -> str:
    """16 hex digits of the chosen images' content, in order."""
    digest = hashlib.sha256()
    for split, (_, order) in orders.items():
        for i in order:
            digest.update(readings[split][i].digest or b"unread")
    return digest.hexdigest()[:16]


def _checksum(store: np.ndarray) -> int:
    pixels, checksum = store.reshape(-1), 0
    for start in range(0, len(pixels), _PIECE):
        checksum = zlib.crc32(pixels[start : start + _PIECE].data, checksum)
    return checksum


def _check_room(folder: Path, shape: tuple[int, ...]) -> None:
    needed, free = int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed + _RESERVE > free:
        words = f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free"
        raise OSError(errno.ENOSPC, words)


@contextmanager
def _unfinished(folder: Path) -> Iterator[IO[bytes]]:
    """A file to be renamed when it is whole; it goes if it is not."""
    while True:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_UNFINISHED, delete=False) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink:
                    yield file
                    return
                # Before it was locked, another process took it for one that nobody needs.
            finally:
                Path(file.name).unlink(missing_ok=True)


def _remove_unfinished(folder: Path) -> None:
    """Remove what processes left that died at it: nobody has locked it."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue
