"""`python -m scaling_search.grid` stopped, killed, and started again; and on Ray workers."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from nas.trials.record import all_records
from scaling_search.grid import main
from tests.grid_evaluators import TINY, arguments, read_constants

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A baseline's file and the folder of a finished run."""
    folder = tmp_path_factory.mktemp("started")
    (folder / "tiny.json").write_text(TINY.to_json())
    assert main(arguments(folder / "tiny.json", folder / "run", "--seeds", "1")) == 0
    return folder / "tiny.json", folder / "run"


def _start(argv: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scaling_search.grid", *argv],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_calls(calls: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(calls.read_text().splitlines()) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


class AtKill(NamedTuple):
    """What stood when a process was killed; a call may have ended that was not yet on record."""

    finished: set[str]
    counts: Counter[str]

    def repeated(self, counts: Counter[str]) -> set[str]:
        """What was finished then and measured again later, by the counts of then."""
        return {key for key in self.finished if counts[key] > self.counts[key]}


def _kill_at(number: int, argv: Sequence[str], run_dir: Path, calls: Path) -> AtKill:
    """Start the command, and kill -9 it after so many calls."""
    process = _start(argv, GRID_SECONDS="0.2")
    _wait_for_calls(calls, number, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return AtKill(_finished(run_dir), Counter(calls.read_text().splitlines()))


def _finished(run_dir: Path) -> set[str]:
    """What the record holds as finished, as the evaluator notes it."""
    records = all_records(run_dir / "study.db")
    trials = [trial for record in records for trial in record.trials()]
    for record in records:
        record.close()
    return {
        f"{trial.user_attrs['digest']} {trial.user_attrs['seed']}"
        for trial in trials
        if trial.state.name == "COMPLETE"
    }


@pytest.mark.slow
def test_kill_and_start_again_repeats_nothing_and_ends_the_same(
    tmp_path: Path, baseline: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 twice in the middle, then the same command; beside it a run left alone."""
    monkeypatch.setenv("GRID_NOISE", "0.01")
    run_dir = tmp_path / "killed"
    argv = arguments(baseline, run_dir, "--full", "--seeds", "2")
    at_kills = [_kill_at(number, argv, run_dir, calls) for number in (4, 9)]
    assert 0 < len(at_kills[-1].finished) < 18
    assert not (run_dir / "constants.json").exists()
    assert main(argv) == 0

    counts = Counter(calls.read_text().splitlines())
    assert all(at_kill.repeated(counts) == set() for at_kill in at_kills)
    assert sum(counts.values()) <= 18 + 2  # what ran when the process died, at most
    calls.write_text("")
    assert main(arguments(baseline, tmp_path / "whole", "--full", "--seeds", "2")) == 0
    assert set(calls.read_text().splitlines()) == set(counts)
    for name in ("constants.json", "grid.csv"):
        assert (run_dir / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.slow
def test_a_killed_race_goes_on_as_if_it_had_not_been(
    tmp_path: Path, baseline: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the first round and in a later one: the same trainings, the same constants."""
    monkeypatch.setenv("GRID_NOISE", "0.01")
    run_dir = tmp_path / "killed"
    argv = arguments(baseline, run_dir)
    at_kills = [_kill_at(number, argv, run_dir, calls) for number in (5, 12)]
    assert main(argv) == 0
    counts = Counter(calls.read_text().splitlines())
    assert all(at_kill.repeated(counts) == set() for at_kill in at_kills)
    calls.write_text("")
    assert main(arguments(baseline, tmp_path / "whole")) == 0
    assert set(calls.read_text().splitlines()) == set(counts)
    for name in ("constants.json", "grid.csv"):
        assert (run_dir / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path,
    baseline: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_STOP", "5")
    run_dir = tmp_path / "run"
    argv = arguments(baseline, run_dir, "--seeds", "1")
    assert main(argv) == 130
    line = capsys.readouterr().out.splitlines()[-1]
    command = line.removeprefix("^C      saved. Resume with: python -m scaling_search.grid ")
    monkeypatch.delenv("GRID_STOP")
    finished = _finished(run_dir)
    assert len(finished) == 4
    assert main(shlex.split(command)) == 0
    counts = Counter(calls.read_text().splitlines())
    assert {counts[key] for key in finished} == {1}
    assert read_constants(run_dir)["evidence"]["trials"] == 9


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--step", "0.05"], "step was 0.1, now 0.05"),
        (["--tolerance", "0.2"], "tolerance was 0.1, now 0.2"),
        (["--seed", "1"], "seed was 0, now 1"),
        (["--epochs", "9"], "epochs was 5, now 9"),
        (["--select", "measured"], "select was 'formula', now 'measured'"),
        (["--candidates", "5"], "candidates was 24, now 5"),
        (["--max-beta", "1.3"], "bounds was [1.4, 1.2, 1.2], now [1.4, 1.3, 1.2]"),
        (["--depth-rounding", "round"], "depth was 'ceil', now 'round'"),
        (["--evaluator", "tests.grid_evaluators:paper"], "evaluator was 'tests.grid_evaluators:p"),
        (["--baseline", "mobilenet-v2"], f"baseline was '{TINY.digest}', now '"),
    ],
)
def test_a_changed_grid_is_refused_with_the_difference(
    flags: list[str],
    difference: str,
    tmp_path: Path,
    started: tuple[Path, Path],
    calls: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    baseline, run_dir = started
    before = (run_dir / "constants.json").read_bytes()
    assert main([*arguments(baseline, run_dir, "--seeds", "1"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run_dir} was started with other conditions: ")
    assert difference in line
    assert line.endswith("Restore them, or choose a new --run-dir.")
    assert calls.read_text() == ""
    assert (run_dir / "constants.json").read_bytes() == before


@pytest.mark.slow
def test_more_seeds_later_reuse_what_was_measured(
    tmp_path: Path, baseline: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.01")
    run_dir = tmp_path / "run"
    assert main(arguments(baseline, run_dir, "--seeds", "1")) == 0
    assert main(arguments(baseline, run_dir, "--full", "--seeds", "3")) == 0
    counts = Counter(calls.read_text().splitlines())
    assert (len(counts), set(counts.values())) == (27, {1})
    trials = pd.read_csv(run_dir / "trials.csv")
    assert trials.groupby("study").size().tolist() == [9, 9, 9]
    assert not trials.duplicated(["study", "number"]).any()

    assert main(arguments(baseline, tmp_path / "at once", "--full", "--seeds", "3")) == 0
    assert read_constants(run_dir) == read_constants(tmp_path / "at once")


def test_the_same_command_again_measures_nothing(
    started: tuple[Path, Path], calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline, run_dir = started
    before = (run_dir / "constants.json").read_bytes()
    assert main(arguments(baseline, run_dir, "--seeds", "1")) == 0
    assert calls.read_text() == ""
    assert (run_dir / "constants.json").read_bytes() == before
    assert "best    1." in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_workers_give_what_one_process_gives(
    tmp_path: Path, baseline: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.01")
    argv = arguments(baseline, tmp_path / "ray", "--full", "--seeds", "2", "--workers", "2")
    process = _start(argv, GRID_SECONDS="0.3")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert "2 at a time (1 thread each) on Ray Tune" in output
    counts = Counter(calls.read_text().splitlines())
    assert (len(counts), set(counts.values())) == (18, {1})
    assert main(arguments(baseline, tmp_path / "alone", "--full", "--seeds", "2")) == 0
    assert read_constants(tmp_path / "ray") == read_constants(tmp_path / "alone")
