"""`python -m nas.run`, as it is called: files, plans, words, refusals."""

import re
import shlex
from pathlib import Path

import optuna
import pandas as pd
import pytest

from nas import run
from nas.search.strategies import STRATEGIES
from scaling_search import grid
from search_spaces.architecture import Architecture
from search_spaces.spaces import SPACES
from search_spaces.zoo import load_architecture
from tests.toy_runs import config_of, run_toy, trials_of

COLUMNS = ["number", "state", "reward", "accuracy", "macs", "params", "seconds", "reason"]


@pytest.mark.slow
def test_200_trials_find_the_optimum_of_a_toy(tmp_path: Path) -> None:
    assert run_toy(tmp_path, "--trials", "200", "--w", "0") == 0
    baseline = Architecture.from_json((tmp_path / "baseline.json").read_text())
    assert [stage.block.kernel for stage in baseline.stages] == [5] * 7
    assert SPACES["mnasnet"](224, 1000, 400e6).encode(baseline)
    table = trials_of(tmp_path)
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
    table = trials_of(finished)
    assert [t.value for t in study.trials] == table.reward.tolist()
    assert [t.user_attrs["macs"] for t in study.trials] == table.macs.tolist()
    study._storage.remove_session()  # type: ignore[attr-defined]


def test_the_config_says_what_was_asked(finished: Path) -> None:
    config = config_of(finished)
    assert config["conditions"]["target_macs"] == 400e6
    assert config["conditions"]["evaluator"] == "tests.searching:accuracy"
    assert config["settings"]["trials"] == 12


def test_the_report_compares(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    for words in ("stock EfficientNet-B0 at the same", "random search", "T = 400M", "| stock B0"):
        assert words in report


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_toy(tmp_path / "run", "--dry-run", "--target-flops", "1.2G") == 0
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
    assert run_toy(folder, "--trials", "2") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run_toy(folder, "--trials", "3", "--dry-run") == 0
    assert run_toy(folder, "--trials", "2", "--seed", "9", "--dry-run") == 2
    assert "was started with other conditions: seed was 0, now 9" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "study.db").write_bytes(b"no database")
    assert run_toy(folder, "--trials", "2", "--dry-run") == 2
    assert "study.db" in capsys.readouterr().err


def test_the_terminal_shows_progress_and_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    flags = ["--epochs", "7", "--cost", "params", "--trial-minutes", "9"]
    assert run_toy(folder, "--trials", "3", "--seed", "4", *flags) == 0
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
    assert run_toy(tmp_path / "run", *flags) == 2
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
    assert run_toy(tmp_path / "run", *flags) == 2
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
    assert run_toy(tmp_path, *evaluator, "--trials", "20") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 5 trials in a row failed; the first with:\nerror: Traceback")
    assert "ZeroDivisionError" in error
    table = trials_of(tmp_path)
    assert list(zip(table.state, table.reason, strict=True)) == [("FAIL", "error")] * 5
    assert not (tmp_path / "baseline.json").exists()


def test_a_user_s_own_space_and_strategy(tmp_path: Path) -> None:
    flags = ["--space", "tests.searching:small_space", "--strategy", "tests.searching:nsga"]
    assert run_toy(tmp_path, *flags, "--trials", "12") == 0
    table = trials_of(tmp_path)
    assert table.digest[table.reused_from == ""].is_unique
    assert (table.reused_from != "").any()


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
    conditions = config_of(tmp_path)["conditions"]
    assert conditions["data"] == "digits"
    assert len(conditions["fingerprint"]) == 12
    assert sum(conditions["images"]) == 300
    assert "not told apart (one seed each)" in (tmp_path / "report.md").read_text()
    assert run.main([*flags, *more, "--run-dir", str(tmp_path), "--max-images", "200"]) == 2
    assert "images was [270, 30], now [180, 20]" in capsys.readouterr().err
