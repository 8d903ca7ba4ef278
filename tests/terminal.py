"""A command in a terminal of its own, where Ctrl-C reaches every process of the foreground."""

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_LEAD = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Become the leader of a session that has the terminal, then the command."""


class Terminal:
    """A running command and the terminal that it is in."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process, self._end = process, end
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that was shown so far."""
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def press_ctrl_c(self) -> None:
        os.write(self._end, b"\x03")

    def wait(self, seconds: float = 120) -> int:
        """The exit status, once everything was shown."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def _read(self) -> None:
        with suppress(OSError):  # the last process has closed the terminal
            while block := os.read(self._end, 4096):
                self._shown += block


@contextmanager
def terminal(words: Sequence[str], cwd: Path) -> Iterator[Terminal]:
    """Start `python words...` in a new terminal; killed at the end, if it still runs."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _LEAD, *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
    finally:
        os.close(theirs)
    with process:
        shown = Terminal(process, ours)
        try:
            yield shown
        finally:
            process.kill()
            shown.wait()
            os.close(ours)
