"""`python -m scaling_search.validate` stopped, killed, changed, and started again."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from scaling_search.validate import main
from tests.validate_evaluators import SMALL, arguments

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The baseline's file."""
    file = tmp_path / "small.json"
    file.write_text(SMALL.to_json())
    return file


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--seed", "1"], "seed was 0, now 1"),
        (["--epochs", "9"], "epochs was 5, now 9"),
        (["--cost", "activations"], "cost was 'macs', now 'activations'"),
        (["--resolution", "32"], f"baseline was '{SMALL.digest}', now '"),
    ],
)
def test_changed_conditions_are_refused(
    flags: list[str],
    difference: str,
    tmp_path: Path,
    small: Path,
    calls: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    assert main(arguments(small, run_dir, "--seeds", "1")) == 0
    before = calls.read_text()
    assert main(arguments(small, run_dir, "--seeds", "1", *flags)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run_dir} was started with other conditions: ")
    assert difference in line
    assert calls.read_text() == before


def test_ctrl_c_saves_and_says_how_to_go_on(
    tmp_path: Path,
    small: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_STOP", "5")
    run_dir = tmp_path / "run"
    assert main(arguments(small, run_dir, "--seeds", "2")) == 130
    line = capsys.readouterr().out.splitlines()[-1]
    command = line.removeprefix("^C      saved. Resume with: python -m scaling_search.validate ")
    trials = pd.read_csv(run_dir / "trials.csv")
    assert trials["state"].tolist().count("COMPLETE") == 4
    assert not (run_dir / "validate.csv").exists()
    monkeypatch.delenv("GRID_STOP")
    assert main(shlex.split(command)) == 0
    assert len(set(calls.read_text().splitlines())) == 14


def _start(argv: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scaling_search.validate", *argv],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_kill_and_start_again_repeats_nothing_and_ends_the_same(
    tmp_path: Path, small: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle, then the same command; beside it a run left alone."""
    monkeypatch.setenv("GRID_NOISE", "0.01")
    argv = arguments(small, tmp_path / "killed", "--seeds", "2")
    process = _start(argv, GRID_SECONDS="0.2")
    deadline = time.monotonic() + 60
    while len(calls.read_text().splitlines()) < 6:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "validate.csv").exists()
    assert main(argv) == 0
    counts = Counter(calls.read_text().splitlines())
    assert len(counts) == 14
    assert sum(counts.values()) <= 14 + 1  # what ran when the process died, at most
    assert main(arguments(small, tmp_path / "whole", "--seeds", "2")) == 0
    for name in ("validate.csv", "validate.md"):
        assert (tmp_path / "killed" / name).read_text() == (
            tmp_path / "whole" / name
        ).read_text().replace("whole", "killed")
