"""What a trained network gets right and wrong, class by class."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

_SHOWN = 3
_WEAK = 0.05
"""Of accuracy, below the mean of the classes: what is worth a line."""


def by_class(labels: np.ndarray, found: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """One row a class that has images, in the order of `classes`.

    Args:
        labels: True classes of the images, int (N,).
        found: What the network says, int (N,).
        classes: Names.

    Returns:
        Columns `class`, `images`, `recall` (the class's own accuracy), `answers` (how often the
        network says so), `precision` (share of those that are right; NaN without any), `taken_for`
        (the class that its images are wrongly given most; empty if none is) and `taken` (how many).
    """
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, found), 1)
    right, images, answers = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    wrong = confusion - np.diag(right)
    taken, names = wrong.max(1), np.array(classes, object)
    with np.errstate(invalid="ignore"):
        frame = pd.DataFrame(
            {
                "class": names,
                "images": images,
                "recall": right / images,
                "answers": answers,
                "precision": right / answers,
                "taken_for": np.where(taken > 0, names[wrong.argmax(1)], ""),
                "taken": taken,
            }
        )
    return frame.loc[images > 0].reset_index(drop=True)


def weakest(frame: pd.DataFrame) -> str:
    """The classes of least recall, for people; empty if none is far below the mean of all."""
    ranked = frame.sort_values("recall", kind="stable").head(_SHOWN).to_dict("records")
    usual = frame["recall"].mean() - _WEAK
    return "; ".join(_in_words(row) for row in ranked if row["recall"] < usual)


def _in_words(row: Mapping[Hashable, Any]) -> str:
    words = f"{row['class']} {row['recall']:.3f} of {row['images']:,}"
    return f"{words}, {row['taken']:,} taken for {row['taken_for']}" if row["taken"] else words
