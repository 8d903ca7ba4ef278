"""A wall-clock limit of a trial: a signal interrupts its Python, and a worker that does not listen
ends."""

import contextlib
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 15.0
"""How long a worker has to listen to the signal before its process ends."""
AGAIN_SECONDS = 5.0
"""When the signal comes again. One may be lost: Python drops what is raised in a `__del__`, and a
call of C that begins as the signal comes does not wake."""
_SOON_SECONDS = 0.05
"""When to look again if the trial cannot be left now."""
_OUR_FILES = (__file__, contextlib.__file__)


class TrialTimeoutError(BaseException):
    """A trial took too long; no `Exception`, which the evaluator might take for one of its own."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `TrialTimeoutError` in the block after so many seconds; None: never.

    It is raised between two steps of Python, so a call of C that hangs is not interrupted; nor is
    an import, which would leave half a module behind for the trials that follow. Outside of the
    main thread, which alone gets signals, there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    outer_imports, is_over = _num_imports(sys._getframe()), False

    def stop(number: int, frame: FrameType | None) -> None:
        if is_over:
            return
        if _is_ours(frame) or _num_imports(frame) > outer_imports:
            signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS, AGAIN_SECONDS)
        else:
            raise TrialTimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    start = time.monotonic()
    others, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), AGAIN_SECONDS)
    try:
        yield
    finally:
        is_over = True  # a signal that comes now must not set the timer anew
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if others:  # somebody else's alarm, which is now nearer
            left = others - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


def _num_imports(frame: FrameType | None) -> int:
    """Steps of the import system on the stack: more while a module is being made."""
    number = 0
    while frame is not None:
        number += frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    return number


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the limit itself is at work, which must be left whole."""
    return frame is not None and frame.f_code.co_filename in _OUR_FILES


@contextmanager
def ends_process(seconds: float | None) -> Iterator[None]:
    """End the process if the block takes longer, whatever hangs in it; None: never."""
    if seconds is not None:
        # A thread of C, so that it also comes when a call of C never gives Python back; 2: stderr,
        # where the process says what it hung in.
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        if seconds is not None:
            faulthandler.cancel_dump_traceback_later()
