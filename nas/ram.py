"""How much memory this process can have, containers leaving less than there is; and keeping it."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.cli import UserError
from nas.cores import control_groups

_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on a CPU
    "CUDA error: out of memory",  # what CUDA takes beside torch's allocator: context, kernels
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Words of plain `RuntimeError`s; that of torch's allocator on a GPU has a type of its own."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""
_LARGEST_KEPT, _MOST_KEPT = 2**30, 2**31 - 1
"""Bytes of a block, and of what is free at the heap's end."""


def keep_freed_memory() -> None:
    """Let glibc's allocator keep what is freed for what comes next, in this process.

    By default it hands every block above 32 MB back to the system, and the end of the heap; the
    next step of a training then begins with thousands of page faults. On two cores a step took 3
    to 13 % longer so, and the peak is 1 to 5 % lower (experiments/LOG.md). Does nothing elsewhere
    than on glibc.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine, or of a GPU, does not suffice.

    By name and words, so that torch need not be loaded.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # no other process can be made
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def lack_of_memory(remedy: str) -> Iterator[None]:
    """Tell the user what to do where memory does not suffice.

    Raises:
        UserError: It does not.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"There is not enough memory ({first}). {remedy}") from error


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping; None where the system does not say.

    The least of what is free on the machine and what the limits of the process's control groups
    (versions 1 and 2) leave.

    Args:
        root: Where `proc` and `sys` are.
    """
    machine = _machine(root)
    return min([*([] if machine is None else [machine]), *_control_groups(root)], default=None)


def _machine(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not Linux: all of the memory is the best bound there is
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _control_groups(root: Path) -> Iterator[int]:
    """What every group that has a limit leaves."""
    for version, folder in control_groups(root, "memory"):
        if version == 2:
            names = ("memory.max", "memory.current", "inactive_file")
        else:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if (left := _left(folder, *names)) is not None:
            yield left


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Bytes until a group's limit; the file cache, which gives way, does not count as used."""
    try:
        most = int((folder / limit).read_text(encoding="ascii"))
        used = int((folder / usage).read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(dict(line.split() for line in stat).get(cache, 0))
    except (OSError, ValueError):  # no such group, or `max`: no limit
        return None
    return max(0, most - (used - cached))
