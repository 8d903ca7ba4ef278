"""Commands in bad places: rows 6, 17 and 26 of the fault matrix, and flags that name no place."""

import ast
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from nas import export, proxy, run, train
from nas.data.dataset import DataError, open_source
from nas.training import trainer
from scaling_search import family, grid, validate
from search_spaces.files import FolderError, exclusive
from tests.grid_evaluators import TINY
from tests.models import SMALL, trained
from tests.trees import plant

ROOT = Path(__file__).parents[1]
TOY = ["--evaluator", "tests.searching:accuracy", "--space", "tests.searching:space"]
TOY += ["--strategy", "random", "--finalists", "0", "--epochs", "1"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_row_6_a_loss_that_is_no_number_ends_the_trial_at_that_step(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three trainings, at its fourth step."""
    steps: list[int] = []
    run_epoch = trainer.Trainer.run_epoch

    def noted(self: trainer.Trainer) -> float:
        steps.append(0)
        return run_epoch(self)

    def poisoned(*inputs: Any, **options: Any) -> torch.Tensor:
        loss = cross_entropy(*inputs, **options)
        if not steps:  # of the estimate
            return loss
        steps[-1] += 1
        return loss * value if steps[0] == 4 and len(steps) == 1 else loss

    monkeypatch.setattr(trainer.Trainer, "run_epoch", noted)
    monkeypatch.setattr(trainer, "cross_entropy", poisoned)
    flags = ["--data", "digits", "--max-images", "100", "--epochs", "1", "--strategy", "random"]
    assert run.main([*flags, "--trials", "3", "--finalists", "0", "--run-dir", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False)
    assert list(table.state) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert list(table.reason) == ["nan", "", ""]
    assert table.reward[0] == ""
    assert steps[0] == 4 < steps[1]
    assert f"{value} loss at step 3" in (tmp_path / "failures.txt").read_text()
    assert "failed  1 of 3 trials: 1 nan" in (tmp_path / "report.md").read_text()


BLOCKED: dict[Callable[..., int], list[str]] = {
    run.main: ["--data", "no-such-data"],
    proxy.main: ["--data", "no-such-data"],
    grid.main: ["--data", "no-such-data", "--baseline", "no-such-network"],
    validate.main: ["--data", "no-such-data", "--baseline", "no-such-network"],
    train.main: ["--data", "no-such-data", "--arch", "no-such-network"],
}


@pytest.mark.parametrize("main", BLOCKED, ids=lambda main: main.__module__)
@pytest.mark.parametrize("place", ["file/run", "file", "n" * 300, "loop/run", "/proc/run"])
def test_row_17_output_that_cannot_be_written_ends_it_before_anything_is_read(
    main: Callable[..., int],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    flag = "--out" if main is train.main else "--run-dir"
    assert main([*BLOCKED[main], flag, place]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: `{flag} {place}` cannot be written: ")
    assert "no-such" not in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True])
def test_row_17_on_a_read_only_mount(existing: bool, tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("no mounts of one's own here")
    folder = tmp_path / "run"
    if existing:
        assert run.main([*TOY, "--trials", "2", "--run-dir", str(folder)]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    mount = f"mount --bind -o ro {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    command = [sys.executable, "-m", "nas.run", "--data", "no-such-data", "--run-dir", str(folder)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: `--run-dir {folder}` cannot be written: [Errno 30]")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_row_17_of_an_export_and_of_a_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    weights = trained(tmp_path, SMALL)
    out = ["--out", str(tmp_path / "file" / "out")]
    assert export.main(["--weights", str(weights), *out]) == 2
    constants = ["--alpha", "1.2", "--beta", "1.1", "--gamma", "1.15", "--no-measure"]
    assert family.main(["--baseline", "mobilenet-v2", *constants, "--phi", "1", *out]) == 2
    assert capsys.readouterr().err.count("file/out cannot be written: ") == 2


@pytest.mark.parametrize("name", ["trials.csv", "report.md", "config.json", "finalists"])
def test_a_folder_or_file_in_the_place_of_ours_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends in one line, and goes on when the place is free."""
    path = tmp_path / name
    path.touch() if name == "finalists" else path.mkdir()
    flags = [*TOY, "--trials", "2", "--finalists", "1", "--finalist-seeds", "1"]
    flags += ["--run-dir", str(tmp_path)]
    assert run.main(flags) == 2
    assert str(path) in capsys.readouterr().err.splitlines()[-1]
    path.unlink() if name == "finalists" else path.rmdir()
    assert run.main(flags) == 0


def test_row_20_a_child_that_outlives_the_driver_does_not_hold_the_folder(tmp_path: Path) -> None:
    """As loaders of images do, for seconds."""
    program = (
        "import os, sys, time; from pathlib import Path\n"
        "from search_spaces.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), '--out'):\n"
        "    child = os.fork()\n"
        "    if not child: print(os.getpid(), flush=True)\n"
        "    time.sleep(600)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        try:
            with pytest.raises(FolderError, match=rf"in use by process {driver.pid}\."):
                _enter(tmp_path)
            driver.kill()
            driver.wait()
            os.kill(child, 0)
            _enter(tmp_path)
        finally:
            os.kill(child, signal.SIGKILL)


def _enter(folder: Path) -> None:
    with exclusive(folder, "--out"):
        pass


def _jumping(now: Callable[[], float]) -> Callable[[], float]:
    jumps = cycle([0.0, -1e6, 3e8, -3.0, 86400.0])
    return lambda: now() + next(jumps)


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back by days and forward by years, all the time."""
    wall = _jumping(time.time)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 1) + timedelta(seconds=wall() % 1e9)

    monkeypatch.setattr(time, "time", wall)
    monkeypatch.setattr("nas.trials.rows.datetime", Jumping)
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", Jumping)


def _tables(folder: Path) -> Iterator[pd.DataFrame]:
    for file in sorted(folder.glob("*.csv")):
        yield pd.read_csv(file).drop(columns=["seconds"], errors="ignore")


def test_row_26_durations_and_order_do_not_follow_the_clock(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TOY, "--epochs", "9", "--halving", "--trials", "12", "--trial-minutes", "5"]
    assert run.main([*flags, "--run-dir", str(tmp_path / "steady")]) == 0
    capsys.readouterr()
    request.getfixturevalue("jumping_clock")
    for trials in ("6", "12"):
        flags[flags.index("--trials") + 1] = trials
        assert run.main([*flags, "--run-dir", str(tmp_path / "jumping")]) == 0
    etas = re.findall(r"eta (\S+)", capsys.readouterr().out)
    assert len(etas) == 12
    assert all(re.fullmatch(r"0:\d\d", eta) for eta in etas)
    table = pd.read_csv(tmp_path / "jumping" / "trials.csv")
    assert list(table.number) == list(range(12))
    assert table.seconds.between(0, 60).all()
    for steady, jumping in zip(
        _tables(tmp_path / "steady"), _tables(tmp_path / "jumping"), strict=True
    ):
        pd.testing.assert_frame_equal(steady, jumping)


def test_row_26_hours_of_a_grid_do_not_follow_the_clock(
    tmp_path: Path, jumping_clock: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    named = ["--baseline", str(tmp_path / "tiny.json"), "--run-dir", str(tmp_path / "run")]
    evaluator = ["--evaluator", "tests.grid_evaluators:peaked", "--hours", "1", "--seeds", "1"]
    assert grid.main([*named, *evaluator, "--full", "--candidates", "6"]) == 0
    assert len(pd.read_csv(tmp_path / "run" / "trials.csv")) == 6


def test_row_26_the_time_of_day_is_asked_for_to_note_it_only() -> None:
    clocks = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today")
    found = {
        str(file.relative_to(ROOT))
        for package in ("search_spaces", "nas", "scaling_search")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in clocks
    }
    assert found == {"nas/trials/rows.py"}  # when a trial began, as Optuna's own do


def test_data_that_is_no_name_at_all() -> None:
    """As of a shell's variable that is not set; as a path it would be the folder one is in."""
    with pytest.raises(DataError, match=r"^`--data` is empty\. "):
        open_source("")


def test_links_that_cannot_be_followed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc has them: even where they lead to is a secret."""
    root = plant(tmp_path, {"train/a": 2, "train/b": 2})
    (root / "train/a/secret.png").symlink_to("000.png")
    realpath = os.path.realpath

    def refused(path: Any, **options: Any) -> str:
        if str(path).endswith("secret.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return realpath(path, **options)

    monkeypatch.setattr("os.path.realpath", refused)
    source = open_source(str(root))
    problems = [reading.problem for reading in source.train.read({}) if reading.problem]
    assert problems == ["link that cannot be followed: Permission denied"]
