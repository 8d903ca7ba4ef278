"""What a finished training leaves in its folder, and what it says of it."""

import hashlib
import json
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nas.cli import UserError
from nas.data.dataset import Split, majority_share, single_answer
from nas.data.images import WORDS
from nas.folder import RunFolder
from nas.models.saved import CARD, read_json, sha256
from nas.training.augment import MEAN, STD
from nas.training.score import class_means
from search_spaces.architecture import SCHEMA
from search_spaces.builder import AnyNetwork
from search_spaces.network import AnyModule
from search_spaces.weights import weights_bytes
from search_spaces.zoo import file_argument

WEIGHTS = "model.safetensors"
CLASSES = "classes.csv"

_SPLITS = ("validation", "test")
_REPORTED = ("accuracy", "majority_share")
_NEWER = ("balanced_accuracy", "single_answer")
"""Of a split, too, in folders since these are counted."""
_LEARNT = 0.02
"""Balanced accuracy above that of a single answer, from which a network has learnt something."""

Metrics = dict[str, float | None]
"""By name; None where the data have no such split."""


class Finished(NamedTuple):
    """What a folder says of the training that it holds."""

    conditions: dict[str, Any]
    metrics: Metrics


def split_metrics(name: str, split: Split | None, found: np.ndarray | None = None) -> Metrics:
    """What a network is worth on a split.

    Args:
        name: `validation` or `test`.
        split: Its images; None: the data have none.
        found: The classes that the network gives them, int (N,).

    Returns:
        Accuracy, balanced accuracy (the mean of the classes' own), and what always answering the
        largest class would have of either.
    """
    values: tuple[float | None, ...] = (None,) * 4
    if split is not None and found is not None:
        right = found == split.labels
        balanced = class_means(split.labels, right)
        values = float(right.mean()), majority_share(split), balanced, single_answer(split)
    return {f"{name}_{of}": v for of, v in zip((*_REPORTED, *_NEWER), values, strict=True)}


def write_model(
    folder: RunFolder,
    network: AnyModule,
    *,
    classes: Sequence[str],
    conditions: Mapping[str, Any],
    metrics: Metrics,
) -> None:
    """Write the weights, then the model.json that describes them; each whole or not at all."""
    weights = weights_bytes(network)
    folder.write(WEIGHTS, weights)
    card = {
        "schema": SCHEMA,
        "architecture": json.loads(network.architecture.to_json()),
        "classes": list(classes),
        "preprocessing": {
            "resolution": network.architecture.resolution,
            "mean": list(MEAN),
            "std": list(STD),
            "range": [0.0, 1.0],
            **WORDS,
        },
        "metrics": metrics,
        "recipe": conditions["recipe"],
        "conditions": {key: value for key, value in conditions.items() if key != "recipe"},
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        },
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    folder.write(CARD, json.dumps(card, indent=2) + "\n")


def finished_training(folder: Path) -> Finished | None:
    """The finished training that a folder holds; None if there is none, or its weights are damaged.

    Raises:
        UserError: It holds a model that no training left there.
        ModelError: Its model.json cannot be read.
    """
    card, weights = folder / CARD, folder / WEIGHTS
    if not card.exists():
        return None
    fields = read_json(card)
    if not {"conditions", "recipe", "metrics"} <= fields.keys():
        raise UserError(f"{card} is not of a training. Choose another --out, or move it.")
    are_objects = all(isinstance(fields[key], dict) for key in ("conditions", "recipe", "metrics"))
    if not are_objects or not _reportable(fields["metrics"]):
        raise UserError(f"{card} is damaged. Choose another --out, or move it.")
    if not weights.is_file() or sha256(weights) != fields.get("weights_sha256"):
        return None
    return Finished({**fields["conditions"], "recipe": fields["recipe"]}, fields["metrics"])


def _reportable(metrics: Mapping[str, Any]) -> bool:
    """Whether `report` finds its numbers."""
    needed, newer = (
        [f"{split}_{of}" for split in _SPLITS for of in ofs] for ofs in (_REPORTED, _NEWER)
    )
    return metrics.keys() >= set(needed) and all(
        value is None or (isinstance(value, float | int) and 0 <= value <= 1)
        for value in map(metrics.get, (*needed, *newer))
    )


def report(folder: Path, metrics: Metrics) -> None:
    """Print the final accuracy, and a warning if it is worth nothing."""
    name = "test" if metrics["test_accuracy"] is not None else "validation"
    value, majority = metrics[f"{name}_accuracy"], metrics[f"{name}_majority_share"]
    if value is None or majority is None:
        print("WARNING the data have neither test nor validation images: accuracy unknown")
        return
    note = "" if name == "test" else "validation, for there is no test split: "
    balanced, single = (metrics.get(f"{name}_{of}") for of in _NEWER)
    # Classes of one size have the same mean.
    even = balanced is None or math.isclose(balanced, value)
    mean = "" if even else f" · mean of the classes' {balanced:.4f}"
    print(f"test    {note}accuracy {value:.4f}{mean} · most frequent class {majority:.4f}")
    if majority == 1:
        print(
            f"WARNING the {name} images are all of one class: what they say of accuracy is little"
        )
    elif value <= majority and (balanced or 0) <= (single or 0) + _LEARNT:
        print(
            f"WARNING {folder} is no better than always answering the most frequent class: the "
            "network learned nothing useful. Train longer, or change --learning-rate."
        )


def export_command(folder: Path, architecture: AnyNetwork) -> str:
    """The command that makes the model run elsewhere."""
    arch = file_argument(architecture, folder / CARD)
    files = ["--arch", arch, "--weights", str(folder / WEIGHTS)]
    return shlex.join(["python", "-m", "nas.export", *files, "--out", str(folder / "export")])
