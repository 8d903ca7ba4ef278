"""The experiment that sets a search on shared weights beside a plain one."""

from pathlib import Path

import pandas as pd
import pytest

from experiments import supernet_search
from experiments.supernet_search import Searched, _compared


def _found(seconds: float, *rewards: float) -> Searched:
    return Searched(
        trials=9,
        seconds=seconds,
        rewards=rewards,
        accuracies=rewards,
        baseline="mnasnet-0",
        macs=1_000_000,
    )


@pytest.mark.parametrize(
    ("shared", "outcome"),
    [
        ((0.9, 0.91, 0.92), "ahead"),
        ((0.5, 0.52, 0.51), "not told apart from seed noise"),
        ((0.1, 0.12, 0.11), "behind"),
    ],
)
def test_the_verdict_weighs_seeds_and_time(shared: tuple[float, ...], outcome: str) -> None:
    words = _compared(_found(60, *shared), _found(180, 0.5, 0.53, 0.51))
    assert f"in 0.33 of the time: {outcome} (of the plain search's" in words


@pytest.mark.parametrize(
    "flags", [["--times", "0"], ["--evaluator", "a:b"], ["--dry-run"], ["--finalists", "0"]]
)
def test_flags_that_cannot_be_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert supernet_search.main(flags) == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.slow
def test_both_searches_run_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        *("--data", "digits", "--max-images", "100", "--space", "tests.supernets:tiny_space"),
        *("--trials", "6", "--epochs", "1", "--supernet-epochs", "1", "--finalists", "1"),
        *("--finalist-seeds", "2", "--finalist-epochs", "1", "--times", "0.1"),
        *("--run-dir", str(tmp_path / "run"), "--out", str(tmp_path / "out")),
    ]
    assert supernet_search.main(flags) == 0
    (file,) = (tmp_path / "out").glob("*-supernet-search.md")
    words = file.read_text()
    assert words.count("(2 seeds)") == 2
    numbers = [
        len(pd.read_csv(tmp_path / f"run/{name}/trials.csv")) for name in ("shared", "plain")
    ]
    assert numbers == [6, 5]
    capsys.readouterr()
    assert supernet_search.main(flags) == 0
    assert file.read_text() == words
    assert "eta" not in capsys.readouterr().out  # nothing was measured again
