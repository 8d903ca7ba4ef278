"""A small baseline, and an evaluator of its scaled networks whose optimum is known.

The evaluator reads its settings from the environment, which subprocesses and Ray workers inherit:
GRID_CALLS (a file that takes a line for every call that ends), GRID_NOISE (standard deviation
between seeds), GRID_SECONDS (of a call), GRID_FAILS (a digest that raises) and GRID_STOP (the
number of calls after which Ctrl-C is pressed).
"""

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

from scaling_search.candidates import Candidate, Grid, find_candidates
from scaling_search.compound import Coefficients, scale
from search_spaces.architecture import Architecture, Stage, Stem
from search_spaces.builder import AnyNetwork
from search_spaces.ops import MBConv

TINY = Architecture(
    name="tiny",
    resolution=32,
    num_classes=10,
    stem=Stem(width=8),
    stages=(
        Stage(block=MBConv(expansion=2), width=16, repeats=2, stride=2),
        Stage(block=MBConv(expansion=2, kernel=5), width=24, repeats=3, stride=2),
    ),
    head_width=64,
)
FLAGS = ["--step", "0.1", "--tolerance", "0.1", "--max-alpha", "1.4"]
FLAGS += ["--max-beta", "1.2", "--max-gamma", "1.2", "--select", "formula"]
GRID = Grid(
    step=0.1,
    tolerance=0.1,
    alpha=(1, 1.4),
    beta=(1, 1.2),
    gamma=(1, 1.2),
    selection="formula",
)
"""What FLAGS say: 11 triples that make 9 networks of TINY."""
OPTIMUM = Coefficients(1.2, 1.1, 1.2)
SLOPE = 0.3


def truth(architecture: AnyNetwork) -> float:
    """Accuracy without noise: highest for TINY at OPTIMUM."""
    assert isinstance(architecture, Architecture)
    features, best = _features(architecture), _features(scale(TINY, OPTIMUM, 1))
    return 0.9 - SLOPE * sum(abs(a - b) for a, b in zip(features, best, strict=True))


def peaked(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """`truth` with noise that depends on network and seed."""
    if architecture.digest == os.environ.get("GRID_FAILS"):
        raise RuntimeError("this network cannot be trained")
    time.sleep(float(os.environ.get("GRID_SECONDS", "0")))
    noise = float(os.environ.get("GRID_NOISE", "0"))
    accuracy = truth(architecture) + random.Random(f"{architecture.digest} {seed}").gauss(0, noise)
    if calls := os.environ.get("GRID_CALLS"):
        log_call(Path(calls), f"{architecture.digest} {seed}")
    return min(1.0, max(0.0, accuracy))


def paper(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Best for EfficientNet-B0 at the paper's constants; not by the triple, but by the network."""
    same = (architecture.resolution, architecture.stages[4].width, len(_blocks(architecture)))
    return 0.8 if same == (256, 120, 23) else 0.7


def candidates() -> tuple[Candidate, ...]:
    """The networks that the command must find with FLAGS."""
    return find_candidates(TINY, GRID)


def arguments(baseline: Path | str, run_dir: Path, *flags: str) -> list[str]:
    """Arguments of the command with FLAGS, and further flags."""
    evaluator = ["--evaluator", "tests.grid_evaluators:peaked"]
    return ["--baseline", str(baseline), "--run-dir", str(run_dir), *evaluator, *FLAGS, *flags]


def read_constants(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "constants.json").read_text())


def log_call(calls: Path, line: str) -> None:
    """Note a call that ended; press Ctrl-C if GRID_STOP says so."""
    with calls.open("a") as file:
        file.write(line + "\n")
    stop = os.environ.get("GRID_STOP")
    if stop is not None and len(calls.read_text().splitlines()) == int(stop):
        raise KeyboardInterrupt


def _blocks(architecture: Architecture) -> list[Stage]:
    return [stage for stage in architecture.stages for _ in range(stage.repeats)]


def _features(architecture: Architecture) -> tuple[float, float, float]:
    return (
        math.log(len(_blocks(architecture))),
        math.log(sum(architecture.widths)),
        math.log(architecture.resolution),
    )
