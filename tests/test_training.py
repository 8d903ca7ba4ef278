"""The loop and what surrounds it, on tiny networks."""

import copy
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as v2

from nas.data.dataset import Split
from nas.training.augment import (
    MEAN,
    STD,
    Batches,
    at_resolution,
    derive_seed,
    normalise,
    shift_and_flip,
)
from nas.training.parts import TrainingError, build_network, choose_device
from nas.training.recipe import Augment, Recipe
from nas.training.score import DivergedError, accuracy, answers, estimate_norms
from nas.training.trainer import Trainer, fit
from search_spaces.architecture import Architecture
from tests.models import same_weights, tiny
from tests.noise import noise

CPU = torch.device("cpu")
AUGMENTS: list[Augment] = ["none", "flip-crop", "resized-crop", "trivial", "randaugment"]


# Images


def test_normalise_is_the_textbook_formula() -> None:
    images = torch.from_numpy(noise(4).images)
    expected = v2.normalize(v2.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD))
    actual = normalise(images, CPU)
    torch.testing.assert_close(actual, expected)
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_shift_and_flip_gives_every_image_a_window_of_its_own() -> None:
    side, count = 16, 200
    image = torch.arange(3 * side * side, dtype=torch.float32).view(1, 3, side, side)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode="reflect")[0]
    windows = {}
    for y in range(5):
        for x in range(5):
            window = padded[:, y : y + side, x : x + side]
            windows[window.numpy().tobytes()] = (y, x, False)
            windows[window.flip(2).numpy().tobytes()] = (y, x, True)
    generator = torch.Generator().manual_seed(0)
    out = shift_and_flip(image.expand(count, -1, -1, -1), flip=True, generator=generator)
    drawn = [windows[one.contiguous().numpy().tobytes()] for one in out]
    assert len(set(drawn)) > 40  # of 50
    unflipped = shift_and_flip(image.expand(count, -1, -1, -1), flip=False, generator=generator)
    assert not any(windows[one.contiguous().numpy().tobytes()][2] for one in unflipped)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_shift_and_flip_takes_images_of_few_pixels(side: int) -> None:
    images = torch.from_numpy(noise(50, side).images)
    out = shift_and_flip(images, flip=True, generator=torch.Generator())
    assert out.shape == images.shape


def test_at_resolution_equals_torchvisions_resize_and_is_free_if_it_fits() -> None:
    split = noise(3, 8)
    assert at_resolution(split, 8) is split
    resized = at_resolution(split, 12)
    expected = v2.resize(
        torch.from_numpy(split.images), [12, 12], v2.InterpolationMode.BICUBIC, antialias=True
    )
    assert np.array_equal(resized.images, expected.numpy())
    assert resized.labels is split.labels


