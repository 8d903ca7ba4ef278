"""The benchmark of strategies: what it scores, and that it says the same twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import load_benchmark
from experiments.search_benchmark import main, summary
from nas.cli import UserError
from nas.search.strategies import Counting
from search_spaces.capacity import capacity
from search_spaces.cost import Cost

FILE = '''
import numpy as np

CHOICES = [c for b in range(7) for c in ([1, 4, 6], [3, 5], [1, 2, 3], [0, 1])]


class Objective:
    """As Accel-NASBench's: accuracy in percent, costs in millions, additive over blocks."""

    T = 300.0

    def acc(self, blocks):
        return 50.0 + float(np.sum(blocks)) / 10

    def macs(self, blocks):
        return 10.0 + float(sum((i + 1) * e * k * l for i, (e, k, l, se) in enumerate(blocks)))

    def params(self, blocks):
        return 1.0 + float(sum(e * l + se for e, k, l, se in blocks))
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "objective.py"
    path.write_text(FILE)
    return path


def test_a_file_of_other_stages_is_refused(file: Path) -> None:
    file.write_text(FILE.replace("range(7)", "range(6)"))
    with pytest.raises(UserError, match="28 in all, but holds 24"):
        load_benchmark(str(file))


def _frame(folder: Path) -> pd.DataFrame:
    (table,) = folder.glob("*.csv")
    return pd.read_csv(table)


def test_costs_of_a_file_are_those_of_its_objective(file: Path) -> None:
    benchmark = load_benchmark(str(file))
    rng = np.random.default_rng(0)
    assert len(benchmark.space.choices) == 28
    for _ in range(50):
        choices = {n: o[rng.integers(len(o))] for n, o in benchmark.space.choices.items()}
        values = [int(value) for value in choices.values()]
        blocks = [values[i : i + 4] for i in range(0, 28, 4)]
        macs = 10 + sum((i + 1) * e * k * n for i, (e, k, n, _) in enumerate(blocks))
        params = 1 + sum(e * n + se for e, _, n, se in blocks)
        assert benchmark.cost(choices) == Cost(params=params * 10**6, macs=macs * 10**6)
        assert benchmark.accuracy(choices) == pytest.approx(50 + np.sum(blocks) / 10)
        network = benchmark.space.decode(choices)
        assert [stage.repeats for stage in network.stages] == [n for _, _, n, _ in blocks]
        assert isinstance(benchmark.space, Counting)
        (found,) = benchmark.space.counts([choices]).tolist()
        able = capacity(network)
        assert found[:4] == [params * 10**6, macs * 10**6, 0, able.channels]
        assert found[4] == pytest.approx(able.log_fan_in)
    assert benchmark.target("macs") == 300e6
    assert 10e6 < benchmark.target("params") < 100e6


@pytest.mark.slow
def test_scores_the_true_reward_and_says_the_same_twice(file: Path, tmp_path: Path) -> None:
    frames = []
    for out, jobs in ((tmp_path / "a", "1"), (tmp_path / "b", "2")):
        command = ["--evaluator", str(file), "--strategies", "random", "guided", "--seeds", "2"]
        command += ["--trials", "4", "14", "--noise", "0.5", "--parallel", "3"]
        assert main([*command, "--jobs", jobs, "--out", str(out)]) == 0
        frames.append(_frame(out).drop(columns="seconds"))
        assert {path.suffix for path in out.iterdir()} == {".csv", ".md", ".png"}
    pd.testing.assert_frame_equal(*frames)
    frame = frames[0]
    assert list(frame["strategy"].unique()) == ["random", "guided"]
    assert list(frame["trials"].unique()) == [4, 14]
    best = (50 + 7 * (6 + 5 + 3 + 1) / 10) * (10 / 300) ** -0.07
    assert frame["reward"].between(30, best).all()
    random = frame[frame["strategy"] == "random"]
    assert (random["reward"] == random["lucky"]).all()


def test_without_noise_the_best_observation_never_gets_worse(tmp_path: Path) -> None:
    command = ["--strategies", "evolution", "--seeds", "2", "--trials", "5", "25", "45"]
    assert main([*command, "--noise", "0", "--out", str(tmp_path)]) == 0
    for _, own in _frame(tmp_path).groupby("seed"):
        assert list(own["lucky"]) == sorted(own["lucky"])
        assert own["lucky"].iloc[-1] > own["lucky"].iloc[0]


def test_the_table_shows_medians_and_quartiles() -> None:
    rewards = [60.0, 61.0, 62.0, 63.0, 70.0]
    frame = pd.DataFrame(
        {"strategy": "tpe", "seed": range(5), "trials": 50, "reward": rewards, "seconds": 0.25}
    )
    assert "**62.00** (61.00–63.00)" in summary(frame)
    assert "0.250" in summary(frame)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--strategies", "grid"], "must be among guided, random"),
        (["--trials", "50", "20"], "positive and rising"),
        (["--seeds", "0"], "`--seeds` must be at least 1"),
        (["--evaluator", "nowhere.py"], "does not exist"),
        (["--evaluator", "nonsense"], "must have the form"),
    ],
)
def test_refuses(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(flags)
    except SystemExit as exit:  # what the parser refuses
        status = exit.code
    assert status not in (0, None)
    assert words in " ".join(capsys.readouterr().err.split())
