"""Classes that count alike: drawn as often, judged as much; and what is said of each."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from nas.data.dataset import ImageData, Split, single_answer, uneven
from nas.data.stratify import even_order
from nas.models.by_class import by_class, weakest
from nas.models.trained import report, split_metrics
from nas.run import main as search
from nas.search.task import Task
from nas.train import main as train
from nas.training.augment import Batches, derive_seed
from nas.training.proxy import ProxyTraining
from nas.training.recipe import Augment, Recipe
from nas.training.score import class_means
from scaling_search.next_training import data_words
from tests.models import tiny
from tests.noise import image_data
from tests.trainings import flags
from tests.trees import plant

CPU = torch.device("cpu")
LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)
UNEVEN = np.repeat([0, 1, 2], [34, 4, 2])


def _split(labels: np.ndarray) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 3, 8, 8), dtype=np.uint8)
    return Split(images, labels.astype(np.int64))


@given(labels=LABELS, seed=st.integers(0, 9))
def test_an_even_order_has_classes_and_their_images_equally_often(
    labels: np.ndarray, seed: int
) -> None:
    order = even_order(labels, np.random.default_rng(seed))
    assert len(order) == len(labels)
    per_class = np.bincount(labels[order], minlength=6)[np.unique(labels)]
    assert np.ptp(per_class) <= 1
    times = np.bincount(order, minlength=len(labels))
    assert all(np.ptp(times[labels == label]) <= 1 for label in np.unique(labels))
    assert np.array_equal(order, even_order(labels, np.random.default_rng(seed)))


@pytest.mark.parametrize("augment", ["flip-crop", "resized-crop"])
def test_an_epoch_has_as_many_images_of_each_class(augment: Augment) -> None:
    split, even = _split(UNEVEN), Recipe.full(2, augment=augment)
    for balanced, most in ((False, [34, 4, 2]), (True, [14, 14, 14])):
        recipe = replace(even, balanced=balanced)
        batches = Batches(split, recipe, resolution=8, seed=0, device=CPU)
        labels = torch.cat([labels for _, labels in batches.epoch(0)])
        assert len(labels) == 40
        assert (np.bincount(labels) <= most).all()


def test_an_image_that_comes_again_in_an_epoch_has_another_crop() -> None:
    recipe = replace(Recipe.full(1, augment="resized-crop"), balanced=True)
    batches = Batches(_split(UNEVEN), recipe, resolution=8, seed=0, device=CPU)
    rare = [
        image.numpy().tobytes()
        for images, labels in batches.epoch(0)
        for image in images[labels == 2]
    ]
    assert len(rare) > 10
    assert len(set(rare)) == len(rare)


def test_the_first_time_it_has_the_crop_that_it_always_had() -> None:
    assert derive_seed(3, 5, 7) == derive_seed(3, 5, 7, 0) != derive_seed(3, 5, 7, 1)


@given(labels=LABELS, seed=st.integers(0, 9))
def test_measures_are_scikit_learns(labels: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = np.where(rng.random(len(labels)) < 0.5, labels, rng.choice(labels, len(labels)))
    table = by_class(labels, found, [f"class {i}" for i in range(6)])
    present = np.unique(labels)
    balanced = recall_score(labels, found, labels=present, average="macro")
    assert class_means(labels, found == labels) == pytest.approx(balanced)
    assert list(table["class"]) == [f"class {i}" for i in present]
    options = {"labels": present, "average": None, "zero_division": np.nan}
    np.testing.assert_allclose(table["recall"], recall_score(labels, found, **options))
    np.testing.assert_allclose(table["precision"], precision_score(labels, found, **options))
    wrong = confusion_matrix(labels, found, labels=range(6))[present]
    wrong[np.arange(len(present)), present] = 0
    assert list(table["taken"]) == list(wrong.max(1))


def test_the_weakest_classes_are_named_with_what_they_are_taken_for() -> None:
    labels, names = np.repeat([0, 1, 2, 3], [50, 20, 10, 4]), ["sound", "dent", "crack", "rust"]
    found = np.repeat([0, 1, 2, 0, 3], [50, 20, 6, 6, 2])
    crack, rust = "crack 0.600 of 10, 4 taken for sound", "rust 0.500 of 4, 2 taken for sound"
    assert weakest(by_class(labels, found, names)) == f"{rust}; {crack}"
    assert weakest(by_class(labels, labels, names)) == ""


@pytest.mark.parametrize(
    ("found", "warns"), [([0] * 20, True), ([0] * 17 + [1] * 3, False), ([1] * 3 + [0] * 17, True)]
)
def test_what_tells_rare_classes_has_learnt_something(
    found: list[int], warns: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = _split(np.repeat([0, 1], [18, 2]))
    metrics = split_metrics("test", split, np.array(found)) | split_metrics("validation", None)
    assert metrics["test_majority_share"] == 0.9
    report(tmp_path, metrics)
    printed = capsys.readouterr().out
    assert ("no better than always answering the most frequent class" in printed) == warns
    assert f"mean of the classes' {metrics['test_balanced_accuracy']:.4f}" in printed


def _data() -> ImageData:
    return image_data(_split(UNEVEN), held_out=_split(np.repeat([0, 1, 2], [8, 1, 1])))


def test_trials_count_classes_alike_if_asked() -> None:
    plain, even = ProxyTraining(data=_data()), ProxyTraining(data=_data(), balanced=True)
    assert (plain.majority, even.majority) == (0.8, pytest.approx(1 / 3))
    assert (plain.recipe(1).balanced, even.recipe(1).balanced) == (False, True)
    value = even(tiny(num_classes=3), epochs=1, seed=0)
    # Ninths would be shares of all images; thirds and 24ths are means over the classes.
    assert value * 24 == pytest.approx(round(value * 24))
    assert even.at_half_batch().balanced


def test_a_search_says_how_uneven_classes_are_and_binds_how_they_count() -> None:
    plain, even = (
        Task(evaluator=training, training=training, resolution=8, num_classes=3)
        for training in (ProxyTraining(data=_data()), ProxyTraining(data=_data(), balanced=True))
    )
    words = uneven(UNEVEN, ["sound", "dent", "rust"])
    counts = "class 'sound' has 34 images to train on, 'rust' 2"
    assert words == f"{counts}; with --balanced classes count alike"
    assert uneven(np.repeat([0, 2], [7, 2]), ["sound", "dent", "rust"]) == ""
    assert any("34 images to train on" in line for line in plain.describe())
    assert any(" images of search-val judge a trial" in line for line in plain.describe())
    assert any("classes count alike" in line for line in even.describe())
    assert "balanced" not in plain.conditions  # as folders have it that were begun before
    assert even.conditions == plain.conditions | {"balanced": True}
    assert single_answer(_split(np.array([0, 2]))) == 0.5


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"cat": 24, "dog": 6, "=fish": 3}
    tree = {f"{split}/{name}": n for split in ("train", "test") for name, n in sizes.items()}
    return plant(tmp_path_factory.mktemp("pets"), tree, size=(8, 8))


def test_a_training_tells_of_each_class_and_binds_how_they_count(
    pets: Path, arch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(flags(arch, pets, out, 2, "--balanced")) == 0
    printed = capsys.readouterr().out
    assert "--balanced" not in printed
    assert re.search(r"accuracy 0\.\d{4} · mean of the classes' 0\.\d{4} · most frequent", printed)
    table = pd.read_csv(out / "classes.csv")
    assert list(table["class"]) == ["'=fish", "cat", "dog"]
    assert list(table["images"]) == [3, 24, 6]
    card = json.loads((out / "model.json").read_text())
    assert card["metrics"]["test_balanced_accuracy"] == pytest.approx(table["recall"].mean())
    assert card["recipe"]["balanced"] is True
    assert train(flags(arch, pets, out, 2)) == 2
    assert "balanced" in capsys.readouterr().err


def test_without_it_a_recipe_is_written_as_it_always_was_and_a_note_says_how_uneven_classes_are(
    pets: Path, arch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(flags(arch, pets, tmp_path / "out", 1)) == 0
    note = "\nnote    class 'cat' has 24 images to train on, '=fish' 3; with --balanced classes"
    assert note in capsys.readouterr().out
    assert "balanced" not in json.loads((tmp_path / "out/model.json").read_text())["recipe"]


def test_a_validation_split_shows_both_accuracies(
    data: Path, arch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(flags(arch, data, tmp_path / "out", 1, "--balanced")) == 0
    assert re.search(r"val 0\.\d{4}   balanced 0\.\d{4} \* best", capsys.readouterr().out)
    history = pd.read_csv(tmp_path / "out/history.csv")
    # Its classes are of one size.
    assert history["val_balanced_accuracy"].tolist() == pytest.approx(
        history["val_accuracy"].tolist()
    )


def test_the_flag_goes_from_a_search_to_the_grid_and_to_the_training(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--data", str(pets), "--resolution", "8", "--target-flops", "1M", "--epochs", "1"]
    small = ["--strategy", "random", "--trials", "2"]
    engine = ["--precision", "fp32", "--memory-format", "channels-last", "--finalists", "0"]
    folder = tmp_path / "run"
    assert search([*run, *small, *engine, "--balanced", "--run-dir", str(folder)]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert following.startswith("next    python -m scaling_search.grid")
    assert "--balanced" in following.split()
    assert "--balanced" in data_words(folder / "baseline.json")
