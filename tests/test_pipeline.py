"""The whole method in one command, at the smallest settings."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments import pipeline


@pytest.mark.slow
def test_the_pipeline_ends_with_an_exported_member(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--trials", "3", "--epochs", "1", "--train-epochs", "1"]
    assert pipeline.main([*arguments, "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[3] for line in printed.splitlines() if line.startswith("$ ")] == [
        "nas.run",
        "scaling_search.grid",
        "scaling_search.family",
        "nas.train",
        "nas.train",
        "nas.export",
    ]
    assert len(pd.read_csv(tmp_path / "search" / "trials.csv")) == 3
    assert json.loads((tmp_path / "grid" / "constants.json").read_text())["alpha"] >= 1
    assert (tmp_path / "models" / "B1" / "model.onnx").exists()

    assert pipeline.main([*arguments, "--workers", "1"]) == 0  # resumes: nothing is measured again
    again = capsys.readouterr().out
    assert "#0" not in again


def test_a_stage_that_fails_ends_the_pipeline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline.main(["--out", str(tmp_path), "--data", str(tmp_path / "nowhere")]) == 2
    assert "nas.run ended with status 2" in capsys.readouterr().err
