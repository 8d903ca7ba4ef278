"""`python -m experiments.supernet_search`: what shared weights gain a search, at equal time.

`nas.run --evaluator supernet` searches first. Then `nas.run`, whose trials train, gets as many
trials as its own took in the time of that search, the training of the supernet included. Finalists
are trained alike. Both run folders are ordinary ones, and the same command resumes.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from nas import run as nas_run
from nas.cli import (
    OptionalNumber,
    UserError,
    command_line,
    format_duration,
    format_number,
    plural,
)
from nas.cli import main as cli_main
from nas.search.options import TrialOptions
from search_spaces.cost import count
from search_spaces.files import atomic_write
from search_spaces.zoo import load_architecture


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of the experiment; those that nas.run has too mean the same."""

    run_dir: Path = Path("runs/supernet-search")
    """Holds both run folders, `shared` and `plain`."""
    space: str = "mnasnet"
    target_flops: OptionalNumber = None
    resolution: int | None = None
    trials: int = 200
    """Networks that the search on shared weights tries."""
    supernet_epochs: int = 60
    supernet_drawn: int = 2
    times: float = 1.0
    """The plain search gets so many times as long; 3 asks if shared weights need a third."""
    finalists: int = 3
    finalist_epochs: int | None = None
    finalist_seeds: int = 3
    out: Path = Path("experiments/results")
    """Folder for the table, dated."""
    name: str = "supernet-search"
    """First part of its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("trials", "finalists", "finalist_seeds")
        if self.evaluator is not None or self.dry_run:
            raise UserError("Leave out `--evaluator` and `--dry-run`.")
        if not self.times > 0:
            raise UserError(f"`--times` must be positive, but got {self.times:g}.")


_FEW = 5
"""Trials from which the plain search's pace is taken; it makes no fewer."""
_OWN = ("run_dir", "trials", "supernet_epochs", "supernet_drawn", "times", "out", "name")


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a run folder came to."""

    trials: int
    seconds: float
    """Of the trials, and of the supernet's training; finalists and random search left out."""
    rewards: tuple[float, ...]
    """Of the baseline, trained anew: one for each seed."""
    accuracies: tuple[float, ...]
    baseline: str
    macs: int


def run(settings: Settings) -> int:
    """Run both searches and compare; the exit status."""
    shared, plain = settings.run_dir / "shared", settings.run_dir / "plain"
    supernet = [
        *("--evaluator", "supernet", "--supernet-epochs", str(settings.supernet_epochs)),
        *("--supernet-drawn", str(settings.supernet_drawn)),
    ]
    _search(settings, shared, settings.trials, *supernet)
    if not (plain / "trials.csv").exists() or len(_seconds_of_trials(plain)) < _FEW:
        _search(settings, plain, _FEW, "--finalists", "0")
    # Always from the same trials, so that a resumed run asks for as many.
    pace = float(np.mean(_seconds_of_trials(plain)[:_FEW]))
    affordable = round(settings.times * _seconds(shared) / pace)
    _search(settings, plain, max(_FEW, affordable))
    words = _compared(_searched(shared), _searched(plain))
    print(f"\n{words}\n")
    stem = f"{date.today().isoformat()}-{settings.name}"
    command = command_line("experiments.supernet_search", settings)
    atomic_write(settings.out / f"{stem}.md", f"    {command}\n\n{words}\n")
    print(f"wrote   {settings.out / stem}.md")
    return 0


def _search(settings: Settings, folder: Path, trials: int, *flags: str) -> None:
    """Run `nas.run` in a folder.

    Raises:
        UserError: It failed, for the reasons that it printed.
    """
    kept = [field.name for field in fields(Settings) if field.name not in _OWN]
    _, _, _, *common = shlex.split(command_line("nas.run", settings, only=kept))
    own = ["--run-dir", str(folder), "--trials", str(trials), *flags]
    if (status := nas_run.main([*common, *own])) in (130, 143):
        raise KeyboardInterrupt
    elif status != 0:
        raise UserError(f"The search in {folder} failed; the same command goes on.")


def _seconds_of_trials(folder: Path) -> list[float]:
    """Of the finished trials of the search."""
    return pd.read_csv(folder / "trials.csv").query("state == 'COMPLETE'")["seconds"].tolist()


def _seconds(folder: Path) -> float:
    from nas.supernet.job import seconds_spent

    return sum(_seconds_of_trials(folder)) + seconds_spent(folder / "supernet")


def _searched(folder: Path) -> Searched:
    from nas.trials.record import all_records, outcome_of

    baseline = load_architecture(folder / "baseline.json")
    rewards: list[float] = []
    accuracies: list[float] = []
    for record in all_records(folder / "study.db"):
        for trial in record.trials() if record.name.startswith("final-") else ():
            if trial.user_attrs["digest"] == baseline.digest and trial.values:
                rewards.append(trial.values[0])
                accuracies.append(outcome_of(trial).accuracy or 0.0)
        record.close()
    return Searched(
        trials=len(_seconds_of_trials(folder)),
        seconds=_seconds(folder),
        rewards=tuple(rewards),
        accuracies=tuple(accuracies),
        baseline=baseline.name,
        macs=count(baseline).macs,
    )


def _compared(shared: Searched, plain: Searched) -> str:
    """A table and a verdict."""
    from nas.search.report import compare, pooled_spread, spread

    rows: list[dict[str, Any]] = [
        {
            "search": name,
            "trials": found.trials,
            "time": format_duration(found.seconds),
            "reward": f"{sum(found.rewards) / len(found.rewards):.4f}",
            "accuracy": f"{sum(found.accuracies) / len(found.accuracies):.3f} ± "
            f"{spread(found.accuracies):.3f} ({plural(len(found.accuracies), 'seed')})",
            "multiply-adds": format_number(found.macs),
            "baseline": found.baseline,
        }
        for name, found in (("shared weights", shared), ("plain", plain))
    ]
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    noise, freedom = pooled_spread([shared.rewards, plain.rewards])
    outcome = compare(shared.rewards, plain.rewards, noise, freedom)
    time = shared.seconds / plain.seconds
    return (
        f"{table}\n\n- the baseline of shared weights, in {time:.2f} of the time: {outcome} "
        "(of the plain search's; one search each)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    prog = "python -m experiments.supernet_search"
    return cli_main(run, Settings, argv, prog=prog, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
