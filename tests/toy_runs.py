"""Runs `nas.run` on a toy, and reads what it leaves, for tests."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from nas import run

TOY = ["--evaluator", "tests.searching:large_kernels", "--finalists", "0"]


def run_toy(folder: Path, *flags: str) -> int:
    """The command in this folder, with further flags; its status."""
    return run.main([*TOY, "--run-dir", str(folder), *flags])


def trials_of(folder: Path) -> pd.DataFrame:
    """All trials, in the order of their numbers."""
    return pd.read_csv(folder / "trials.csv", keep_default_na=False).sort_values("number")


def config_of(folder: Path) -> dict[str, Any]:
    """What the run was started with."""
    return json.loads((folder / "config.json").read_text())
