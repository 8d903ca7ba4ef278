"""`python -m experiments.pipeline`: the whole method in one go, at small settings.

search -> grid -> family -> train (baseline and B1) -> export. On the embedded digits it takes three
and a half minutes on two cores, more than six on two slower ones. Every stage prints its own
command, so that this is also a script to copy from; what the stages do is in their own modules.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.cli import UserError, format_duration, format_number
from nas.cli import main as cli_main
from search_spaces.cost import count
from search_spaces.zoo import load_architecture


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of the pipeline; each stage's own command has many more."""

    data: str = "digits"
    """Images, as for nas.run."""
    out: Path = Path("runs/pipeline")
    """Folder for everything; the same command resumes."""
    trials: int = 12
    """Networks that the search tries."""
    epochs: int = 3
    """Epochs of a trial, in search and grid."""
    train_epochs: int = 12
    """Epochs of the final trainings."""
    workers: int = min(2, os.cpu_count() or 1)
    """Trials at a time."""
    max_images: int | None = None
    """Images that search and grid use at most."""


def run(settings: Settings) -> int:
    """Run every stage; the first that fails ends the run with its status."""
    start = time.monotonic()
    search, grid = settings.out / "search", settings.out / "grid"
    family, models = settings.out / "family", settings.out / "models"
    shared = ["--data", settings.data, "--workers", str(settings.workers)]
    if settings.max_images is not None:
        shared += ["--max-images", str(settings.max_images)]
    _stage(
        "nas.run",
        *shared,
        *("--run-dir", str(search), "--trials", str(settings.trials)),
        *("--epochs", str(settings.epochs), "--finalists", "2", "--finalist-seeds", "2"),
    )
    _stage(
        "scaling_search.grid",
        *("--baseline", f"{search}/baseline.json", *shared, "--run-dir", str(grid)),
        *("--depth-rounding", "round", "--candidates", "12", "--seeds", "4", "--trials", "20"),
        *("--tolerance", "0.1", "--epochs", str(settings.epochs)),
    )
    _stage(
        "scaling_search.family",
        *("--baseline", f"{grid}/baseline.json", "--constants", f"{grid}/constants.json"),
        *("--depth-rounding", "round", "--out", str(family)),
    )
    for member in ("B0", "B1"):
        _stage(
            "nas.train",
            *("--arch", f"{family}/{member}.json", "--data", settings.data),
            *("--out", f"{models}/{member}", "--epochs", str(settings.train_epochs)),
        )
    _stage(
        "nas.export",
        *("--weights", f"{models}/B1/model.safetensors", "--out", f"{models}/B1"),
    )
    for member in ("B0", "B1"):
        card = json.loads((models / member / "model.json").read_text())
        macs = count(load_architecture(models / member / "model.json")).macs
        metrics = card["metrics"]
        split = "validation" if metrics["test_accuracy"] is None else "test"
        accuracy = f"{split} accuracy {metrics[f'{split}_accuracy']:.4f}"
        print(f"{member}      {accuracy} · {format_number(macs)} multiply-adds")
    print(
        f"done    in {format_duration(time.monotonic() - start)}; everything is in {settings.out}"
    )
    return 0


def _stage(module: str, *arguments: str) -> None:
    """Print and run one command of the pipeline."""
    print(f"\n$ python -m {module} {shlex.join(arguments)}", flush=True)
    if (status := _main_of(module)(arguments)) != 0:
        if status in (130, 143):
            print("        The pipeline's own command goes on from there too.")
            raise KeyboardInterrupt
        raise UserError(
            f"{module} ended with status {status}, for the reason above. What is finished is kept: "
            "the same command goes on from there; other settings need another --out."
        )


def _main_of(module: str) -> Callable[[Sequence[str]], int]:
    import importlib

    return importlib.import_module(module).main


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(
        run, Settings, argv, prog="python -m experiments.pipeline", description=__doc__ or ""
    )


if __name__ == "__main__":
    sys.exit(main())
