"""Signals are raised where the work can be left, and lost nowhere."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from nas.interrupts import Interruptible, held_back

both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def interruption() -> Iterator[Interruptible]:
    """The frame of a command, whose handlers raise."""
    with Interruptible() as interruption:
        yield interruption


@both
def test_a_signal_waits_for_the_end_of_the_block(
    number: signal.Signals, interruption: Interruptible
) -> None:
    steps = []

    @held_back()
    def work() -> None:
        os.kill(os.getpid(), number)
        steps.append("the step that it fell into")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps
    assert interruption.status == 128 + number


@both
def test_a_place_to_leave_at_raises_what_came(
    number: signal.Signals, interruption: Interruptible
) -> None:
    steps = []

    def work() -> None:
        with held_back() as hand_over:
            hand_over()
            os.kill(os.getpid(), number)
            steps.append("before")
            hand_over()
            steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["before"]
    assert interruption.status == 128 + number


def test_what_else_goes_wrong_does_not_hide_a_signal() -> None:
    @held_back()
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("a library that the signal confused")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, RuntimeError)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with held_back():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_children_that_the_signal_ended_are_no_news() -> None:
    """torch raises an error over each of its loader's, wherever Python is then."""
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda *_: seen.append("a child has ended"))
    try:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        with Interruptible(), pytest.raises(KeyboardInterrupt), child:
            os.kill(os.getpid(), signal.SIGTERM)
        assert child.returncode is not None
        assert not seen
        subprocess.run([sys.executable, "-c", ""], check=True)
        assert seen  # afterwards as before
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_block_within_a_block_hands_over_to_it() -> None:
    steps = []

    @held_back()
    def work() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
        steps.append("the outer block goes on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps


def test_other_threads_hold_nothing_back() -> None:
    handler = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with held_back() as hand_over:
            hand_over()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


@both
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    program = (
        "import os, signal\n"
        "from nas.interrupts import Interruptible, held_back\n"
        "with Interruptible(), held_back():\n"
        f"    os.kill(os.getpid(), {int(number)}); os.kill(os.getpid(), {int(number)})\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + number, "")


@both
def test_a_signal_that_python_passes_over_comes_again(
    number: signal.Signals, interruption: Interruptible
) -> None:
    """As in `__del__` and callbacks of weak references, of which matplotlib has many."""

    class Node:
        pass

    node = Node()
    _reference = weakref.ref(node, lambda _: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (where it is raised is what is tested)
        del node
        for _ in range(1000):
            time.sleep(0.01)
    assert interruption.status == 128 + number
