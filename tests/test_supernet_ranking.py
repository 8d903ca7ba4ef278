"""The experiment that asks if shared weights rank networks: its statistics, and a small run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import supernet_ranking
from experiments.agreement import Ranking, agreement, summary, taus, verdict
from nas.training import checkpoint

FLAGS = [
    *("--data", "digits", "--max-images", "100", "--space", "tests.supernets:tiny_space"),
    *("--networks", "6", "--epochs", "1", "--supernet-epochs", "1"),
]


def _ranking(noise: float, networks: int = 40) -> Ranking:
    """Of a supernet that sees the truth with more or less noise than a training does."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(networks, 1))
    return Ranking(
        macs=rng.normal(size=networks),
        alone=truth + 0.5 * rng.normal(size=(networks, 2)),
        alone_seconds=np.full((networks, 2), 30.0),
        shared=truth + noise * rng.normal(size=(networks, 2)),
        shared_seconds=np.full((networks, 2), 0.1),
        supernet_seconds=np.array([300.0, 300.0]),
    )


@pytest.mark.parametrize(("noise", "word"), [(0.01, "REACHED"), (5.0, "MISSED"), (0.8, "NOT RES")])
def test_the_verdict_follows_the_supernet_s_noise(noise: float, word: str) -> None:
    assert verdict(taus(_ranking(noise), seed=0)).startswith(word)


def test_agreement_is_of_single_columns() -> None:
    one = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])
    assert agreement(one[:, :1], one[:, :1]) == 1
    assert agreement(one[:, :1], one) == 0  # with the one 1, with the other -1


def test_the_summary_compares_prices() -> None:
    words = summary(_ranking(0.1), seed=0)
    assert "a training alone 30.00 s, a supernet 300 s (as 10 trainings)" in words
    assert "for 1,000 networks 6:40 against 8:20:00" in words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--networks", "5"], "`--networks` must be at least 6 to rank, but got 5"),
        (["--seeds", "1"], "`--seeds` must be at least 2 to see noise, but got 1"),
        (["--supernet-seeds", "1"], "`--supernet-seeds` must be at least 2 to see noise"),
        (["--evaluator", "a:b"], "leave out `--evaluator`"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supernet_ranking.main([*FLAGS, "--run-dir", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_resumes_and_takes_more_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*FLAGS, "--run-dir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert supernet_ranking.main(command) == 0
    (file,) = (tmp_path / "out").glob("*-supernet-ranking.csv")
    before = pd.read_csv(file)
    assert list(before.columns[2:]) == ["alone_0", "alone_1", "supernet_0", "supernet_1"]
    (second,) = (tmp_path / "run").glob(f"supernet-*-1/{checkpoint.NAME}")
    weights = second.read_bytes()
    capsys.readouterr()
    assert supernet_ranking.main([*command, "--seeds", "3"]) == 0
    assert capsys.readouterr().out.count("(= alone-") == 12
    after = pd.read_csv(file)
    pd.testing.assert_frame_equal(after.drop(columns="alone_2"), before)
    assert second.read_bytes() == weights
    assert supernet_ranking.main([*command, "--supernet-drawn", "1"]) == 0
    other = pd.read_csv(file)
    pd.testing.assert_frame_equal(other.filter(like="alone"), before.filter(like="alone"))
    assert not other.filter(like="supernet").equals(before.filter(like="supernet"))
    assert second.read_bytes() == weights
