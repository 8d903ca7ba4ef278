"""A model is read only where its weights, architecture and model.json belong together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.models.saved import ModelError, load_model
from search_spaces.architecture import Stem
from search_spaces.weights import WeightsError
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


@pytest.mark.parametrize(
    "claims",
    [
        {"head_width": 10**12},
        {"num_classes": 10**9},
        {"stem": Stem(width=10**10)},
        {"stages": 2000 * SMALL.stages},
    ],
)
def test_rule_weights_a_card_that_claims_a_giant_network_takes_no_memory(
    tmp_path: Path, claims: dict[str, Any]
) -> None:
    """Built, each would end this process for want of memory, or take minutes."""
    giant = replace(SMALL, name="giant", **claims)
    weights = trained(tmp_path, SMALL, classes=None)
    card = tmp_path / "model.json"
    claimed = {"architecture": json.loads(giant.to_json())}
    card.write_text(json.dumps({**json.loads(card.read_text()), **claimed}))
    with pytest.raises(ModelError, match=r"giant has .*G? parameters, the file .* numbers\."):
        load_model(weights, None)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.999])
def test_row_19_a_flipped_bit_in_weights_is_refused(tmp_path: Path, at: float) -> None:
    weights = trained(tmp_path, SMALL)
    content = bytearray(weights.read_bytes())
    content[int(at * len(content))] ^= 1
    weights.write_bytes(content)
    message = "the file was damaged, or is another model's|is not a whole safetensors file"
    with pytest.raises((ModelError, WeightsError), match=message):
        load_model(weights, None)
