"""`python -m experiments.scaling_benchmark`: what it counts, and the replay of a complete grid."""

from pathlib import Path

import numpy as np
import pytest

from experiments.scaling_benchmark import main, race_and_grid, read_grid
from scaling_search import grid
from tests.grid_evaluators import arguments, truth
from tests.scaled import candidates_at, lattice, peak

SHARES = lattice(4)
CANDIDATES = candidates_at(SHARES)
TRUTH = peak((0.25, 0.25, 0.5))


def test_without_noise_everything_is_right() -> None:
    accuracies = np.repeat(TRUTH(SHARES)[:, None], 6, axis=1)
    trial = race_and_grid(CANDIDATES, accuracies, truth=TRUTH, noise=0.0, seed=0)
    assert (trial.covered, trial.covered_full, trial.winner_true, trial.winner_full) == (True,) * 4
    assert (trial.kept, trial.overlap, trial.resolved) == (1, 1, True)
    assert trial.spent <= 1 / 3
    assert trial.area < 0.05


def test_a_wrong_truth_is_not_covered() -> None:
    accuracies = np.repeat(TRUTH(SHARES)[:, None], 6, axis=1)
    other = peak((1.0, 0.0, 0.0))
    trial = race_and_grid(CANDIDATES, accuracies, truth=other, noise=0.001, seed=0)
    assert (trial.covered, trial.winner_true) == (False, False)


@pytest.mark.slow
def test_the_command_prints_a_row_a_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.md"
    flags = ["--candidates", "12", "--seeds", "3", "--repetitions", "2", "--out", str(out)]
    assert main(flags) == 0
    output = capsys.readouterr().out
    assert "12 networks of 'efficientnet-b0' x 3 seeds, noise 0.005, 2 races each" in output
    assert sum(line.startswith("| ") for line in output.splitlines()) == 6  # header and five truths
    assert out.read_text().strip() == output.strip()


def test_a_complete_grid_is_read_back_and_raced(
    tmp_path: Path,
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRID_NOISE", "0.001")
    run_dir = tmp_path / "run"
    assert grid.main(arguments(baseline, run_dir, "--full", "--seeds", "3")) == 0
    candidates, accuracies = read_grid(run_dir)
    assert accuracies.shape == (9, 3)
    for candidate, row in zip(candidates, accuracies, strict=True):
        assert row.mean() == pytest.approx(truth(candidate.architecture), abs=0.003)
    capsys.readouterr()
    assert main(["--replay", str(run_dir), "--repetitions", "3"]) == 0
    output = capsys.readouterr().out
    assert "9 networks x 3 seeds, 3 races over its seeds in random order" in output
    assert "true" not in output


def test_a_race_is_no_complete_grid(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main(arguments(baseline, tmp_path / "run", "--trials", "12")) == 0
    assert main(["--replay", str(tmp_path / "run")]) == 2
    assert "holds no complete grid. Run scaling_search.grid with --full." in capsys.readouterr().err
    assert main(["--replay", str(tmp_path / "nothing")]) == 2
    assert "is no finished run of scaling_search.grid" in capsys.readouterr().err
