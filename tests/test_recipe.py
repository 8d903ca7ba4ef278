"""The recipe of a training: its batches, its rate, its average, and the rules that it keeps."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.training.recipe import Recipe, RecipeError


@given(st.integers(2, 100_000), st.integers(2, 512))
def test_every_step_has_a_full_batch_of_at_least_two_images(images: int, batch_size: int) -> None:
    recipe = Recipe.proxy(1, batch_size=batch_size)
    batch, steps = recipe.batch(images), recipe.steps(images)
    assert 2 <= batch <= min(batch_size, images)
    assert steps >= 1
    assert batch * steps <= images < batch * (steps + 1) or steps == 1


def test_tiny_data_get_smaller_batches() -> None:
    recipe = Recipe.proxy(1)
    assert (recipe.batch(50_000), recipe.steps(50_000)) == (128, 390)
    assert (recipe.batch(1_293), recipe.steps(1_293)) == (64, 20)  # digits
    assert recipe.batch(40) == 8
    assert Recipe.full(1, batch_size=128).batch(1_293) == 128


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    recipe = replace(Recipe.proxy(10, learning_rate=0.4), warmup_epochs=1.0)
    rates = [recipe.rate(step, 50_000) for step in range(3_900)]
    assert recipe.peak_rate(50_000) == pytest.approx(0.2)  # 128 images of 256
    assert rates[0] == pytest.approx(0.2 / 390)
    assert rates[389] == rates[390] == pytest.approx(0.2)
    assert rates[390 + 1755] == pytest.approx(0.1)  # halfway
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert all(a <= b for a, b in itertools.pairwise(rates[:390]))
    assert all(a >= b for a, b in itertools.pairwise(rates[390:]))


def test_the_average_adapts_to_the_number_of_steps() -> None:
    assert Recipe.full(1, ema_decay=0.5).average_decay(1_000) == 0.5
    assert Recipe.full(10).average_decay(50_000) == pytest.approx(1 - 20 / 3_900)
    assert Recipe.full(10_000).average_decay(50_000) == 0.9999  # the paper's
    assert Recipe.full(1).average_decay(100) == 0.0
    assert Recipe.proxy(10).average_decay(50_000) == 0.0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"learning_rate": math.nan}, "learning_rate > 0"),
        ({"warmup_epochs": 9.0}, "0 <= warmup_epochs <= epochs"),
        ({"ema_decay": 1.0}, "0 <= ema_decay < 1"),
        ({"min_crop_area": 0.0}, "0 < min_crop_area <= 1"),
        ({"erasing": 0.5}, "`erasing` needs augment"),
    ],
)
def test_a_recipe_names_the_rule_that_it_breaks(change: dict[str, float], rule: str) -> None:
    with pytest.raises(RecipeError, match=rule):
        replace(Recipe.proxy(3), **change)
