"""Crops of each image are taken from more pixels than the network sees; all else is as before."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data.dataset import Split, load_for_training
from nas.train import main
from nas.training.augment import Batches, at_resolution
from nas.training.parts import build_network
from nas.training.recipe import Augment, Recipe
from nas.training.trainer import Trainer
from tests.models import tiny
from tests.trees import plant, same

CPU = torch.device("cpu")
TREE = {"train/cat": 12, "train/dog": 12, "val/cat": 3, "val/dog": 3, "test/cat": 2, "test/dog": 2}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return plant(tmp_path / "pets", TREE, size=(20, 14))


@pytest.mark.parametrize(("asked", "stored"), [(None, 8), (12, 12), (100, 14), (4, 8)])
def test_train_is_stored_with_the_pixels_asked_for_that_it_has(
    asked: int | None, stored: int, pets: Path
) -> None:
    data = load_for_training(str(pets), size=8, train_size=asked)
    large, small = (load_for_training(str(pets), size=size) for size in (stored, 8))
    assert same(data.train, large.train)
    assert same(data.validation, small.validation)
    assert same(data.test, small.test)
    assert data.fingerprint == large.fingerprint == small.fingerprint


@pytest.mark.parametrize(
    ("augment", "area", "pixels"),
    [
        ("flip-crop", 0.25, 224),
        ("none", 0.25, 224),
        ("trivial", 0.25, 448),
        ("resized-crop", 0.08, 448),
        ("randaugment", 0.5, 317),
        ("trivial", 1.0, 224),
    ],
)
def test_the_smallest_crop_has_the_resolution(augment: Augment, area: float, pixels: int) -> None:
    recipe = replace(Recipe.full(1, augment=augment), min_crop_area=area)
    assert recipe.stored_pixels(224) == pixels


def _split(side: int, number: int = 40) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (number, 3, side, side), dtype=np.uint8)
    return Split(images, np.arange(number) % 3)


def test_crops_keep_the_detail_of_larger_images() -> None:
    # Checks of one pixel: any enlargement blurs them, and any reduction makes them grey.
    checks = np.indices((16, 16)).sum(0) % 2 * np.uint8(255)
    images = np.broadcast_to(checks, (8, 3, 16, 16)).astype(np.uint8)
    recipe = replace(Recipe.full(1, augment="resized-crop"), min_crop_area=0.25, flip=False)
    contrasts = []
    for split in (Split(images, np.zeros(8, int)), at_resolution(Split(images, np.zeros(8)), 8)):
        batches = Batches(split, recipe, resolution=8, seed=0, device=CPU)
        (batch,) = (batch for batch, _ in batches.epoch(0))
        assert batch.shape == (8, 3, 8, 8)
        contrasts.append(batch.float().std(dim=(1, 2, 3)).max())
    assert contrasts[0] > 30 > 10 > contrasts[1]


def test_batch_norms_see_images_as_in_evaluation() -> None:
    large, small = _split(16), at_resolution(_split(16), 8)
    networks = [
        Trainer(
            build_network(tiny(num_classes=3), 0), split, Recipe.full(1), seed=0, device=CPU
        ).evaluable()
        for split in (large, small)
    ]
    pixels = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        one, other = (network(pixels) for network in networks)
    assert torch.allclose(one, other, atol=1e-5)


def test_without_crops_images_are_resized_once() -> None:
    recipe = Recipe.full(1, augment="flip-crop")
    losses = [
        Trainer(
            build_network(tiny(num_classes=3), 0), split, recipe, seed=0, device=CPU
        ).run_epoch()
        for split in (_split(16), at_resolution(_split(16), 8))
    ]
    assert losses[0] == losses[1]


def test_the_command_takes_crops_of_what_images_have(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch, out = tmp_path / "tiny.json", tmp_path / "out"
    arch.write_text(tiny(num_classes=2).to_json())
    command = ["--arch", str(arch), "--data", str(pets), "--epochs", "1", "--threads", "1"]
    begun = [*command, "--out", str(out)]
    assert main(begun) == 0
    assert "trivial from 14 px, mirrored" in capsys.readouterr().out
    assert json.loads((out / "model.json").read_text())["conditions"]["stored_pixels"] == 14

    assert main([*begun, "--stored-pixels", "14"]) == 0
    assert main([*begun, "--stored-pixels", "8"]) == 2
    assert "stored_pixels was 14, now None" in capsys.readouterr().err
    assert main([*begun, "--stored-pixels", "7"]) == 2
    assert "must be at least 8, the network's resolution, but got 7" in capsys.readouterr().err

    plain = [*command, "--out", str(tmp_path / "plain"), "--augment", "flip-crop"]
    assert main([*plain, "--stored-pixels", "14"]) == 2
    assert "`--augment flip-crop` does not take" in capsys.readouterr().err
    assert main(plain) == 0
    assert "flip-crop, mirrored" in capsys.readouterr().out
