"""Which training `scaling_search.family` proposes, and on which images."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaling_search.compound import Coefficients
from scaling_search.hardware import Needs
from scaling_search.members import Member, Steps, member_at
from scaling_search.next_training import data_words, training_lines
from tests.grid_evaluators import TINY

MEMBERS = [member_at(TINY, Coefficients(1.2, 1.1, 1.15), phi, Steps()) for phi in range(4)]
SMALL = Needs(
    name="any",
    train_batch=128,
    training_bytes=10**6,
    inference_bytes_1=10**3,
    inference_bytes_64=10**5,
    latency_ms_1=1.0,
    latency_ms_64=50.0,
    fits_training=True,
    fits_inference=True,
    largest_train_batch=256,
)
SLOW = replace(SMALL, latency_ms_64=None)
LARGE = replace(SMALL, fits_training=False, largest_train_batch=32, latency_ms_64=None)
UNKNOWN = replace(SMALL, fits_training=None, largest_train_batch=None)


def _proposed(needs: list[Needs], members: list[Member] = MEMBERS) -> tuple[str, str]:
    """The reason and the command."""
    data = ["--data", "my photos"]
    reason, command = training_lines(members, needs, Path("runs/f"), data)
    return reason.removeprefix("note    "), command.removeprefix("next    python -m nas.train ")


@pytest.mark.parametrize(
    ("needs", "name", "why"),
    [
        ([SMALL, SMALL, SMALL, SMALL], "B3", "the largest that fits in training with 128 images"),
        ([SMALL, SMALL, SLOW, LARGE], "B1", "and infers 64 within 3 s; smaller ones train sooner"),
        ([UNKNOWN, UNKNOWN, SLOW, SLOW], "B1", "the largest that fits"),
        ([SLOW, SLOW, SLOW, LARGE], "B0", "the smallest; 64 images take it more than 3 s"),
        ([], "B1", "the first above the baseline; which is the largest that fits, --measure tells"),
    ],
)
def test_the_largest_that_fits_is_proposed(needs: list[Needs], name: str, why: str) -> None:
    reason, command = _proposed(needs)
    assert reason.startswith(f"{name} is the ")
    assert why in reason
    assert command == f"--arch runs/f/{name}.json --data 'my photos' --out runs/f/{name}"


def test_where_none_fits_the_smallest_comes_with_fewer_images_a_step() -> None:
    reason, command = _proposed([LARGE] * 4)
    assert reason == (
        "B0 is the smallest; no member fits in training with 128 images a step on this device"
    )
    assert command.endswith("--out runs/f/B0 --batch-size 32")


def test_what_was_judged_by_another_batch_is_trained_with_it() -> None:
    _, command = _proposed([replace(need, train_batch=64) for need in (SMALL, SMALL, SMALL, LARGE)])
    assert command.endswith("--out runs/f/B2 --batch-size 64")


def test_without_a_larger_one_the_smallest_is_proposed() -> None:
    members = [member_at(TINY, Coefficients(1.2, 1.1, 1.15), phi, Steps()) for phi in (-2, -1)]
    reason, command = _proposed([], members)
    assert reason.startswith("B-2 is the smallest; ")
    assert "--arch runs/f/B-2.json" in command


def _config(folder: Path, **settings: Any) -> Path:
    """A run's baseline.json, which need not be there, beside its config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"conditions": {}, "settings": settings}))
    return folder / "baseline.json"


def test_images_are_those_of_the_run(tmp_path: Path) -> None:
    plain = _config(tmp_path / "plain", data="photos", evaluator=None, epochs=5)
    assert data_words(plain) == ["--data", "photos"]
    special = {"flip": False, "skip_bad": True, "follow_links": True, "evaluator": "supernet"}
    file = _config(tmp_path / "special", data="my photos", **special)
    words = ["--data", "my photos", "--no-flip", "--skip-bad", "--follow-links"]
    assert data_words(file) == data_words(f"my_module:build@{file}") == words
    assert data_words(None, "efficientnet-b0", plain, file) == ["--data", "photos"]


@pytest.mark.parametrize(
    "settings",
    [
        {"data": "digits", "evaluator": "my_module:accuracy"},
        {"data": "photos\x1b[2J"},
        {"data": 7},
        {"data": "photos", "flip": "no"},
        {},
    ],
)
def test_images_that_nothing_names_have_a_placeholder(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    file = _config(tmp_path / "run", **settings)
    assert data_words(file, tmp_path / "nowhere.json") == ["--data", "IMAGES"]
    lines = list(training_lines(MEMBERS, [], tmp_path, ["--data", "IMAGES"], ["--device", "cpu"]))
    assert lines[1].startswith("note    IMAGES stands for your images: a folder")
    assert shlex.split(lines[2])[-2:] == ["--device", "cpu"]
