"""`python -m experiments.scaling_benchmark`: is the fit of scaling constants right, where we know?

Networks are candidates of a real baseline; their accuracy is a known concave surface over the
shares of depth, width and resolution, plus seed noise. Two things are counted over repetitions: how
often the 90 % region holds the true optimum, and how often the race, at a third of the trainings,
ends with a network that truly is as good as the best. `--replay` races over the accuracies of a
real, complete grid instead, whose own winners are then the truth.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tabulate import tabulate

from nas.cli import UserError
from nas.cli import main as cli_main
from scaling_search.candidates import Candidate, Grid, find_candidates, spread
from scaling_search.compound import Coefficients, scale
from scaling_search.fit import Fit
from scaling_search.race import Race, default_budget
from scaling_search.shares import Shares
from search_spaces.builder import AnyNetwork
from search_spaces.cost import count
from search_spaces.files import atomic_write
from search_spaces.rounding import Rounding
from search_spaces.zoo import load_architecture

Truth = Callable[[np.ndarray], np.ndarray]
"""Accuracy without noise of shares `(points, 3)`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of the benchmark."""

    baseline: str = "efficientnet-b0"
    """Whose candidates are raced: a zoo name or a file."""
    candidates: int = 24
    """Networks."""
    seeds: int = 6
    """Trainings of each that the full grid has; the race has a third."""
    noise: float = 0.005
    """Standard deviation between seeds."""
    repetitions: int = 50
    """Truths with a race each."""
    seed: int = 0
    """Of the truths and the noise."""
    out: Path | None = None
    """Markdown file for the table."""
    replay: Path | None = None
    """The run folder of a complete `scaling_search.grid --full`: race over its accuracies."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One race and the full grid over the same noise."""

    covered: bool
    """Whether the race's region holds the true optimum."""
    covered_full: bool
    """Whether the full grid's does."""
    area: float
    """Part of the searched triangle in the race's region."""
    winner_true: bool
    """Whether the race's best is within half the noise of the truly best."""
    winner_full: bool
    """Whether it is among those that the full grid cannot tell apart from its best."""
    kept: float
    """Part of the full grid's winners that are among the race's."""
    overlap: float
    """Networks in both sets of winners over those in either."""
    spent: float
    """Trainings over the full grid's."""
    resolved: bool


def run(settings: Settings) -> int:
    """Run, print and write."""
    start = time.monotonic()
    if settings.replay is not None:
        lines = _replayed(settings, settings.replay)
    else:
        lines = _synthetic(settings)
    lines.append(f"\n{time.monotonic() - start:.0f} s")
    print("\n".join(lines))
    if settings.out is not None:
        atomic_write(settings.out, "\n".join(lines) + "\n")
    return 0


def race_and_grid(
    candidates: Sequence[Candidate],
    accuracies: np.ndarray,
    *,
    truth: Truth | None,
    noise: float,
    seed: int,
    at_once: int = 2,
) -> Trial:
    """Race over `accuracies`, `(candidates, seeds)`, and compare with the fit to all of them.

    Args:
        candidates: The networks.
        accuracies: Of every candidate with every seed.
        truth: Without noise; None: not known, and what asks for it is counted as false.
        noise: Standard deviation between seeds.
        seed: Of the fits.
        at_once: Workers.
    """
    table = {c.architecture.digest: row for c, row in zip(candidates, accuracies, strict=True)}
    race = Race(
        candidates=candidates,
        seeds=accuracies.shape[1],
        budget=default_budget(*accuracies.shape),
        target=2.0,
        at_once=at_once,
        seed=seed,
    )
    while runs := race.next_round():
        told: dict[str, dict[int, float]] = {}
        for candidate, index in runs:
            digest = candidate.architecture.digest
            told.setdefault(digest, {})[index] = float(table[digest][index])
        race.tell(told)
    assert race.fit is not None
    every = {digest: dict(enumerate(map(float, row))) for digest, row in table.items()}
    full = Fit(candidates, every, target=2.0, seed=seed)
    ours, theirs = _winners(race.fit), _winners(full)
    winner = race.fit.best.candidate
    return Trial(
        covered=_covers(race.fit, truth),
        covered_full=_covers(full, truth),
        area=1.0 if race.fit.region is None else float(race.fit.region.mean()),
        winner_true=truth is not None and _is_as_good(winner, candidates, truth, noise / 2),
        winner_full=winner.architecture.digest in theirs,
        kept=len(ours & theirs) / len(theirs),
        overlap=len(ours & theirs) / len(ours | theirs),
        spent=race.spent / accuracies.size,
        resolved=race.fit.resolved,
    )


def truths(rng: np.random.Generator) -> Mapping[str, Truth]:
    """Concave surfaces with the optimum at a random place, the same for all."""
    optimum, curvature = rng.dirichlet([2, 2, 2]), rng.uniform(0.5, 2, 3)

    def squares(shares: np.ndarray) -> np.ndarray:
        return ((shares - optimum) ** 2).sum(1)

    return {
        "quadratic, 2 to 10 points deep": lambda s: 0.6 - 0.06 * ((s - optimum) ** 2) @ curvature,
        "no quadratic (power 1.5)": lambda s: 0.6 - 0.05 * squares(s) ** 0.75,
        "a hill (Gaussian)": lambda s: 0.6 + 0.03 * np.exp(-squares(s) / (2 * 0.35**2)),
        "shallow: 1 point deep": lambda s: 0.6 - 0.01 * squares(s),
        "flat": lambda s: 0.6 + 0 * squares(s),
    }


