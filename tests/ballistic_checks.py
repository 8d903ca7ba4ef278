"""What must hold of a run folder at every stop of the ballistic test, whatever stopped it."""

import csv
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from safetensors import safe_open

from nas.folder import MANIFEST, Stamp, read_manifest
from nas.training import checkpoint
from nas.trials.record import all_records, outcome_of
from tests.ballistic import Stop

LOST = ("orphaned", "worker-lost")
MAX_LOST = 2
"""How often a slot is queued again after its process died."""


def assert_files_are_whole(folder: Path) -> None:
    """Whatever has a final name can be read to its end."""
    for path in folder.rglob("*"):
        # SQLite keeps a journal beside its file, and has its own way to read that.
        if path.is_file() and not path.name.startswith((".", "study.db-")):
            assert path.stat().st_size, f"{path.name} is empty"
            _READERS.get(path.suffix, Path.read_bytes)(path)
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder / MANIFEST)
        for name in manifest.files:
            assert manifest.vouches(name, Stamp.at(folder / name)), f"{name} is another file"


def _read_csv(path: Path) -> None:
    content = path.read_text()
    assert content.endswith("\n"), f"{path.name} is cut off"
    assert len({len(row) for row in csv.reader(content.splitlines())}) == 1, path.name


def _read_weights(path: Path) -> None:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            file.get_tensor(name)


def _read_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": _read_csv,
    ".png": _read_image,
    ".safetensors": _read_weights,
    ".db": _read_database,
}


def trials_of(folder: Path) -> dict[str, list[FrozenTrial]]:
    """Studies of a run folder's record by name, their trials by number."""
    if not (folder / "study.db").exists():
        return {}
    found = {}
    for record in all_records(folder / "study.db"):
        found[record.name] = sorted(record.trials(), key=lambda trial: trial.number)
        record.close()
    return found


def ends(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """How every slot of every study ended: number, network, choices, values."""
    return {
        name: [
            (t.user_attrs["slot"], t.user_attrs["digest"], t.user_attrs["choices"], t.values)
            for t in sorted(trials, key=lambda t: t.user_attrs["slot"])
            if t.state == TrialState.COMPLETE
        ]
        for name, trials in trials_of(folder).items()
    }


class RecordChecks:
    """The invariants of a search's record, over all stops of its command.

    Args:
        calls: Lines that the evaluator wrote, one a call, of all starts.
        line: A trial's line among them.
        workers: Calls at a time.
    """

    def __init__(
        self,
        calls: Callable[[], list[str]],
        line: Callable[[Mapping[str, Any]], str],
        workers: int = 1,
    ) -> None:
        self._calls, self._line, self._workers = calls, line, workers
        self._finished: dict[str, int] = {}
        self._running: set[int] = set()

    def __call__(self, folder: Path, stop: Stop) -> None:
        """Check what stands at a stop.

        Raises:
            AssertionError: It is not as it must be.
        """
        assert_files_are_whole(folder)
        trials = trials_of(folder)
        for study in trials.values():
            self._check_study(study, stop)
        everything = [trial for study in trials.values() for trial in study]
        lost = [t._trial_id for t in everything if _ended(t) and outcome_of(t).reason in LOST]
        assert len(lost) <= stop.lost, lost
        running = {t._trial_id for t in everything if t.state == TrialState.RUNNING}
        if stop.status < 0:
            assert len(running) <= self._workers, running
        else:  # told to leave while it started, it has not yet buried those of the kill before
            assert running <= self._running, running - self._running
        self._running = running
        self._check_calls(everything)

    def endangered(self, folder: Path) -> bool:
        """Whether some slot would be given up if its process died once more."""
        for study in trials_of(folder).values():
            lost: Counter[int] = Counter()
            for trial in study:
                slot = trial.user_attrs["slot"]
                lost[slot] += not _ended(trial) or outcome_of(trial).reason in LOST
                if trial.state == TrialState.COMPLETE:
                    del lost[slot]
            if max(lost.values(), default=0) >= MAX_LOST:
                return True
        return False

    def _check_study(self, study: list[FrozenTrial], stop: Stop) -> None:
        assert [trial.number for trial in study] == list(range(len(study)))
        slots: dict[int, list[FrozenTrial]] = defaultdict(list)
        for trial in study:
            slots[trial.user_attrs["slot"]].append(trial)
        assert sorted(slots) == list(range(len(slots)))  # none left out, none beyond the budget
        for slot, (*lost, last) in slots.items():
            assert {trial.state for trial in lost} <= {TrialState.FAIL}, slot
            assert {outcome_of(trial).reason for trial in lost} <= {*LOST, "interrupted"}, slot
            attempts = [trial.user_attrs["attempt"] for trial in (*lost, last)]
            expected = Counter(outcome_of(trial).reason in LOST for trial in lost)[True]
            assert attempts[-1] == expected <= MAX_LOST, slot
            if stop.status == 0:
                assert last.state == TrialState.COMPLETE, slot

    def _check_calls(self, trials: list[FrozenTrial]) -> None:
        """What the record ever held as finished was not measured again."""
        calls = Counter(self._calls())
        again = {key for key, count in self._finished.items() if calls[key] > count}
        assert not again, "measured again"
        attempts = Counter(self._line(t.user_attrs) for t in trials if not _is_reused(t))
        assert calls <= attempts, calls - attempts
        for trial in trials:
            if trial.state == TrialState.COMPLETE:
                key = self._line(trial.user_attrs)
                self._finished.setdefault(key, calls[key])


def _ended(trial: FrozenTrial) -> bool:
    return "outcome" in trial.user_attrs


def _is_reused(trial: FrozenTrial) -> bool:
    return _ended(trial) and bool(outcome_of(trial).reused_from)


class TrainingChecks:
    """The invariants of a training's folder, over all stops of its command.

    Args:
        printed: Numbers of the epochs of which a line was printed, of all starts.
    """

    def __init__(self, printed: Callable[[], list[int]]) -> None:
        self._printed = printed
        self._saved = 0

    def __call__(self, folder: Path, stop: Stop) -> None:
        """Check what stands at a stop.

        Raises:
            AssertionError: It is not as it must be.
        """
        assert_files_are_whole(folder)
        printed = self._printed()
        assert len(set(printed)) == len(printed), "an epoch was trained again"
        state, damaged = checkpoint.load(folder)
        assert not damaged
        saved = 0 if state is None else state["trainer"]["epoch"]
        assert saved >= max([self._saved, *printed])
        self._saved = saved
