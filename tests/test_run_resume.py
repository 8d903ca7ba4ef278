"""`python -m nas.run` stopped, killed, changed, and started again."""

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nas import run
from tests import searching
from tests.searching import calls, wait_for
from tests.terminal import terminal
from tests.toy_runs import config_of, run_toy, trials_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A working directory with the user's own module in it."""
    shutil.copy(searching.__file__, tmp_path / "my_module.py")
    return tmp_path


def _start(workplace: Path, words: list[str]) -> subprocess.Popen[str]:
    assert words[0] == "python"
    return subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _command(*flags: str) -> list[str]:
    own = ["--evaluator", "my_module:noting", "--space", "my_module:space"]
    return ["python", "-m", "nas.run", *own, "--trials", "12", "--finalists", "0", *flags]


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """How every slot ended: choices and value."""
    ends = table.query("state == 'COMPLETE'").sort_values("slot").reset_index(drop=True)
    ends = ends.astype({"reward": float, "accuracy": float})
    blocks = [name for name in ends.columns if name.startswith("block")]
    return ends.loc[:, ["slot", "reward", "accuracy", "digest", *blocks]]


@pytest.mark.slow
def test_row_1_a_killed_run_ends_as_an_uninterrupted_one(workplace: Path) -> None:
    """The ballistic test: kill -9 at a random moment, the same command again."""
    folder = workplace / "runs/search"
    for enough in (2, 6):
        with _start(workplace, _command()) as driver:
            wait_for(lambda enough=enough: len(calls(workplace)) >= enough, "trials")
            time.sleep(random.uniform(0, 0.2))
            driver.kill()
        assert not list(folder.glob("*.csv.*"))
    with _start(workplace, _command()) as driver:
        out, err = driver.communicate()
    assert driver.returncode == 0, err
    assert "resume  search: " in out

    table = trials_of(folder)
    assert sorted(table.slot[table.state == "COMPLETE"]) == list(range(12))
    assert set(table.reason[table.state == "FAIL"]) <= {"orphaned"}
    called = [call["digest"] for call in calls(workplace)]
    assert len(called) <= len(table)
    assert all(called.count(digest) <= (table.digest == digest).sum() for digest in called)

    undisturbed = workplace / "runs/undisturbed"
    flags = ["--evaluator", "tests.searching:accuracy", "--space", "tests.searching:space"]
    assert run_toy(undisturbed, *flags, "--trials", "12") == 0
    pd.testing.assert_frame_equal(_ends(table), _ends(trials_of(undisturbed)))


@pytest.mark.slow
def test_row_24_ctrl_c_in_a_terminal_saves_and_names_the_command_that_goes_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(_command("--run-dir", "my run", "--w", "-0.125")[1:], workplace) as shown:
        wait_for(lambda: len(calls(workplace)) >= 3, "three trials")
        shown.press_ctrl_c()
        assert shown.wait() == 130
    assert "Traceback" not in shown.text
    _goes_on_from(shown.text, workplace, monkeypatch)


@pytest.mark.slow
def test_row_25_sigterm_saves_and_names_the_command_that_goes_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _start(workplace, _command("--run-dir", "my run", "--w", "-0.125")) as driver:
        wait_for(lambda: len(calls(workplace)) >= 3, "three trials")
        driver.send_signal(signal.SIGTERM)
        out, err = driver.communicate()
    assert (driver.returncode, err) == (143, "")
    _goes_on_from(out, workplace, monkeypatch)


@pytest.mark.slow
def test_row_24_a_second_ctrl_c_ends_at_once_what_does_not_listen(workplace: Path) -> None:
    (workplace / "deadly").touch()
    command = _command("--trials", "4", "--strategy", "random")
    command[command.index("my_module:noting")] = "my_module:deaf_to_ctrl_c"
    with terminal(command[1:], workplace) as shown:
        wait_for((workplace / "listening").exists, "the trial that does not listen")
        shown.press_ctrl_c()
        wait_for((workplace / "heard").exists, "the first Ctrl-C")
        assert shown.process.poll() is None
        shown.press_ctrl_c()
        assert shown.wait() == 130
    assert "saved" not in shown.text
    with _start(workplace, command) as driver:
        _, err = driver.communicate()
    assert driver.returncode == 0, err
    table = trials_of(workplace / "runs/search")
    assert sorted(table.slot[table.state == "COMPLETE"]) == [0, 1, 2, 3]
    assert list(table.reason[table.state == "FAIL"]) == ["orphaned"]