def _synthetic(settings: Settings) -> list[str]:
    base = load_architecture(settings.baseline)
    candidates = spread(find_candidates(base, Grid()), settings.candidates)
    shares = np.array([c.shares.values for c in candidates])
    rows = []
    for name in truths(np.random.default_rng(0)):
        rng = np.random.default_rng(settings.seed)
        trials = []
        for repetition in range(settings.repetitions):
            truth = truths(rng)[name]
            noise = rng.normal(0, settings.noise, (len(candidates), settings.seeds))
            accuracies = truth(shares)[:, None] + noise
            trials.append(
                race_and_grid(
                    candidates, accuracies, truth=truth, noise=settings.noise, seed=repetition
                )
            )
        rows.append({"truth": name, **_summary(trials)})
    return [
        f"{len(candidates)} networks of {base.name!r} x {settings.seeds} seeds, noise "
        f"{settings.noise:g}, {settings.repetitions} races each",
        "",
        tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True),
    ]


def _replayed(settings: Settings, folder: Path) -> list[str]:
    candidates, accuracies = read_grid(folder)
    rng = np.random.default_rng(settings.seed)
    trials = []
    for repetition in range(settings.repetitions):
        shuffled = accuracies[:, rng.permutation(accuracies.shape[1])]
        trials.append(race_and_grid(candidates, shuffled, truth=None, noise=0.0, seed=repetition))
    unknown = ("region holds the true optimum", "the same, full grid", "winner truly tied")
    summary = {name: value for name, value in _summary(trials).items() if name not in unknown}
    return [
        f"{folder}: {accuracies.shape[0]} networks x {accuracies.shape[1]} seeds, "
        f"{settings.repetitions} races over its seeds in random order",
        "",
        tabulate([summary], headers="keys", tablefmt="github", disable_numparse=True),
    ]


def read_grid(folder: Path) -> tuple[list[Candidate], np.ndarray]:
    """The candidates of a complete grid and their accuracies, `(candidates, seeds)`.

    Raises:
        UserError: The folder holds no complete grid.
    """
    try:
        base = load_architecture(folder / "baseline.json")
        rounding = Rounding(
            **json.loads((folder / "config.json").read_text())["conditions"]["rounding"]
        )
        grid, trials = (pd.read_csv(folder / name) for name in ("grid.csv", "trials.csv"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is no finished run of scaling_search.grid: {error}.") from error
    candidates = [_candidate(base, rounding, row) for row in grid.to_dict("records")]
    measured = trials.dropna(subset=["accuracy"])
    table = measured.pivot_table(index="digest", columns="seed", values="accuracy")
    table = table.reindex([c.architecture.digest for c in candidates])
    if table.isna().to_numpy().any():
        raise UserError(f"{folder} holds no complete grid. Run scaling_search.grid with --full.")
    return candidates, table.to_numpy()


def _candidate(base: AnyNetwork, rounding: Rounding, row: Mapping[Any, Any]) -> Candidate:
    """A candidate from its row of grid.csv."""
    coefficients = Coefficients(row["alpha"], row["beta"], row["gamma"])
    network = scale(base, coefficients, 1, rounding)
    assert network.digest == row["digest"], f"{coefficients.label} makes another network now"
    return Candidate(
        architecture=network,
        coefficients=coefficients,
        triples=(coefficients,),
        cost=count(network),
        ratio=row["measured_ratio"],
        shares=Shares(row["share_depth"], row["share_width"], row["share_resolution"]),
    )


def _summary(trials: Sequence[Trial]) -> dict[str, str]:
    def share(name: Literal["covered", "covered_full", "winner_true", "winner_full"]) -> str:
        return f"{np.mean([getattr(trial, name) for trial in trials]):.0%}"

    return {
        "region holds the true optimum": share("covered"),
        "the same, full grid": share("covered_full"),
        "part of the triangle": f"{np.mean([t.area for t in trials]):.0%}",
        "winner truly tied": share("winner_true"),
        "winner tied in the full grid": share("winner_full"),
        "its winners kept": f"{np.mean([t.kept for t in trials]):.0%}",
        "winners in common": f"{np.mean([t.overlap for t in trials]):.0%}",
        "trainings": f"{np.mean([t.spent for t in trials]):.1%}",
        "resolved": f"{np.mean([t.resolved for t in trials]):.0%}",
    }


def _covers(fit: Fit, truth: Truth | None) -> bool:
    if truth is None or fit.region is None:
        return False
    return bool(fit.region[int(np.argmax(truth(fit.points)))])


def _is_as_good(
    winner: Candidate, candidates: Sequence[Candidate], truth: Truth, margin: float
) -> bool:
    values = truth(np.array([winner.shares.values, *(c.shares.values for c in candidates)]))
    return bool(values[0] >= values[1:].max() - margin)


def _winners(fit: Fit) -> set[str]:
    return {s.candidate.architecture.digest for s in (fit.best, *fit.tied)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(
        run,
        Settings,
        argv,
        prog="python -m experiments.scaling_benchmark",
        description=__doc__ or "",
    )


if __name__ == "__main__":
    sys.exit(main())
