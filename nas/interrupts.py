"""Ctrl-C and SIGTERM as one KeyboardInterrupt, raised where the work can be left."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 0.05
"""After which a signal is sent again that came where Python passes over all errors."""


class Interruptible:
    """Turns SIGINT and SIGTERM into one KeyboardInterrupt; the second signal exits at once."""

    def __init__(self) -> None:
        self.status = 130
        """Exit status that tells of the signal, as shells do."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruptible":
        for number in _SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: the caller owns the signals
                break
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._send_again
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._previous_hook
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # An interrupt of code that is run from text, as dataclasses are made, has CPython end the
        # process by SIGINT at its exit, caught or not; other such code lets it forget that.
        exec("")

    def _handle(self, number: int, _: FrameType | None) -> NoReturn:
        self.status = 128 + number
        signal.signal(number, _exit_now)
        # Loader processes that the same signal ended are no news, but torch raises when they end.
        chld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._previous.setdefault(signal.SIGCHLD, chld or signal.SIG_DFL)
        raise KeyboardInterrupt

    def _send_again(self, passed_over: Any) -> None:
        """Send a signal again that came in a `__del__` or the like, which cannot be left."""
        if passed_over.exc_type is not KeyboardInterrupt:
            self._previous_hook(passed_over)
            return
        number = self.status - 128
        signal.signal(number, self._handle)
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold signals back while something runs that must not be left between any two of its steps,
    such as a transaction, or a library with an event loop.

    Yields:
        What hands over a signal that came, as if it came then: a place where the block can be
        left. Its end is another, whatever ended it. A second signal exits at once.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        signal.signal(number, _exit_now)

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hand_over() -> None:
        if came:
            restore()
            number, frame = came.pop(0)
            handlers[number](number, frame)

    try:
        for number in _SIGNALS:
            # One that ends the process, or is ignored, stays as it is.
            if callable(handler := signal.getsignal(number)):
                signal.signal(number, note)
                handlers[number] = handler
    except ValueError:  # not in the main thread, where no handler runs
        pass
    try:
        yield hand_over
    finally:
        restore()
        hand_over()


def _exit_now(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)
