"""`python -m nas.proxy`, as it is called: files, verdicts, resumption, the next command."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from nas import proxy, run
from tests.proxy_evaluators import calls

SIZE = ["--resolution", "32", "--num-classes", "10", "--target-flops", "8M"]


def main(folder: Path, evaluator: str, *flags: str) -> int:
    """The command; with 8 networks, which is faster, unless `flags` say otherwise."""
    named = ["--evaluator", f"tests.proxy_evaluators:{evaluator}"]
    if "--architectures" not in flags:
        flags = ("--architectures", "8", *flags)
    return proxy.main([*named, *SIZE, "--epochs", "4", "--run-dir", str(folder), *flags])


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "proxy.csv")


def verdict(output: str) -> str:
    return output.split("verdict ")[1].split("wrote ")[0]


def next_words(output: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if line.startswith("next "))
    return shlex.split(line)[1:]


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "calls"
    monkeypatch.setenv("PROXY_CALLS", str(file))
    return file


def test_a_run_leaves_its_files_and_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path, "ranking", "--architectures", "12") == 0
    output = capsys.readouterr().out
    assert verdict(output).startswith("FIT: 4 epochs, 32 px, T = 8M")
    assert "12 networks" in verdict(output)
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.json", "manifest.json", "proxy.csv", "proxy.md", "proxy.png", "study.db")
    }
    trials = table(tmp_path)
    sizes = trials.groupby("series", sort=False).size().to_dict()
    assert sizes == {
        "proxy": 24,
        "long": 12,
        "epochs=0.5": 24,
        "resolution=0.7": 24,
        "width=0.7": 24,
    }
    assert set(trials[trials.series == "long"].epochs) == {16}
    long_seeds = set(trials[trials.series == "long"].seed)
    assert not long_seeds & set(trials[trials.series == "proxy"].seed)
    report = (tmp_path / "proxy.md").read_text()
    for words in ("## Verdict", "FIT", "## Settings", "## Networks", "python -m nas.run"):
        assert words in report


@pytest.mark.parametrize(
    ("evaluator", "reason"),
    [
        ("noisy", "seed noise exceeds the spread of networks"),
        ("misleading", "cannot be told from chance"),
        ("costly", "counting multiply-adds ranks as well, at no cost: tau 1.00 against 1.00"),
    ],
)
def test_a_proxy_that_cannot_rank_is_called_unfit_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], evaluator: str, reason: str
) -> None:
    assert main(tmp_path, evaluator, "--variants") == 0
    output = capsys.readouterr().out
    assert verdict(output).startswith("UNFIT")
    assert reason in verdict(output)
    assert next_words(output)[:3] == ["python", "-m", "nas.proxy"]


@pytest.mark.slow
def test_the_next_command_makes_the_proxy_fit_and_reuses_its_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noted: Path
) -> None:
    assert main(tmp_path / "run", "noisy", "--variants", "epochs=0.5") == 0
    before = calls(noted)
    words = next_words(capsys.readouterr().out)
    assert words[words.index("--epochs") + 1] == "8"
    assert proxy.main(words[3:]) == 0
    output = capsys.readouterr().out
    assert verdict(output).startswith("FIT: 8 epochs")
    assert ": 2 epochs" not in output  # half of eight are the four that were the proxy
    after = calls(noted)
    assert len(after) == len(set(after)) == len(before) + 16 + 8


def test_the_next_search_takes_the_flags_of_the_best_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--variants", "resolution=0.75", "--w", "-0.1", "--seed", "3")
    assert main(tmp_path, "ranking", *flags) == 0
    words = next_words(capsys.readouterr().out)
    assert words[:3] == ["python", "-m", "nas.run"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given["--epochs"] == "4"
    assert (given["--resolution"], given["--target-flops"]) in {
        ("32", "8M"),
        ("24", "4.5M"),
    }
    assert (given["--w"], given["--seed"], given["--num-classes"]) == ("-0.1", "3", "10")
    assert given["--run-dir"] == f"{tmp_path}/search"
    assert run.main([*words[3:], "--dry-run"]) == 0


def test_a_finished_proxy_says_that_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noted: Path
) -> None:
    flags = ("--architectures", "6", "--variants", "epochs=0.5")
    assert main(tmp_path, "ranking", *flags) == 0
    assert "done  " not in capsys.readouterr().out
    before = calls(noted)
    report = (tmp_path / "proxy.md").read_text()
    assert main(tmp_path, "ranking", *flags) == 0
    output = capsys.readouterr().out
    assert "\nleft    nothing\n" in output
    assert "finished; nothing was repeated" in output
    assert calls(noted) == before
    assert (tmp_path / "proxy.md").read_text() == report
    assert main(tmp_path, "ranking", *flags, "--seeds", "3", "--dry-run") == 0
    output = capsys.readouterr().out
    assert "18 trials" in output
    assert "\nleft    6 of proxy, 6 of epochs=0.5 · no estimate before the first" in output


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    noted: Path,
) -> None:
    fewer = ("--architectures", "7", "--variants", "width=0.7")
    assert main(tmp_path / "whole", "ranking", *fewer) == 0
    whole = calls(noted)
    noted.unlink()
    capsys.readouterr()
    for stop in ("10", "30"):
        monkeypatch.setenv("PROXY_STOP", stop)
        assert main(tmp_path / "parts", "ranking", *fewer) == 130
        output = capsys.readouterr().out
        assert "saved. Resume with: python -m nas.proxy" in output
        assert ("verdict FIT" in output) == (stop == "30")  # by then the proxy can be judged
        assert (tmp_path / "parts" / "proxy.csv").exists()
    monkeypatch.delenv("PROXY_STOP")
    assert main(tmp_path / "parts", "ranking", *fewer) == 0
    one, other = (table(tmp_path / name).drop(columns="seconds") for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(one, other)
    assert sorted(set(calls(noted))) == sorted(whole)
    assert len(calls(noted)) == len(whole) + 2  # those that were interrupted


def test_a_network_that_fails_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path / "a", "ranking", "--variants") == 0
    capsys.readouterr()
    monkeypatch.setenv("PROXY_FAILS", str(table(tmp_path / "a").digest[4]))
    assert main(tmp_path / "b", "ranking", "--variants") == 0
    output = capsys.readouterr().out
    assert "FAILED error" in output
    assert "1 of 8 networks lack a trial" in verdict(output)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path / "run", "ranking", "--dry-run") == 0
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr().out
    assert "trial   long: 16 epochs, 32 px, T = 8M · 8 trials" in output
    assert "no estimate before the first trials" in output


@pytest.mark.slow
def test_other_conditions_are_refused_other_amounts_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path, "ranking", "--variants", "--architectures", "6") == 0
    more = ("--architectures", "8", "--seeds", "3", "--long-seeds", "2", "--epochs", "5")
    assert main(tmp_path, "ranking", "--variants", *more) == 0
    assert main(tmp_path, "ranking", "--variants", "--seed", "1") == 2
    assert "seed was 0, now 1" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text())["conditions"]["seed"] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "1"], "`--seeds` must be at least 2"),
        (["--architectures", "5"], "`--architectures` must be at least 6"),
        (["--long-epochs", "4"], "`--long-epochs` must be more than `--epochs` (4)"),
        (["--target-flops", "0"], "`--target-flops` must be positive"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(tmp_path, "ranking", *flags) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--variants", "epochs=3"], "factors in (0, 1]"),
        (["--space", "imagined"], "`--space` must be one of mnasnet, efficientnet"),
        (["--space", "tests.proxy_evaluators:two_networks"], "at least 6 are needed"),
        (["--w", "0.1"], "`--w` must be 0 or negative"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(tmp_path, "ranking", *flags) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_digits_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", "digits", "--max-images", "200", "--epochs", "1", "--long-epochs", "2"]
    flags += ["--architectures", "6", "--variants", "--run-dir", str(tmp_path)]
    assert proxy.main(flags) == 0
    assert "FIT: 1 epoch, 8 px" in capsys.readouterr().out
    assert table(tmp_path).seconds.min() > 0
