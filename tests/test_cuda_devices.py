"""Nothing mixes devices or waits on a GPU, as far as that can be told without one."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException as Asked
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError as Mixed

from nas.costs.latency import measure_latency
from nas.supernet.envelope import envelope_of
from nas.supernet.network import supernet
from nas.supernet.trainer import Sandwich, SupernetTrainer
from nas.training import augment, parts
from nas.training.augment import Batches
from nas.training.parts import build_network, build_optimizer, definite_precision
from nas.training.probe import engines
from nas.training.recipe import Augment, Optimizer, Precision, Recipe
from nas.training.score import answers, estimate_norms
from nas.training.trainer import Trainer, numbers
from tests import pretended
from tests.models import tiny
from tests.noise import noise
from tests.pretended import WaitsError, no_waiting, pretended_gpu, really
from tests.supernets import SPACE

# Of PyTorch's own `deepcopy` of fake weights.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
RECIPE = replace(Recipe.full(2, ema_decay=0.9), batch_size=8, min_steps=1, learning_rate=0.01)
CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    with pretended_gpu(monkeypatch) as device:
        yield device


def trained(recipe: Recipe, device: torch.device) -> Trainer:
    """After two steps; copies of the first, which makes the state, may wait."""
    trainer = Trainer(build_network(tiny(), 0), noise(24), recipe, seed=0, device=device)
    logits: list[Tensor] = []
    trainer.network.get_submodule("classifier").register_forward_hook(
        lambda *about: logits.append(about[-1])
    )
    with trainer._training():
        batches = trainer._batches.epoch(0)
        trainer._step(*next(batches), 0)
        with no_waiting():
            loss = trainer._step(*next(batches), 1)
    assert loss.device.type == device.type
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert logits[-1].dtype == dtypes.get(recipe.precision, torch.bfloat16)
    assert all(parameter.grad is not None for parameter in trainer.network.parameters())
    return trainer


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_mixes_no_devices_and_waits_for_none(
    optimizer: Optimizer, precision: Precision, gpu: torch.device
) -> None:
    trained(replace(RECIPE, optimizer=optimizer, precision=precision), gpu)


@pytest.mark.parametrize("free", [0, pretended.FREE])
@pytest.mark.parametrize("kind", ["none", "flip-crop", "resized-crop", "trivial", "randaugment"])
def test_no_augmentation_mixes_devices_or_waits(
    kind: Augment, free: int, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free))
    trained(replace(RECIPE, augment=kind), gpu)


def test_mixed_devices_and_waiting_would_be_seen(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "_SHARE", 0.0)
    trainer = trained(replace(RECIPE, augment="none"), gpu)
    images, labels = next(trainer._batches.epoch(0))
    with pytest.raises(Mixed, match="cuda:0 and cpu"):
        trainer._step(images, labels.cpu(), 2)
    with pytest.raises(WaitsError, match=r"a copy of \(8,\)"), no_waiting():
        labels.cpu().to(gpu)
    monkeypatch.setattr(augment, "sent", lambda tensor, device: tensor.to(device))
    with pytest.raises(WaitsError, match=r"a copy of \(8, 3, 8, 8\)"), no_waiting():
        next(trainer._batches.epoch(0))
    with pytest.raises(Asked, match="_local_scalar_dense"):
        trainer.run_epoch()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_of_a_cpu_goes_on(
    optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, augment="none")
    cpu = Trainer(build_network(tiny(), 0), noise(24), recipe, seed=0, device=CPU)
    cpu.run_epoch()
    with pretended_gpu(monkeypatch) as gpu:
        trainer = Trainer(build_network(tiny(), 0), noise(24), recipe, seed=0, device=gpu)
        trainer.load_state(cpu.state())
        with trainer._training(), no_waiting():
            trainer._step(*next(trainer._batches.epoch(1)), 3)
    kept = [value for of in trainer._optimizer.state.values() for value in of.values()]
    assert {value.device.type for value in kept} == {"cuda"}


def test_evaluation_mixes_no_devices_and_waits_at_its_end_only(gpu: torch.device) -> None:
    network, split = build_network(tiny(), 0).to(gpu), noise(20)
    with no_waiting():
        estimate_norms(network, split, seed=0, device=gpu, batch_size=7)
        with pytest.raises(Asked) as error:
            answers(network, split, resolution=8, device=gpu, batch_size=7)
    (asking,) = (entry for entry in error.traceback if entry.name == "answers")
    assert len(asking.locals["guesses"]) == 3


def test_a_latency_is_measured_there(gpu: torch.device) -> None:
    assert measure_latency(tiny(), device=gpu, batch_size=2) > 0


def test_a_probe_tries_every_engine(gpu: torch.device) -> None:
    assert [e.precision for e in engines(gpu)] == ["bf16", "bf16", "fp32", "fp32"]


def test_a_supernet_mixes_no_devices(gpu: torch.device) -> None:
    weights = really(supernet)(envelope_of(SPACE), 0)
    sandwich, recipe = Sandwich.of(SPACE, 1), Recipe.proxy(2, batch_size=8)
    trainer = SupernetTrainer(weights, sandwich, noise(16, classes=3), recipe, seed=0, device=gpu)
    weights._by_name = dict(weights.named_parameters())  # real weights move in place
    batches = trainer._batches.epoch(0)
    trainer._step(*next(batches), 0)
    with no_waiting():
        losses = trainer._step(*next(batches), 1)
    assert (losses.device.type, losses.shape) == ("cuda", (3,))
    network = weights.extract(sandwich.smallest)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cuda"}


# What a GPU would show, shown without


def test_what_is_drawn_on_the_cpu_leaves_the_generators_of_gpus_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    weights, sandwich = supernet(envelope_of(SPACE), 0), Sandwich.of(SPACE, 1)
    trainer = SupernetTrainer(
        weights, sandwich, noise(16, classes=3), Recipe.proxy(1), seed=0, device=CPU
    )
    trainer._step(*next(trainer._batches.epoch(0)), 0)
    batches = Batches(
        noise(16), replace(RECIPE, augment="trivial"), resolution=8, seed=0, device=CPU
    )
    list(batches.epoch(0))
    build_network(tiny(), 0)
    assert seeded == []
    with parts.network_randomness(0, 0, CPU):
        assert len(seeded) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gradient_that_overflows_at_once_changes_nothing(
    optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in fp16, where the scaler begins too high; its kernels for CPUs do as those for GPUs."""
    recipe = replace(RECIPE, optimizer=optimizer)

    def after(*factors: float) -> list[Tensor]:
        network = build_network(tiny(), 0)
        steps, scaler = build_optimizer(network, recipe), torch.amp.GradScaler("cpu")
        for factor in factors:
            steps.zero_grad()
            squares = torch.stack([p.square().sum() for p in network.parameters()])
            scaler.scale(factor * squares.sum()).backward()
            scaler.step(steps)
            scaler.update()
        return list(network.parameters())

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)  # memory that nobody wrote is NaN then
    try:
        overflown, whole = after(float("inf"), 1, 1), after(1, 1)
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(overflown, whole, strict=True):
        assert torch.equal(one, other)


def test_bf16_that_a_gpu_only_emulates_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (
        ("is_available", True),
        ("current_device", 0),
        ("get_device_properties", SimpleNamespace(major=7, minor=5)),  # a T4
        ("_check_bf16_tensor_supported", True),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    assert torch.cuda.is_bf16_supported()
    assert definite_precision("auto", pretended.GPU) == "fp16"
    assert [e.precision for e in engines(pretended.GPU)] == ["fp16", "fp16", "fp32", "fp32"]


def test_few_losses_are_asked_for_one_by_one() -> None:
    losses = torch.rand(40)
    for device in (CPU, pretended.GPU):
        assert list(numbers(iter(losses), device)) == losses.tolist()
    read: list[int] = []
    steps = (read.append(i) or loss for i, loss in enumerate(losses))
    assert next(numbers(steps, pretended.GPU)) == losses[0]
    assert len(read) == 16
