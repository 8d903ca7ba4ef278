"""The evaluator that trains: it learns real digits, is shipped, and is not changed by a look."""

import math
import pickle
from dataclasses import replace

import pytest
import torch

from nas.data.dataset import ImageData, load_for_search
from nas.training.parts import build_network
from nas.training.proxy import ProxyTraining
from nas.training.recipe import Recipe
from nas.training.trainer import fit, seconds_per_image
from tests.models import tiny
from tests.noise import image_data, noise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_for_search("digits", size=8)


def test_accuracy_rises_on_digits(digits: ImageData) -> None:
    evaluator = ProxyTraining(data=digits, learning_rate=0.8)
    assert evaluator(tiny(), epochs=3, seed=0) > 0.5
    assert evaluator.recipe(3).flip is False


def test_half_the_batch_trains_with_half_as_many_images_a_step(digits: ImageData) -> None:
    evaluator = ProxyTraining(data=digits, batch_size=32)
    images = len(digits.train)
    whole, half = evaluator.recipe(2), evaluator.at_half_batch().recipe(2)
    assert half.batch(images) == whole.batch(images) // 2 == 16
    assert half.peak_rate(images) == whole.peak_rate(images) / 2
    assert evaluator.batch_size == 32
    assert replace(evaluator, batch_size=3).at_half_batch().batch_size == 2  # batch norm's least
    assert ProxyTraining(data=digits, batch_size=10**6).at_half_batch().recipe(2).batch(
        images
    ) == max(2, ProxyTraining(data=digits, batch_size=10**6).recipe(2).batch(images) // 2)


def test_proxy_training_is_a_pure_function_that_can_be_shipped(digits: ImageData) -> None:
    evaluator = ProxyTraining(data=digits)
    shipped = pickle.loads(pickle.dumps(evaluator))
    assert evaluator(tiny(), epochs=1, seed=0) == shipped(tiny(), epochs=1, seed=0)
    assert evaluator.seconds_per_image(tiny()) > 0


def test_looking_at_a_training_does_not_change_it(digits: ImageData) -> None:
    """To the bit, dropout and shuffling included."""
    evaluator = ProxyTraining(data=digits)
    architecture = replace(tiny(), dropout=0.3, drop_path=0.2)
    *_, last = stages = list(evaluator.stages(architecture, epochs=3, seed=2, rungs=(1, 2, 3)))
    assert last == evaluator(architecture, epochs=3, seed=2)
    assert len(set(stages)) > 1
    *_, last = evaluator.stages(architecture, epochs=3, seed=2, rungs=(2, 3))
    assert last == stages[-1]
    # Not what two epochs alone would come to: the rate falls over three.
    recipe = evaluator.recipe(3)
    assert recipe.rate(10, len(digits.train)) != evaluator.recipe(2).rate(10, len(digits.train))


def test_read_only_images_train_without_a_warning() -> None:
    split = noise(40)
    split.images.flags.writeable = False
    split.labels.flags.writeable = False
    evaluator = ProxyTraining(data=image_data(split, held_out=split))
    assert 0 <= evaluator(tiny(12), epochs=1, seed=0) <= 1
    assert 0 <= evaluator(tiny(8), epochs=1, seed=0) <= 1
    recipe = Recipe.full(1)
    fit(build_network(tiny(8), 0), split, recipe, seed=0, device=CPU)
    assert 0 < seconds_per_image(tiny(8), split, recipe, device=CPU) < math.inf
    assert seconds_per_image(tiny(8), split, recipe, device=CPU, patience=0) == math.inf


def test_resized_images_of_the_last_two_resolutions_are_kept_and_not_shipped() -> None:
    split = noise(20)
    evaluator = ProxyTraining(data=image_data(split, held_out=split))
    first = evaluator._splits(9)
    evaluator._splits(10)
    assert evaluator._splits(9)[0] is first[0]
    evaluator._splits(11)
    assert sorted(evaluator._resized) == [9, 11]
    assert pickle.loads(pickle.dumps(evaluator))._resized == {}


def test_proxy_training_needs_held_out_images() -> None:
    with pytest.raises(ValueError, match="load_for_search"):
        ProxyTraining(data=image_data(noise(20), held_out=None))