def _goes_on_from(out: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is whole, and the command that was printed does the rest."""
    before = trials_of(workplace / "my run")
    assert set(before.state) <= {"COMPLETE", "FAIL"}
    assert list(before.reason[before.state == "FAIL"]) in ([], ["interrupted"])

    resume = next(line for line in out.splitlines() if "Resume with: " in line)
    python, dash_m, module, *flags = shlex.split(resume.partition("Resume with: ")[2])
    assert (python, dash_m, module) == ("python", "-m", "nas.run")
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    assert run.main(flags) == 0
    after = trials_of(workplace / "my run")
    pd.testing.assert_frame_equal(after.head(len(before)), before, check_dtype=False)
    assert sorted(after.slot[after.state == "COMPLETE"]) == list(range(12))
    assert len(calls(workplace)) <= len(after)


@pytest.mark.slow
def test_row_20_a_second_driver_is_refused_until_the_first_is_killed(workplace: Path) -> None:
    command = _command("--trials", "4", "--strategy", "random")
    with _start(workplace, [*command, "--trials", "1000"]) as first:
        wait_for(lambda: calls(workplace), "a trial")
        with _start(workplace, command) as second:
            _, err = second.communicate()
        assert second.returncode == 2
        assert f"runs/search is in use by process {first.pid}." in err
        first.kill()
    with _start(workplace, command) as third:
        _, err = third.communicate()
    assert third.returncode == 0, err


def test_a_finished_search_says_that_nothing_is_left_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--evaluator", "tests.searching:noting", "--trials", "3", "--run-dir", "run"]
    flags += ["--finalists", "1", "--finalist-seeds", "1", "--epochs", "2"]
    monkeypatch.chdir(tmp_path)
    assert run.main([*flags, "--target-flops", "1.2G"]) == 0
    first = capsys.readouterr().out
    assert "left  " not in first
    assert "done  " not in first
    number = len(calls(tmp_path))
    assert run.main([*flags, "--target-flops", "1.2G"]) == 0
    again = capsys.readouterr().out
    assert "\nleft    nothing\n" in again
    assert again.count("all trials are finished") == 4  # both searches, finalists, stock B0
    assert "done    run holds this search, finished; nothing was repeated" in again
    assert len(calls(tmp_path)) == number
    assert (tmp_path / "run/report.md").read_text().count("left  ") == 0

    more = [*flags, "--target-flops", "1.2G", "--trials", "5"]
    assert run.main([*more, "--dry-run"]) == 0
    words = "2 trials of the search, 2 trials of random search, at most 3 trainings of finalists"
    assert f"\nleft    {words} · " in capsys.readouterr().out
    assert run.main([*more, "--finalists", "0"]) == 0
    output = capsys.readouterr().out
    assert "\nleft    2 trials of the search · " in output
    assert "done  " not in output


def test_row_22_trials_workers_and_finalists_may_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy(tmp_path, "--trials", "4") == 0
    before = trials_of(tmp_path)
    assert run_toy(tmp_path, "--trials", "7", "--workers", "2", "--finalists", "1") == 0
    assert "resume  search: 4 of 7 trials are finished" in capsys.readouterr().out
    after = trials_of(tmp_path)
    pd.testing.assert_frame_equal(after.head(4), before, check_dtype=False)
    assert len(after) == 7
    assert config_of(tmp_path)["settings"]["trials"] == 7


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target-flops", "600M"], "target_flops was 400M, now 600M"),
        (["--w", "-0.1"], "w was -0.07, now -0.1"),
        (["--space", "efficientnet"], "space was 'mnasnet', now 'efficientnet'"),
        (["--seed", "1"], "seed was 0, now 1"),
        (["--strategy", "random"], "strategy was 'guided', now 'random'"),
        (["--epochs", "9"], "epochs was 5, now 9"),
        (["--hard"], "hard was False, now True"),
        (["--halving"], "halving was False, now [1, 3]"),
        (["--cost", "params"], "cost was 'macs', now 'params'"),
        (["--pareto", "--strategy", "nsga2"], "pareto was False, now True"),
        (["--resolution", "192", "--target-flops", "400M"], "resolution was 224, now 192"),
        (["--evaluator", "tests.searching:accuracy"], "evaluator was 'tests.searching:large_kern"),
    ],
)
def test_row_22_changed_conditions_are_refused(
    flags: list[str], words: str, finished_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished_toy / "trials.csv").read_bytes()
    assert run_toy(finished_toy, *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Restore them, or choose a new --run-dir." in error
    assert (finished_toy / "trials.csv").read_bytes() == before


@pytest.fixture(scope="module")
def finished_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    assert run_toy(folder, "--trials", "2") == 0
    return folder
