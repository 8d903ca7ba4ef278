"""The ballistic test: a command is shot at in random moments and started again, until it is done.

The moments come from a seeded generator. They are spread over the command's start, its steps and
its ending, and tied to its progress, so that on any machine each shot of a list hits a process that
lives. At every stop the run folder is checked on a copy: the next start meets what the shot left.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[1]

Kind = Literal["driver", "worker", "group", "SIGINT", "SIGTERM", "pre-emption"]
"""kill -9 of the driver, of one of its workers, or of all its processes at once; a signal to leave;
SIGTERM and, while it is leaving, kill -9 of all."""
Phase = Literal["start", "middle", "end"]

_SECONDS = 240
"""Far longer than any command here takes."""
_RETRIES = 20
"""How often a shot may come too late, at a command that just ended by itself."""


class Shot(NamedTuple):
    """What is to be done to a command, and when."""

    kind: Kind
    phase: Phase
    share: float
    """Where in its phase, in [0, 1); in the middle, where in all the steps of the command."""


def draw(rng: random.Random, kinds: Mapping[Kind, int]) -> list[Shot]:
    """So many shots of each kind, in any order: most while the command works, every fourth while it
    starts, the last few while it ends."""
    every: list[Kind] = [kind for kind, number in kinds.items() for _ in range(number)]
    killers: list[Kind] = [kind for kind in every if kind != "worker"]
    ending = rng.sample(killers, (len(every) + 1) // 4)
    for kind in ending:
        every.remove(kind)
    rng.shuffle(every)
    phases: list[Phase] = [
        "start" if i % 4 == 1 and kind != "worker" else "middle" for i, kind in enumerate(every)
    ]
    shots, number = [], 0
    for kind, phase in zip(every, phases, strict=True):
        share = rng.random()
        if phase == "middle":
            share = (number + share) / phases.count("middle")
            number += 1
        shots.append(Shot(kind, phase, share))
    return shots + [Shot(kind, "end", rng.random()) for kind in ending]


class Stop(NamedTuple):
    """How a process of the command stopped."""

    status: int
    """Its exit status, negative for the signal that ended it."""
    lost: int
    """How many trials all the shots so far may have cost."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is shot at."""

    words: Sequence[str]
    """After `python -m`."""
    cwd: Path
    folder: Path
    """Its run folder."""
    steps: int
    """Of a whole run."""
    progress: Callable[[], int]
    """Steps of all starts so far, repeated ones included."""
    is_ending: Callable[[], bool]
    """Whether every step is done, and what is left is the report."""
    check: Callable[[Path, Stop], None]
    """Takes a copy of the folder at every stop; raises an AssertionError if anything is wrong."""
    endangered: Callable[[Path], bool] = lambda folder: False
    """Takes the folder or a copy; whether a step must end before the next shot, for one that is
    lost three times is given up, as it should be."""
    workers: int = 1
    """Steps at a time."""
    worker: Callable[[int], int | None] = lambda driver: None
    """The process of one that works now, for that of the command."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that an undisturbed run takes, roughly: they only spread the moments."""

    start: float
    """Until its first step."""
    step: float
    end: float
    """After its last step."""