@pytest.mark.parametrize("augment", AUGMENTS)
def test_batches_depend_on_seed_and_epoch_alone(augment: Augment) -> None:
    split = noise(50)
    recipe = replace(Recipe.full(3), augment=augment)

    def epoch(seed: int, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = Batches(split, recipe, resolution=8, seed=seed, device=CPU)
        return list(batches.epoch(epoch))

    before = torch.random.get_rng_state()
    first = epoch(0, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [len(labels) for _, labels in first] == [8] * 6
    torch.manual_seed(1)  # must not matter
    for (images, labels), (again, labels_again) in zip(first, epoch(0, 1), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
        assert (images.dtype, images.shape) == (torch.uint8, (8, 3, 8, 8))
    for other in (epoch(1, 1), epoch(0, 2)):
        assert not torch.equal(first[0][0], other[0][0])


def test_loader_processes_change_nothing() -> None:
    recipe = replace(Recipe.full(3), erasing=0.5)
    here, there = (
        Batches(noise(20), recipe, resolution=8, seed=3, device=CPU, workers=n) for n in (0, 1)
    )
    next(there.epoch(1))  # is left; the processes stay
    for epoch in (0, 1):
        for one, other in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_seeds_differ_by_every_number() -> None:
    seeds = {derive_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125


# Training


@pytest.mark.parametrize("augment", AUGMENTS)
def test_same_seed_same_weights_and_another_seed_others(augment: Augment) -> None:
    recipe = replace(Recipe.full(2), augment=augment)

    def trained(seed: int) -> nn.Module:
        return fit(build_network(tiny(), seed), noise(40), recipe, seed=seed, device=CPU)

    state = torch.random.get_rng_state()
    one = trained(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)  # must not matter
    assert same_weights(one, trained(0))
    assert not same_weights(one, trained(1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_training_ends_as_an_uninterrupted_one(optimizer: str) -> None:
    recipe = replace(Recipe.full(4, ema_decay=0.9), optimizer=optimizer, learning_rate=0.05)

    def trainer() -> Trainer:
        return Trainer(build_network(tiny(), 0), noise(40), recipe, seed=0, device=CPU)

    whole, first, second = trainer(), trainer(), trainer()
    losses = [whole.run_epoch() for _ in range(4)]
    assert [first.run_epoch(), first.run_epoch()] == losses[:2]
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second.load_state(torch.load(buffer, weights_only=True))
    assert [second.run_epoch(), second.run_epoch()] == losses[2:]
    assert same_weights(whole.network, second.network)
    assert same_weights(whole.evaluable(), second.evaluable())


def test_the_average_follows_the_released_formula() -> None:
    recipe = replace(Recipe.full(1, ema_decay=0.5, augment="none"), batch_size=8)
    expected: dict[str, torch.Tensor] = {}
    trainer = Trainer(build_network(tiny(), 0), noise(80), recipe, seed=0, device=CPU)
    assert trainer._average is not None

    def follow(*_: object) -> None:
        t = len(counts)
        decay = min(0.5, (1 + t) / (10 + t)) if t else 0.0
        for name, value in trainer.network.named_parameters():
            old = expected.get(name, value)
            expected[name] = (decay * old + (1 - decay) * value).detach().clone()
        counts.append(t)

    counts: list[int] = []
    trainer._optimizer.register_step_post_hook(follow)
    trainer.run_epoch()
    assert len(counts) == 10
    for name, value in trainer._average.module.named_parameters():
        torch.testing.assert_close(value, expected[name])


def test_norms_and_biases_do_not_decay() -> None:
    recipe = replace(Recipe.proxy(1), weight_decay=0.1)
    trainer = Trainer(build_network(tiny(), 0), noise(16), recipe, seed=0, device=CPU)
    decay, rest = trainer._optimizer.param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0)
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    kept = [names[id(p)] for p in rest["params"]]
    assert all(name.endswith(".bias") or ".norm." in name for name in kept)
    assert len(kept) + len(decay["params"]) == len(names)
    assert all(name.endswith(".weight") for name in (names[id(p)] for p in decay["params"]))


def test_norm_statistics_are_those_of_the_images() -> None:
    """One batch: the first norm's mean is its convolution's, over all images, without dropout."""
    network, split = build_network(tiny(), 0).train(), noise(64)
    estimate_norms(network, split, seed=0, device=CPU)
    assert not network.training
    norm = network.get_submodule("stem.branch.conv.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    features = network.get_submodule("stem.branch.conv.conv")(
        normalise(torch.from_numpy(split.images), CPU)
    )
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, features.var((0, 2, 3)))
    assert norm.momentum == tiny().norm_momentum
    again = copy.deepcopy(network)
    estimate_norms(again, split, seed=0, device=CPU)
    assert same_weights(network, again)


def test_accuracy_counts_the_hits() -> None:
    class Oracle(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            labels = (images[:, 0, 0, 0] * STD[0] + MEAN[0]).mul(255).round().long()
            return nn.functional.one_hot(labels, 10).float()

    labels = np.arange(30) % 10
    images = np.broadcast_to(labels[:, None, None, None], (30, 3, 4, 4)).astype(np.uint8)
    wrong = labels.copy()
    wrong[:6] = 9 - wrong[:6]
    found = answers(Oracle(), Split(images, wrong), resolution=4, batch_size=7, device=CPU)
    assert (found == labels).all()
    assert accuracy(Oracle(), Split(images, labels), resolution=4, device=CPU) == 1
    assert accuracy(Oracle(), Split(images, wrong), resolution=4, device=CPU) == 0.8


# Failures


def test_row_6_a_diverged_training_stops_at_its_step() -> None:
    recipe = Recipe.proxy(2, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"^(nan|inf) loss at step [1-9]$"):
        fit(build_network(tiny(), 0), noise(200), recipe, seed=0, device=CPU)


def test_nan_logits_are_no_accuracy() -> None:
    network = build_network(tiny(), 0)
    nn.init.constant_(network.get_parameter("classifier.branch.fc.linear.bias"), math.nan)
    with pytest.raises(DivergedError, match="nan or infinite logits at evaluation"):
        accuracy(network, noise(4), resolution=8, device=CPU)


@pytest.mark.parametrize(
    ("architecture", "split", "message"),
    [
        (tiny(num_classes=4), noise(20), "4 classes, but the data have a label 9"),
        (replace(tiny(), in_channels=1), noise(20), "images of 1 channels, the data have 3"),
        (tiny(), noise(1), "at least 2 images"),
    ],
)
def test_network_and_data_must_fit(architecture: Architecture, split: Split, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        fit(build_network(architecture, 0), split, Recipe.proxy(1), seed=0, device=CPU)


def test_half_precision_needs_a_gpu() -> None:
    recipe = replace(Recipe.proxy(1), precision="fp16")
    with pytest.raises(TrainingError, match="needs a CUDA device"):
        fit(build_network(tiny(), 0), noise(20), recipe, seed=0, device=CPU)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="sees no CUDA device"):
            choose_device("cuda")


def test_bfloat16_trains_on_the_cpu_where_it_is_asked_for() -> None:
    recipe = replace(Recipe.proxy(1), precision="bf16")
    network = fit(build_network(tiny(), 0), noise(20), recipe, seed=0, device=CPU)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
