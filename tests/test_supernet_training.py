"""The sandwich rule, its reproducibility, and the training of a supernet in a folder."""

import copy
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nas.cli import UserError
from nas.data.dataset import Split
from nas.supernet.job import SupernetJob
from nas.supernet.network import Supernet, supernet
from nas.supernet.trainer import Sandwich, SupernetTrainer
from nas.training import checkpoint
from nas.training.augment import normalise
from nas.training.memory import _LiveBytes
from nas.training.recipe import Recipe
from nas.training.score import DivergedError
from tests.supernets import SPACE, brightness, training

JOB = SupernetJob(space=SPACE, training=training(), epochs=3, drawn=2, seed=0)
CPU = torch.device("cpu")
ONE_STEP = Recipe(
    epochs=1,
    batch_size=12,
    min_steps=1,
    learning_rate=1.0,
    momentum=0.0,
    weight_decay=0.0,
    augment="none",
)


def _trainer(recipe: Recipe, seed: int = 0) -> SupernetTrainer:
    images = brightness(recipe.batch_size)
    return SupernetTrainer(
        supernet(JOB.envelope, 0), JOB.sandwich, images, recipe, seed=seed, device=CPU
    )


@pytest.mark.parametrize(("epoch", "trust"), [(0, 0.0), (1, 0.5), (3, 1.0)])
def test_a_step_is_the_sum_of_the_networks_own_gradients(
    epoch: int, trust: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by hand: plain networks, all but the largest of which learn what that says, as far
    as it is trusted by then."""
    recipe = replace(ONE_STEP, epochs=4)
    trainer = _trainer(recipe)
    trainer.epoch = epoch
    before = copy.deepcopy(trainer.supernet)
    drawn: list[Any] = []
    draw = Sandwich.draw
    monkeypatch.setattr(Sandwich, "draw", lambda *a: drawn.extend(draw(*a)) or drawn)
    trainer.run_epoch()
    assert len(drawn) == 2

    images = brightness(12)
    pixels = normalise(torch.from_numpy(images.images), CPU)
    largest = before.extract(JOB.sandwich.largest).train()
    logits = largest(pixels)
    labels = torch.from_numpy(images.labels)
    cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing).backward()
    taught = logits.detach().softmax(1)
    networks = [largest]
    for architecture in (JOB.sandwich.smallest, *drawn):
        networks.append(before.extract(architecture).train())
        said = networks[-1](pixels)
        of_labels = cross_entropy(said, labels, label_smoothing=recipe.label_smoothing)
        (trust * cross_entropy(said, taught) + (1 - trust) * of_labels).backward()

    expected = copy.deepcopy(before)
    rate = recipe.rate(epoch, 12)
    with torch.no_grad():
        for network in networks:
            parts = expected.weights(network)
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None
                parts[name] -= rate * parameter.grad
    for name, parameter in trainer.supernet.named_parameters():
        wanted = expected.get_parameter(name)
        torch.testing.assert_close(parameter, wanted, rtol=1e-3, atol=1e-4, msg=name)


def test_memory_is_counted_as_a_step_takes_it() -> None:
    images = JOB.training.data.train
    trainer = SupernetTrainer(
        supernet(JOB.envelope, 0), JOB.sandwich, images, JOB.recipe, seed=0, device=CPU
    )
    trainer.run_epoch()  # the optimizer has its momentum from here on
    momentum = [tensor for held in trainer._optimizer.state.values() for tensor in held.values()]
    parameters = list(trainer.supernet.parameters())
    memory = _LiveBytes()
    memory.add([parameters, [parameter.grad for parameter in parameters], momentum])
    with memory:
        trainer.run_epoch()
    assert memory.peak == pytest.approx(JOB.bytes_of_training(), rel=0.1)


def _weights(trained: Supernet) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights() -> None:
    recipe = replace(ONE_STEP, learning_rate=0.1, augment="flip-crop")
    weights, before = [], torch.random.get_rng_state()
    for seed in (0, 0, 1):
        trainer = _trainer(recipe, seed)
        trainer.run_epoch()
        weights.append(_weights(trainer.supernet))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert _equal(weights[0], weights[1])
    assert not _equal(weights[0], weights[2])


def test_every_step_draws_other_networks() -> None:
    draws = [[network.digest for network in JOB.sandwich.draw(seed)] for seed in range(20)]
    assert len({tuple(draw) for draw in draws}) == 20


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    trainer = _trainer(replace(ONE_STEP, epochs=9, learning_rate=1e30))
    with pytest.raises(DivergedError, match="losses of the networks of step"):  # noqa: PT012
        while trainer.epoch < 9:
            trainer.run_epoch()


def _finish(folder: Path, job: SupernetJob = JOB) -> tuple[dict[str, Tensor], list[str]]:
    lines: list[str] = []
    evaluator = job.train(folder, lines.append)
    return _weights(evaluator.supernet), lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("supernet")
    return folder, _finish(folder)[0]


def test_resumed_equals_uninterrupted(tmp_path: Path, finished: tuple[Path, Any]) -> None:
    def interrupt(line: str) -> None:
        if "1/3" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        JOB.train(tmp_path, interrupt)
    weights, lines = _finish(tmp_path)
    assert lines[0] == "resume  the supernet after epoch 1 of 3"
    assert len(lines) == 4
    assert _equal(weights, finished[1])


def test_a_torn_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, finished: tuple[Path, Any]
) -> None:
    _finish(tmp_path)
    content = (tmp_path / checkpoint.NAME).read_bytes()
    (tmp_path / checkpoint.NAME).write_bytes(content[: len(content) // 2])
    weights, lines = _finish(tmp_path)
    assert "is damaged and was not used" in lines[0]
    assert lines[1] == "resume  the supernet after epoch 2 of 3"
    assert _equal(weights, finished[1])


def test_without_a_whole_checkpoint_the_remedy_names_the_flag_of_a_run(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(b"torn")
    with pytest.raises(checkpoint.CheckpointError, match=r"again, or choose another --run-dir\."):
        JOB.train(tmp_path, print)


def test_what_a_kill_left_half_written_is_removed(
    tmp_path: Path, finished: tuple[Path, Any]
) -> None:
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        shutil.copy(finished[0] / name, tmp_path)
    (tmp_path / f".{checkpoint.NAME}.4711.tmp").write_bytes(b"torn")
    _finish(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_finished_weights_are_not_trained_again(finished: tuple[Path, Any]) -> None:
    weights, lines = _finish(finished[0])
    assert lines[0] == "resume  the supernet after epoch 3 of 3"
    assert len(lines) == 2
    assert _equal(weights, finished[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 4}, "epochs was 3, now 4"),
        ({"drawn": 1}, "drawn was 2, now 1"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"training": training(40)}, "images was 48, now 40"),
        ({"space": replace(SPACE, kernels=(3,))}, "largest was '"),
    ],
)
def test_weights_of_another_training_are_refused(
    changes: dict[str, Any], words: str, finished: tuple[Path, Any]
) -> None:
    with pytest.raises(UserError, match=f"holds a supernet that was trained otherwise: .*{words}"):
        _finish(finished[0], replace(JOB, **changes))


def test_the_plan_tells_parameters_and_memory() -> None:
    lines = JOB.describe()
    params = sum(parameter.numel() for parameter in supernet(JOB.envelope, 0).parameters())
    assert f"one supernet of {params / 1e3:.4g}K params" in lines[0]
    assert "3 epochs of the largest, the smallest and 2 random networks a step" in lines[0]
    assert lines[1].count(";") == 2
    assert JOB.seconds_of_training() > 0
    assert JOB.seconds_of_evaluation() > 0


def test_row_4_a_lack_of_memory_names_the_remedy(tmp_path: Path) -> None:
    """Of networks that ask for 96 TB of weights."""
    reference = replace(SPACE.reference, head_width=10**12)
    job = replace(JOB, space=replace(SPACE, reference=reference))
    remedy = r"not enough memory .* can't allocate memory.* lower --batch-size"
    for attempt in (job.seconds_of_training, lambda: job.train(tmp_path, print)):
        with pytest.raises(UserError, match=remedy):
            attempt()


def test_training_that_diverges_names_the_remedy_in_its_estimate_too(tmp_path: Path) -> None:
    job = replace(JOB, training=replace(training(), learning_rate=1e30))
    for attempt in (job.seconds_of_training, lambda: job.train(tmp_path, print)):
        with pytest.raises(UserError, match=r"diverged: .* A smaller --batch-size"):
            attempt()


@pytest.mark.slow
def test_shared_weights_learn(tmp_path: Path) -> None:
    job = replace(JOB, training=training(240), epochs=12)
    lines: list[str] = []
    evaluator = job.train(tmp_path, lines.append)
    assert re.match(r"learnt  8 random networks reach 0\.\d{3} to ", lines[-1])
    for architecture in (job.sandwich.largest, job.sandwich.smallest, SPACE.decode(_middle())):
        value = evaluator(architecture, epochs=1, seed=0)
        assert value == evaluator(architecture, epochs=7, seed=3)  # nothing else is looked at
        assert value > 0.6, architecture.name


def test_weights_that_learnt_nothing_are_told(tmp_path: Path) -> None:
    given = training()
    labels = np.random.default_rng(0).permutation(given.validation.labels)
    pointless = replace(given.data, search_validation=Split(given.validation.images, labels))
    job = replace(JOB, training=replace(given, data=pointless), epochs=1)
    lines = _finish(tmp_path, job)[1]
    assert "the largest class alone is 0.333: they learnt nothing" in lines[-1]
    assert lines[-1].startswith("WARNING 8 random networks reach ")


def _middle() -> dict[str, Any]:
    return {name: options[len(options) // 2] for name, options in SPACE.choices.items()}
