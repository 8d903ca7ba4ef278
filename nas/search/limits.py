"""A wall-clock limit of a trial: a signal interrupts its Python, and a worker that does not listen
ends."""

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 15.0
"""How long a worker has to listen to the signal before its process ends."""


class TrialTimeoutError(BaseException):
    """A trial took too long; no `Exception`, which the evaluator might take for one of its own."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `TrialTimeoutError` in the block after so many seconds; None: never.

    It is raised between two steps of Python, so a call of C that hangs is not interrupted. Outside
    of the main thread, which alone gets signals, there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TrialTimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    start = time.monotonic()
    others, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if others:  # somebody else's alarm, which is now nearer
            left = others - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


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
