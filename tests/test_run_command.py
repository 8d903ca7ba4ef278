"""`python -m nas.run`, as it is called: files, resumption after a kill, refusals."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from nas import run
from nas.search.strategies import STRATEGIES
from scaling_search import grid
from search_spaces.architecture import Architecture
from search_spaces.spaces import SPACES
from search_spaces.zoo import load_architecture
from tests import searching
from tests.searching import calls, wait_for
from tests.terminal import terminal

ROOT = Path(__file__).parents[1]
COLUMNS = ["number", "state", "reward", "accuracy", "macs", "params", "seconds", "reason"]
TOY = ["--evaluator", "tests.searching:large_kernels", "--finalists", "0"]


def _main(folder: Path, *flags: str) -> int:
    return run.main([*TOY, "--run-dir", str(folder), *flags])


def _table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trials.csv", keep_default_na=False).sort_values("number")


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.slow
def test_200_trials_find_the_optimum_of_a_toy(tmp_path: Path) -> None:
    assert _main(tmp_path, "--trials", "200", "--w", "0") == 0
    baseline = Architecture.from_json((tmp_path / "baseline.json").read_text())
    assert [stage.block.kernel for stage in baseline.stages] == [5] * 7
    assert SPACES["mnasnet"](224, 1000, 400e6).encode(baseline)
    table = _table(tmp_path)
    assert len(table) == 200
    assert set(table.state) == {"COMPLETE"}
    assert table.reward.astype(float).max() == 1.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with finalists."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--trials", "12", "--target-flops", "400M", "--epochs", "2"]
    evaluator = ["--evaluator", "tests.searching:accuracy"]
    finalists = ["--finalists", "2", "--finalist-seeds", "2"]
    assert run.main([*evaluator, "--run-dir", str(folder), *flags, *finalists]) == 0
    return folder


def test_a_run_leaves_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("baseline.json", "config.json", "finalists", "finalists.csv", "manifest.json"),
        *("pareto.png", "random.csv", "report.md", "study.db", "trials.csv"),
    }
    for file in (finished / "finalists").iterdir():
        assert load_architecture(file).resolution == 224


def test_trials_have_the_columns_that_others_script_against(finished: Path) -> None:
    for file in ("trials.csv", "random.csv"):
        table = pd.read_csv(finished / file)
        assert list(table.columns[:8]) == COLUMNS
        assert list(table.number) == list(range(12))
        assert {"slot", "attempt", "epochs", "seed", "digest", "reused_from"} <= set(table.columns)
        assert sum(name.startswith("block") for name in table.columns) == 42
    assert pd.read_csv(finished / "finalists.csv").origin.isin(["stock B0"]).sum() == 1


def test_the_study_is_an_optuna_study(finished: Path) -> None:
    storage = f"sqlite:///{finished / 'study.db'}"
    study = optuna.load_study(study_name="search", storage=storage)
    table = _table(finished)
    assert [t.value for t in study.trials] == table.reward.tolist()
    assert [t.user_attrs["macs"] for t in study.trials] == table.macs.tolist()
    study._storage.remove_session()  # type: ignore[attr-defined]


def test_the_config_says_what_was_asked(finished: Path) -> None:
    config = _config(finished)
    assert config["conditions"]["target_macs"] == 400e6
    assert config["conditions"]["evaluator"] == "tests.searching:accuracy"
    assert config["settings"]["trials"] == 12


def test_the_report_compares(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    for words in ("stock EfficientNet-B0 at the same", "random search", "T = 400M", "| stock B0"):
        assert words in report


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(tmp_path / "run", "--dry-run", "--target-flops", "1.2G") == 0
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr().out
    assert "T = 1.2G multiply-adds" in output
    assert (
        "plan    50 trials x 5 epochs by guided, 1 at a time (1 thread) in this process" in output
    )


def test_a_dry_run_says_what_a_begun_folder_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert _main(folder, "--trials", "2") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert _main(folder, "--trials", "3", "--dry-run") == 0
    assert _main(folder, "--trials", "2", "--seed", "9", "--dry-run") == 2
    assert "was started with other conditions: seed was 0, now 9" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "study.db").write_bytes(b"no database")
    assert _main(folder, "--trials", "2", "--dry-run") == 2
    assert "study.db" in capsys.readouterr().err


def test_the_terminal_shows_progress_and_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    flags = ["--epochs", "7", "--cost", "params", "--trial-minutes", "9"]
    assert _main(folder, "--trials", "3", "--seed", "4", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    trials = [line for line in lines if line.lstrip().startswith("#")]
    assert len(trials) == 3
    assert "* best" in trials[0]
    assert "eta" in trials[2]
    words = shlex.split(lines[-1])
    assert words[:4] == ["next", "python", "-m", "scaling_search.grid"]
    assert words[words.index("--baseline") + 1] == f"{folder}/baseline.json"
    assert words[words.index("--run-dir") + 1] == f"{folder}/grid"
    assert words[words.index("--evaluator") + 1] == "tests.searching:large_kernels"
    assert words[words.index("--seed") + 1] == "4"
    assert words[words.index("--epochs") + 1] == "7"
    assert grid.main([*words[4:], "--dry-run"]) == 0  # complete, and all of it understood
    shown = capsys.readouterr().out
    assert "cost    parameters" in shown
    assert "trainings" in shown


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
    assert _main(tmp_path, "--trials", "4") == 0
    before = _table(tmp_path)
    assert _main(tmp_path, "--trials", "7", "--workers", "2", "--finalists", "1") == 0
    assert "resume  search: 4 of 7 trials are finished" in capsys.readouterr().out
    after = _table(tmp_path)
    pd.testing.assert_frame_equal(after.head(4), before, check_dtype=False)
    assert len(after) == 7
    assert _config(tmp_path)["settings"]["trials"] == 7


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
    assert _main(finished_toy, *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Restore them, or choose a new --run-dir." in error
    assert (finished_toy / "trials.csv").read_bytes() == before


@pytest.fixture(scope="module")
def finished_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    assert _main(folder, "--trials", "2") == 0
    return folder


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--evaluator", "no_such_module:f"], "`--evaluator no_such_module:f` does not import"),
        (["--evaluator", "tests.searching:CALLS"], "which is no function"),
        (["--strategy", "math:pi"], "`--strategy math:pi` names 3.14159"),
        (["--space", "math:pi"], "`--space math:pi` names 3.14159"),
        (["--space", "darts"], "`--space` must be one of mnasnet, efficientnet, or my_module"),
        (["--strategy", "ppo"], f"`--strategy` must be one of {', '.join(STRATEGIES)}, or my_mod"),
        (["--target-flops", "0"], "`--target-flops` must be positive, but got 0"),
        (["--cost", "params", "--target-cost", "-1"], "`--target-cost` must be positive, but got"),
        (["--target-cost", "3M"], "`--cost macs` has its target in `--target-flops`, not"),
        (
            ["--pareto", "--strategy", "tpe"],
            "`--strategy tpe` optimises one number, the reward. For --pareto choose",
        ),
        (["--pareto", "--strategy", "nsga2", "--hard"], "leave out `--w` and `--hard`"),
        (["--pareto", "--strategy", "nsga2", "--halving"], "and `--pareto` has two. Leave one"),
        (["--halving", "--epochs", "1"], "Halving first compares after 1 epoch, which is the end"),
        (["--w", "0.07"], "`--w` must be 0 or negative"),
        (["--resolution", "4"], "`--resolution` must be at least 8, but got 4"),
        (["--workers", "0"], "`--workers` must be at least 1, but got 0"),
        (["--gpus-per-trial", "1.5"], "`--gpus-per-trial` must be a whole number, or a fraction"),
    ],
)
def test_flags_that_cannot_be_are_refused_before_anything_is_written(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(tmp_path / "run", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        *(["--trials", "0"], ["--epochs", "0"], ["--finalists", "-1"]),
        *(["--seed", "-1"], ["--seed", str(2**32)], ["--trial-minutes", "nan"]),
        *(["--min-epochs", "0"], ["--reduction", "1"], ["--latency-batch", "0"]),
    ],
)
def test_numbers_out_of_range_are_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(tmp_path / "run", *flags) == 2
    assert capsys.readouterr().err.startswith(f"error: `{flags[0]}` must ")
    assert not (tmp_path / "run").exists()


def test_the_help_names_every_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--help"])
    words = capsys.readouterr().out
    assert set(STRATEGIES) <= set(re.findall(r"\w+", words))


def test_failures_stop_the_run_with_the_first_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = ["--evaluator", "tests.searching:broken"]
    assert _main(tmp_path, *evaluator, "--trials", "20") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 5 trials in a row failed; the first with:\nerror: Traceback")
    assert "ZeroDivisionError" in error
    table = _table(tmp_path)
    assert list(zip(table.state, table.reason, strict=True)) == [("FAIL", "error")] * 5
    assert not (tmp_path / "baseline.json").exists()


def test_a_user_s_own_space_and_strategy(tmp_path: Path) -> None:
    flags = ["--space", "tests.searching:small_space", "--strategy", "tests.searching:nsga"]
    assert _main(tmp_path, *flags, "--trials", "12") == 0
    table = _table(tmp_path)
    assert table.digest[table.reused_from == ""].is_unique
    assert (table.reused_from != "").any()


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

    table = _table(folder)
    assert sorted(table.slot[table.state == "COMPLETE"]) == list(range(12))
    assert set(table.reason[table.state == "FAIL"]) <= {"orphaned"}
    called = [call["digest"] for call in calls(workplace)]
    assert len(called) <= len(table)
    assert all(called.count(digest) <= (table.digest == digest).sum() for digest in called)

    undisturbed = workplace / "runs/undisturbed"
    flags = ["--evaluator", "tests.searching:accuracy", "--space", "tests.searching:space"]
    assert _main(undisturbed, *flags, "--trials", "12") == 0
    pd.testing.assert_frame_equal(_ends(table), _ends(_table(undisturbed)))


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
    table = _table(workplace / "runs/search")
    assert sorted(table.slot[table.state == "COMPLETE"]) == [0, 1, 2, 3]
    assert list(table.reason[table.state == "FAIL"]) == ["orphaned"]


def _goes_on_from(out: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is whole, and the command that was printed does the rest."""
    before = _table(workplace / "my run")
    assert set(before.state) <= {"COMPLETE", "FAIL"}
    assert list(before.reason[before.state == "FAIL"]) in ([], ["interrupted"])

    resume = next(line for line in out.splitlines() if "Resume with: " in line)
    python, dash_m, module, *flags = shlex.split(resume.partition("Resume with: ")[2])
    assert (python, dash_m, module) == ("python", "-m", "nas.run")
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    assert run.main(flags) == 0
    after = _table(workplace / "my run")
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


@pytest.mark.slow
def test_a_search_on_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it on the embedded default, as small as it goes."""
    flags = ["--data", "digits", "--trials", "2", "--epochs", "1", "--finalists", "1"]
    more = ["--finalist-seeds", "1", "--finalist-epochs", "1", "--max-images", "300"]
    assert run.main([*flags, *more, "--run-dir", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "data    digits" in output
    assert "10 classes" in output
    baseline = load_architecture(tmp_path / "baseline.json")
    assert (baseline.resolution, baseline.num_classes) == (8, 10)
    conditions = _config(tmp_path)["conditions"]
    assert conditions["data"] == "digits"
    assert len(conditions["fingerprint"]) == 12
    assert sum(conditions["images"]) == 300
    assert "not told apart (one seed each)" in (tmp_path / "report.md").read_text()
    assert run.main([*flags, *more, "--run-dir", str(tmp_path), "--max-images", "200"]) == 2
    assert "images was [270, 30], now [180, 20]" in capsys.readouterr().err