class Fire:
    """A command under fire; a context manager, which leaves no process of it alive."""

    def __init__(self, command: Command, rng: random.Random) -> None:
        self._command, self._rng = command, rng
        self.hits: Counter[tuple[Kind, Phase]] = Counter()
        """Shots that hit a process that was alive."""
        self.starts = 0
        self._lost = 0
        self._is_done = self._is_endangered = False
        self._process: subprocess.Popen[bytes] | None = None
        # Short, for Ray's sockets are in it, and a mark: all of the command's processes carry it.
        self._temporary = tempfile.mkdtemp(prefix="nas-", dir="/tmp")

    def __enter__(self) -> "Fire":
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_all()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def measure(self) -> Pace:
        """Run the command undisturbed."""
        begun = time.monotonic()
        self._start()
        before = self._command.progress()
        self._wait(lambda: self._command.progress() > before)
        first = time.monotonic()
        self._wait(self._command.is_ending)
        last = time.monotonic()
        self._ended_by_itself()
        end = time.monotonic() - last
        return Pace(start=first - begun, step=(last - first) / self._command.steps, end=end)

    def shoot(self, shots: Sequence[Shot], pace: Pace) -> None:
        """Start the command, and start it again after every shot that ended it.

        Raises:
            AssertionError: A stop was not as it must be; the folder as the shot left it, for one.
        """
        for shot in shots:
            for _ in range(_RETRIES):
                if self._process is None:
                    self._start()
                if self._await(shot, pace) and self._strike(shot):
                    break
                self._ended_by_itself()
                shot = Shot(shot.kind, "end", shot.share / 2)  # earlier
            else:
                raise AssertionError(f"{shot} never hit a process that lived")
            self.hits[shot.kind, shot.phase] += 1

    def finish(self) -> None:
        """Let the command go on to its end."""
        if self._process is None:
            self._start()
        self._ended_by_itself()

    def _start(self) -> None:
        command = self._command
        self.starts += 1
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As in a shell's background job, which would let the command begin deaf to Ctrl-C too.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._output = command.cwd / f"output-{self.starts}.txt"
        self._before, self._was_ending = command.progress(), self._is_done or command.is_ending()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command.words],
                cwd=command.cwd,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    **command.environment,
                    "RAY_TMPDIR": self._temporary,
                    "TMPDIR": self._temporary,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await(self, shot: Shot, pace: Pace) -> bool:
        """Wait for the moment; False if the command ended before it."""
        command, began = self._command, time.monotonic()
        while self._is_endangered and self._is_alive():
            time.sleep(0.2)
            self._is_endangered = command.endangered(command.folder)
        if self._was_ending:
            return self._wait(lambda: False, (pace.start + pace.end) * shot.share)
        if shot.phase == "start":
            seconds = pace.start * shot.share
            self._wait(lambda: command.progress() > self._before, seconds)
        elif shot.phase == "middle":
            target = max(self._before + 1, round(command.steps * shot.share))
            self._wait(lambda: command.progress() >= target or command.is_ending())
            self._wait(lambda: False, pace.step * self._rng.random())
        else:
            self._wait(command.is_ending)
            self._wait(lambda: False, pace.end * shot.share)
        assert time.monotonic() - began < _SECONDS, f"waited in vain for {shot}: {self._words()}"
        return self._is_alive()

    def _wait(self, condition: Callable[[], bool], seconds: float = _SECONDS) -> bool:
        """Wait for the condition, so long, or until the process ends; whether it lives."""
        until = time.monotonic() + seconds
        while self._is_alive() and time.monotonic() < until and not condition():
            time.sleep(0.005)
        return self._is_alive()

    def _is_alive(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def _strike(self, shot: Shot) -> bool:
        """Shoot; whether it hit."""
        assert self._process is not None
        if shot.kind == "worker":
            return self._strike_worker()
        if shot.kind == "driver":
            self._process.kill()
        elif shot.kind == "group":
            os.killpg(self._process.pid, signal.SIGKILL)
            self._kill_all()  # Ray's workers lead groups of their own
        elif shot.kind == "pre-emption":
            self._process.terminate()
            self._wait(lambda: False, self._rng.uniform(0, 0.3))
            self._kill_all()
        else:
            self._process.send_signal(signal.Signals[shot.kind])
        status = self._process.wait(_SECONDS)
        number = signal.Signals[shot.kind] if shot.kind in ("SIGINT", "SIGTERM") else 9
        expected = {0, -number, 128 + number if number != 9 else -9}
        if shot.kind == "pre-emption":
            expected |= {-signal.SIGTERM, 128 + signal.SIGTERM}
        assert status in expected, f"{shot} gave status {status}: {self._words()}"
        if status == 0:  # it was just leaving by itself
            return False
        self._stopped(status)
        return True

    def _strike_worker(self) -> bool:
        assert self._process is not None
        while self._is_alive():
            worker = self._command.worker(self._process.pid)
            if worker is not None and worker != self._process.pid:
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                else:
                    self._lost += 1
                    self._before, self._is_endangered = self._command.progress(), True
                    return True
            time.sleep(0.005)
        return False

    def _ended_by_itself(self) -> None:
        assert self._process is not None
        status = self._process.wait(_SECONDS)
        assert status == 0, f"status {status}: {self._words()}"
        self._stopped(status)

    def _stopped(self, status: int) -> None:
        """Check what is left."""
        self._process, self._is_done = None, status == 0
        if status < 0:
            self._lost += self._command.workers
        words = self._words()
        if status != -signal.SIGINT:  # Python's own, until the command has put in its handler
            assert "Traceback" not in words, words
        stop = Stop(status, self._lost)
        copy = Path(self._temporary) / "copy"
        if self._command.folder.exists():
            shutil.copytree(self._command.folder, copy)
        else:
            copy.mkdir()
        try:
            self._command.check(copy, stop)
            self._is_endangered = self._command.endangered(copy)
        except AssertionError as error:
            error.add_note(f"after start {self.starts}, {stop}: {words}")
            raise
        shutil.rmtree(copy)

    def _words(self) -> str:
        return self._output.read_text(errors="replace")[-3000:]

    def _kill_all(self) -> None:
        """kill -9 of whatever carries the mark, until nothing does."""
        until = time.monotonic() + 20
        while (pids := _marked(self._temporary)) and time.monotonic() < until:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)
        if self._process is not None:
            self._process.wait(_SECONDS)


def _marked(mark: str) -> list[int]:
    """Processes that live and have the mark in their environment."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    pids.append(int(entry.name))
            except OSError:  # it ended, or is another user's
                continue
    return pids
