"""A model is read only where its weights, architecture and model.json belong together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.models.saved import ModelError, load_model
from tests.models import CLASSES, MEAN, SMALL, STD, trained


def test_explicit_architecture_finds_the_matching_model_json(tmp_path: Path) -> None:
    weights = trained(tmp_path / "run", SMALL)
    (tmp_path / "arch.json").write_text(replace(SMALL, name="renamed").to_json())
    assert load_model(weights, str(tmp_path / "arch.json")).card.classes == tuple(CLASSES)
    moved = weights.rename(tmp_path / "moved.safetensors")
    assert load_model(moved, str(tmp_path / "run" / "model.json")).card.classes == tuple(CLASSES)
    assert load_model(moved, str(tmp_path / "arch.json")).card.classes is None


def test_same_shapes_but_other_strides_are_told_by_the_model_json(tmp_path: Path) -> None:
    weights = trained(tmp_path, SMALL)
    other = tmp_path / "other.json"
    other.write_text(replace(SMALL, activation="relu").to_json())
    with pytest.raises(ModelError, match=r"differs in activation\. Leave --arch out"):
        load_model(weights, str(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a"]}, r"`classes` has 1 entries .* needs 5"),
        ({"classes": [1, 2, 3, 4, 5]}, r"classes\.0: .*string"),
        ({"preprocessing": {"mean": [0.5], "std": STD}}, r"`preprocessing\.mean` has 1 entries"),
        ({"preprocessing": {"mean": MEAN, "std": [1, 0, 1]}}, r"preprocessing\.std\.1: .*greater"),
        ({"preprocessing": {"mean": MEAN}}, r"preprocessing\.std: Field required"),
    ],
)
def test_broken_model_json_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    weights = trained(tmp_path, SMALL, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(weights, None)
