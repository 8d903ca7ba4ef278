"""Ray processes that outlive a command of ours that was killed: found and named, never ended.

Two helpers of Ray's live on for about a minute after kill -9 of a driver, its workers for a second
or two. They hold no lock of ours. Known by a mark in the folder of their Ray session, where they
keep their logs open; what was killed before the mark was made is not found, nor is anything
without Linux's /proc.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from nas.untrusted import printable

_MARK = "efficientnet-search.json"
_PROC = Path("/proc")


def leave_mark(session: Path) -> None:
    """Note in the folder of a Ray session that this process began it."""
    pid = os.getpid()
    (session / _MARK).write_text(json.dumps({"pid": pid, "born": _birth(pid)}))


def describe_leftovers() -> list[str]:
    """Lines on processes that are left of commands of ours that have died; none if all is well."""
    left = leftovers()
    if not left:
        return []
    pids = " ".join(map(str, left))
    named = ", ".join(f"{pid} ({name})" for pid, name in left.items())
    return [f"left of a command that was killed, and to end by itself: {named}; or `kill {pids}`"]


def leftovers() -> dict[int, str]:
    """Processes of Ray sessions that a process began which is dead: names by process id."""
    found = {}
    for process in sorted(_PROC.glob("[0-9]*"), key=lambda path: int(path.name)):
        if any(_began_by_the_dead(session) for session in _sessions(process)):
            found[int(process.name)] = _title(process)
    return found


def _sessions(process: Path) -> set[Path]:
    """Marked folders in which a process has files open; none of another user's process."""
    return {
        folder
        for file in _open_files(process)
        for folder in file.parents
        if folder.name.startswith("session_") and (folder / _MARK).is_file()
    }


def _open_files(process: Path) -> Iterator[Path]:
    try:
        links = list((process / "fd").iterdir())
    except OSError:  # it has ended, or is not ours to look at
        return
    for link in links:
        try:
            yield link.readlink()
        except OSError:
            continue


def _began_by_the_dead(session: Path) -> bool:
    try:
        mark = json.loads((session / _MARK).read_text())
        return _birth(mark["pid"]) != mark["born"]
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return False


def _birth(pid: int) -> str | None:
    """When a process began, which tells it from a later one of the same id; None: there is none."""
    try:
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else words[19]


def _title(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return printable(Path(os.fsdecode(words[0]).strip()).name, 60) or "?"
