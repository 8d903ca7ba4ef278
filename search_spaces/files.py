"""Files and folders that survive a kill at any moment: whole files, one process at a time."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search_spaces.numbers import format_number

LOCK = ".lock"
"""The file in a folder that the process in it has locked."""

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
"""What file systems, of a network above all, say that cannot flush folders, or where this one may
be written but not listed. The file is whole without."""


class FolderError(ValueError):
    """A folder that this process cannot write or may not use now."""


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file that is either there whole or not at all; its folder is made.

    Raises:
        OSError: It cannot be written. What was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a complete file, on the same file system, its final name."""
    _flush(temporary)  # else a power cut could leave the name with no content
    temporary.replace(path)
    _flush(path.parent)  # else it could take the name back


def _flush(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _NOT_FOR_FOLDERS and path.is_dir():
            return
        error.filename = str(path)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of an `atomic_write` to `path`.

    Nobody else may be writing it: to be called with the folder locked.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    if path.parent.is_dir():
        for temporary in list(path.parent.iterdir()):
            if pattern.fullmatch(temporary.name):
                temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path, flag: str) -> Iterator[None]:
    """Make a folder and keep other processes out; the lock ends with the process, however.

    A folder that was made for it and in the end holds nothing is removed.

    Args:
        folder: The folder to work in.
        flag: The flag that names it, such as `--out`, for the error messages.

    Raises:
        FolderError: It cannot be written, or another process holds it.
    """
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise FolderError(f"`{flag} {folder}` cannot be written: {error}.") from error
    # A forked child, such as a loader of images, would hold the lock for as long as it outlives us.
    os.register_at_fork(after_in_child=lock.close)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise FolderError(
                f"{folder} is in use by process {lock.read().strip()}. "
                f"Wait for it, stop it, or choose another {flag}."
            ) from None
        except OSError as error:  # such as of a network file system that knows no locks
            raise FolderError(f"`{flag} {folder}` cannot be locked: {error}.") from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield
        finally:
            left = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            if is_new and left == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for every changed value, nested ones too, such as `seed was 0, now 1`."""
    phrases = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            phrases += differences(before, after)
        elif before != after:
            shown = [_shown(value) for value in (before, after)]
            if shown[0] == shown[1]:  # to the digits that people read
                shown = [repr(before), repr(after)]
            phrases.append(f"{key} was {shown[0]}, now {shown[1]}")
    return phrases


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return repr(value)
    return format_number(value) if abs(value) >= 1e3 else f"{value:.6g}"
