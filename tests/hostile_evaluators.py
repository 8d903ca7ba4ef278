"""Evaluators that do what a user's own may do by mistake: odd results, and hands on the process.

Most do it in every second call, and measure as they should in the others.
"""

import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

from search_spaces.architecture import Architecture
from tests.searching import accuracy

HOSTILE = "=cmd|' /C calc'!A0\n\x1b[2Jgone\u202e\ud800\0 <img src=x onerror=alert(1)> | `x` end"
"""For a spreadsheet, a terminal, an encoder, and readers of Markdown."""

_calls = count()


def _is_odd() -> bool:
    return next(_calls) % 2 == 1


def _measured(architecture: Architecture, seed: int) -> float:
    return 0.1 + 0.8 * accuracy(architecture, epochs=1, seed=seed)


def shouting(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Raises with a hostile message."""
    if _is_odd():
        raise ValueError(HOSTILE)
    return _measured(architecture, seed)


def various(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Fails for want of memory, of a number, or of sense, as the network has it."""
    match int(architecture.digest, 16) % 6:
        case 0:
            raise MemoryError("no room")
        case 1:
            return float("nan")
        case 2:
            raise KeyError("my own mistake")
    return _measured(architecture, seed)


def wordy(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Raises with a message of megabytes."""
    if _is_odd():
        raise ValueError("begin " + "x" * 5_000_000 + " end")
    return _measured(architecture, seed)


def wandering(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Goes to another folder."""
    if _is_odd():
        os.chdir("/")
    return _measured(architecture, seed)


def leaving(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Ends the process as if all were done."""
    if _is_odd():
        sys.exit(0)
    return _measured(architecture, seed)


def forking(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Makes a second process that comes back, too."""
    if _is_odd():
        os.fork()
    return _measured(architecture, seed)


def deleting(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Deletes the run folder, `run` in the working directory."""
    if _is_odd() and Path("run").exists():
        shutil.rmtree("run")
    return _measured(architecture, seed)


def texts(architecture: Architecture, *, epochs: int, seed: int) -> Any:
    """Gives a number as text, which is one."""
    return str(_measured(architecture, seed)) if _is_odd() else _measured(architecture, seed)
