"""Failures of trials as the user sees them, and evaluators that lay hands on the process."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
import pytest

from nas import run
from scaling_search import grid
from tests import hostile_evaluators
from tests.grid_evaluators import FLAGS
from tests.grid_evaluators import TINY as GRID_TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hostile_evaluators, "_calls", iter(range(1000)))


def _arguments(evaluator: str, *flags: str) -> list[str]:
    named = ["--evaluator", f"tests.hostile_evaluators:{evaluator}", "--run-dir", "run"]
    space = ["--space", "tests.searching:space", "--strategy", "random"]
    return [*named, *space, "--trials", "8", "--epochs", "1", "--finalists", "0", *flags]


def _main(evaluator: str, *flags: str) -> int:
    return run.main(_arguments(evaluator, *flags))


def _table() -> pd.DataFrame:
    return pd.read_csv("run/trials.csv", keep_default_na=False)


def _is_shown(text: str) -> bool:
    return all(c.isprintable() for c in text.replace("\n", ""))


@pytest.mark.slow
def test_failures_have_a_line_each_a_count_and_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("various", "--trials", "16") == 0
    out = capsys.readouterr().out
    failed = _table().drop_duplicates("slot", keep="last").query("state == 'FAIL'")
    counts = failed.reason.value_counts()
    assert set(counts.index) == {"oom", "nan", "error"}
    lines = [line for line in out.splitlines() if "FAILED" in line]
    assert [line.split()[:3] for line in lines] == [
        [f"#{number}", "FAILED", f"{reason}:"]
        for number, reason in zip(failed.number, failed.reason, strict=True)
    ]
    words = {
        "oom": "MemoryError: no room",
        "nan": "The evaluator returned NaN.",
        "error": "KeyError: 'my own mistake'",
    }
    assert all(words[line.split()[2].rstrip(":")] in line for line in lines)
    assert lines[-1].endswith(f"({len(failed)} so far)")

    counted = ", ".join(f"{number} {reason}" for reason, number in _most_common(failed.reason))
    line = f"failed  {len(failed)} of 16 trials: {counted} · errors in run/failures.txt"
    assert line in out.splitlines()
    assert f"    {line}\n" in Path("run/report.md").read_text()
    entries = Path("run/failures.txt").read_text().split("\n\n")
    heads = [entry.split(" · ")[0] for entry in entries]
    assert {f"search #{number}" for number in failed.number} <= set(heads)
    for entry in entries:
        reason = entry.split(" · ")[1].split()[0]
        assert words[reason] in entry
        assert ("Traceback (most recent call last)" in entry) == (reason != "nan")


def _most_common(reasons: pd.Series) -> list[tuple[str, int]]:
    return Counter(reasons).most_common()


def test_a_search_without_failures_says_nothing_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run.main([*_arguments(""), "--evaluator", "tests.searching:accuracy"]) == 0
    assert "failed" not in capsys.readouterr().out
    assert not Path("run/failures.txt").exists()


def test_the_grid_counts_failures_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.json").write_text(GRID_TINY.to_json())
    flags = ["--baseline", "tiny.json", "--evaluator", "tests.hostile_evaluators:various"]
    assert grid.main([*flags, *FLAGS, "--seeds", "1", "--full"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"(?m)^failed  [1-9] of 9 trials: .* · errors in runs/grid/failures.txt$", out)
    assert "grid-" in Path("runs/grid/failures.txt").read_text()


def test_rule_names_in_the_message_of_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    """A message is nobody's code: not a terminal's, a spreadsheet's, or a browser's."""
    assert _main("shouting") == 0
    out = capsys.readouterr().out
    assert r"\x1b[2Jgone\u202e\ud800\x00 <img src=x onerror=alert(1)>" in out
    assert out.count("FAILED error: ") == 4
    files = [Path("run") / name for name in ("trials.csv", "report.md", "failures.txt")]
    for text in (out, *(file.read_text(encoding="utf-8") for file in files)):
        assert _is_shown(text)
    assert "<img" not in Path("run/report.md").read_text()
    assert "=cmd" not in Path("run/trials.csv").read_text()
    assert list(_table().reason[_table().state == "FAIL"]) == ["error"] * 4


def test_long_messages_are_kept_at_both_ends() -> None:
    assert _main("wordy", "--trials", "2") == 0
    storage = optuna.storages.RDBStorage("sqlite:///run/study.db")
    _, failed = optuna.load_study(study_name="search", storage=storage).trials
    detail = failed.user_attrs["outcome"]["detail"]
    assert len(detail) < 100_000
    assert "ValueError: begin xxx" in detail
    assert detail.endswith("xxx end\n")
    storage.remove_session()
    storage.engine.dispose()
    assert len(Path("run/failures.txt").read_text()) < 20_000


def test_the_run_stays_where_it_is_when_an_evaluator_changes_folder(tmp_path: Path) -> None:
    assert _main("wandering") == 0
    assert Path.cwd() == tmp_path
    assert set(_table().state) == {"COMPLETE"}
    assert Path("run/baseline.json").is_file()


def test_an_evaluator_that_exits_does_not_end_the_search_with_its_status() -> None:
    assert _main("leaving") == 0
    assert list(_table().reason) == ["", "error"] * 4


def test_a_number_as_text_is_a_number() -> None:
    assert _main("texts") == 0
    assert set(_table().state) == {"COMPLETE"}


def _run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nas.run", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})},  # type: ignore[dict-item]
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_a_fork_that_comes_back_ends() -> None:
    done = _run(*_arguments("forking", "--trials", "4"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next    python") == 1
    assert [line for line in done.stdout.splitlines() if line.lstrip().startswith("#3")] != []
    assert len(_table()) == 4


def test_a_run_folder_that_is_deleted_meanwhile_is_said(tmp_path: Path) -> None:
    done = _run(*_arguments("deleting", "--trials", "4"))
    assert (done.returncode, done.stderr) == (
        2,
        "error: run/study.db was deleted while the command ran, and its trials with it. The same "
        "command starts again.\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_nobody_reads_ends_it_and_it_goes_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = _run(*_arguments("texts"), stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == (
        "error: Nobody reads on: Broken pipe. What is finished is kept, and the same command goes "
        "on.\n"
    )
    assert _main("texts") == 0


def test_errors_into_the_same_pipe_that_nobody_reads() -> None:
    """As with `2>&1 | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = _run(*_arguments("texts"), stdout=writer, stderr=writer)
    finally:
        os.close(writer)
    assert done.returncode == 141


@pytest.mark.slow
def test_names_that_are_no_text_and_terminals_that_know_ascii_only(tmp_path: Path) -> None:
    folder = os.fsdecode(b"caf\xe9")
    done = _run(*_arguments("texts", "--run-dir", folder), env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"wrote   caf\udce9/baseline.json" in done.stdout
    assert json.loads((tmp_path / folder / "baseline.json").read_text())["name"]
