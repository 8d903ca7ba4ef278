"""A baseline, and an evaluator of its scaled networks that knows how best to share the added cost.

It reads its settings from the environment, which subprocesses inherit: VALIDATE_BEST (the best
shares of depth, width and resolution, such as 0.3/0.4/0.3), GRID_NOISE (standard deviation between
seeds), GRID_CALLS (a file that takes a line for every call that ends), GRID_SECONDS (of a call),
GRID_FAILS (a network's rule or `base`, whose trials raise) and GRID_STOP (the number of calls after
which Ctrl-C is pressed).
"""

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import pandas as pd

from scaling_search.shares import Shares
from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.ops import MBConv
from tests.grid_evaluators import log_call

SMALL = Architecture(
    name="small",
    resolution=64,
    num_classes=10,
    stem=Stem(width=32),
    stages=(
        Stage(block=MBConv(expansion=2), width=48, repeats=3, stride=2),
        Stage(block=MBConv(expansion=2), width=64, repeats=4, stride=2),
    ),
    head_width=128,
)
BEST = Shares(0.3, 0.4, 0.3)
"""What VALIDATE_BEST is by default."""
GAIN, PENALTY = 0.05, 0.1
"""Of accuracy: for every doubling of cost, and for the squared distance from the best shares."""


def truth(architecture: AnyNetwork) -> float:
    """Accuracy without noise."""
    assert isinstance(architecture, Architecture)
    doublings = math.log2(count(architecture).macs / count(SMALL).macs)
    growth = (
        math.log(architecture.num_blocks / SMALL.num_blocks),
        2 * math.log(sum(architecture.widths) / sum(SMALL.widths)),
        2 * math.log(architecture.resolution / SMALL.resolution),
    )
    accuracy = 0.5 + GAIN * doublings
    if sum(growth) == 0:
        return accuracy
    best = map(float, os.environ.get("VALIDATE_BEST", str(BEST)).split("/"))
    shares = (part / sum(growth) for part in growth)
    return accuracy - PENALTY * sum((a - b) ** 2 for a, b in zip(shares, best, strict=True))


def shared(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """`truth`, what the seed adds to all networks, and noise of network and seed."""
    rule = architecture.name.rpartition("-")[2] if "-x" in architecture.name else "base"
    if rule == os.environ.get("GRID_FAILS"):
        raise RuntimeError("this network cannot be trained")
    time.sleep(float(os.environ.get("GRID_SECONDS", "0")))
    noise = float(os.environ.get("GRID_NOISE", "0"))
    accuracy = truth(architecture) + 0.02 * random.Random(seed).random()
    accuracy += random.Random(f"{architecture.digest} {seed}").gauss(0, noise)
    if calls := os.environ.get("GRID_CALLS"):
        log_call(Path(calls), f"{architecture.digest} {seed}")
    return accuracy


def constants(folder: Path, shares: Shares = BEST, **changes: Any) -> Path:
    """A constants.json as the grid writes it."""
    alpha, beta, gamma = shares.coefficients().values
    content = {
        **{"schema": 2, "alpha": alpha, "beta": beta, "gamma": gamma},
        **{"source": "fit", "resolved": True},
        "baseline": {"name": "small", "digest": SMALL.digest},
        **changes,
    }
    file = folder / "constants.json"
    file.write_text(json.dumps(content))
    return file


def arguments(small: Path, run_dir: Path, *flags: str) -> list[str]:
    """Arguments of the command, for the best constants if the flags name no others."""
    argv = ["--baseline", str(small), "--run-dir", str(run_dir)]
    argv += ["--evaluator", "tests.validate_evaluators:shared", *flags]
    if "--alpha" not in flags and "--constants" not in flags:
        argv += ["--constants", str(constants(small.parent))]
    return argv


def rows(run_dir: Path) -> dict[str, dict[str, Any]]:
    """validate.csv of a single phi, by rule."""
    frame = pd.read_csv(run_dir / "validate.csv")
    return {row["rules"]: row for row in frame.to_dict(orient="records")}
