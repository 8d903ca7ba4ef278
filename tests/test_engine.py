"""How training steps are computed: the rule that chooses it, the probe, and that it is obeyed."""

import io
import math
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.training import probe
from nas.training.engine import Choice, Engine, Timings, choose
from nas.training.parts import TrainingError, build_network
from nas.training.probe import engines, measure
from nas.training.proxy import ProxyTraining
from nas.training.recipe import Recipe
from nas.training.trainer import Trainer
from search_spaces.builder import BuiltNetwork
from tests.models import same_weights, tiny
from tests.noise import image_data, noise

CPU = torch.device("cpu")
ALL = [
    Engine(precision=precision, memory_format=memory_format)
    for precision in ("fp32", "bf16")
    for memory_format in ("channels-last", "contiguous")
]


def _timings(*turns: tuple[float, ...]) -> list[Timings]:
    """Images a second in each turn, by engine."""
    pairs = zip(ALL, turns, strict=True)
    return [Timings(engine=e, seconds=tuple(1 / speed for speed in t)) for e, t in pairs]


def _even(*speeds: float) -> list[Timings]:
    return _timings(*((speed,) * 4 if speed else () for speed in speeds))


@pytest.mark.parametrize(
    ("timings", "chosen"),
    [
        (_even(100, 40, 90, 30), 0),
        (_even(100, 400, 90, 500), 3),
        (_even(100, 104.9, 100, 100), 0),  # not more than noise
        (_even(100, 105.1, 104.9, 100), 1),
        (_even(100, 0, 0, 0), 0),
        (_even(0, 30, 40, 0), 2),  # the default ran out of memory
        (_even(0, 0, 0, 0), 0),
        (_timings((100, 50, 50, 90), (99, 80, 80, 85), (), ()), 0),  # faster in half of its turns
        (_timings((100, 50, 50, 90), (99, 80, 80, 95), (), ()), 1),
        (_timings((100, 100), (120,), (), ()), 0),  # far behind a third, it got no second turn
    ],
)
def test_the_fastest_engine_is_chosen_if_it_is_worth_leaving_the_default(
    timings: list[Timings], chosen: int
) -> None:
    choice = choose(timings)
    assert (choice.engine, choice.source) == (ALL[chosen], "probe")
    assert [speed.engine for speed in choice.speeds] == ALL


def test_a_choice_says_what_it_was_made_from() -> None:
    uneven = _timings((2035.4,), (655.2, 600, 700), (8.765,), ())
    assert choose(uneven).describe() == (
        "channels-last, fp32 (probe: 2,035 images/s; contiguous, fp32 655; channels-last, bf16 "
        "8.8; contiguous, bf16 -)"
    )
    assert (
        choose(_even(1, 2, 1, 1))
        .describe()
        .startswith("contiguous, fp32 (probe: 2 images/s; channels-last, fp32 1;")
    )
    assert Choice(source="flags").describe() == "channels-last, auto (as asked for)"


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_cpu_may_have_bf16_only_where_it_has_instructions(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = {"avx2": True, "avx512_bf16": has_bf16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert engines(CPU) == (ALL if has_bf16 else ALL[:2])
    assert engines(CPU, "bf16") == ALL[2:]  # asked for is asked for
    assert engines(CPU, "fp32", "contiguous") == [ALL[1]]
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as of older versions
    assert engines(CPU) == ALL[:2]
    with pytest.raises(TrainingError, match="fp16 needs a CUDA device"):
        engines(CPU, "fp16")


@pytest.mark.parametrize("engine", ALL, ids=str)
def test_every_engine_trains_as_it_says_and_resumes_bit_for_bit(engine: Engine) -> None:
    recipe = engine.applied(Recipe.full(4, ema_decay=0.9, learning_rate=0.05))
    convolved: list[Tensor] = []

    def trainer() -> Trainer:
        return Trainer(build_network(tiny(), 0), noise(40), recipe, seed=0, device=CPU)

    whole, first, second = trainer(), trainer(), trainer()

    def note(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        convolved.extend((*given, out))

    for module in whole.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    losses = [whole.run_epoch()]
    last = engine.memory_format == "channels-last"
    wide = [x for x in convolved if x.shape[1] > 1 and x.shape[2] > 1]
    assert all(x.is_contiguous(memory_format=torch.channels_last) == last for x in wide)
    computed = torch.float32 if engine.precision == "fp32" else torch.bfloat16
    assert {out.dtype for out in convolved[1::2]} == {computed}

    losses += [whole.run_epoch() for _ in range(3)]
    assert [first.run_epoch(), first.run_epoch()] == losses[:2]
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second.load_state(torch.load(buffer, weights_only=True))
    assert [second.run_epoch(), second.run_epoch()] == losses[2:]
    assert same_weights(whole.network, second.network)
    assert same_weights(whole.evaluable(), second.evaluable())
    kernels = [p for p in whole.evaluable().parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_engines_differ_by_rounding_alone() -> None:
    def trained(engine: Engine) -> Trainer:
        recipe = engine.applied(Recipe.proxy(2, learning_rate=0.05))
        trainer = Trainer(build_network(tiny(), 0), noise(40), recipe, seed=0, device=CPU)
        trainer.run_until(2)
        return trainer

    default = dict(trained(ALL[0]).network.named_parameters())
    for engine, tolerance in zip(ALL[1:], (1e-4, 0.05, 0.05), strict=True):
        for name, value in trained(engine).network.named_parameters():
            torch.testing.assert_close(value, default[name], rtol=0, atol=tolerance)


def test_half_the_batch_and_a_worker_compute_alike() -> None:
    evaluator = ProxyTraining(data=image_data(noise(40), held_out=noise(20)), engine=ALL[3])
    for same in (evaluator, evaluator.at_half_batch(), pickle.loads(pickle.dumps(evaluator))):
        recipe = same.recipe(3)
        assert (recipe.precision, recipe.memory_format) == ("bf16", "contiguous")
    assert asdict(evaluator.recipe(3)) == asdict(ALL[3].applied(Recipe.proxy(3)))


class _Picky(nn.Module):
    """Asks NumPy for its features, which has no bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        assert np.isfinite(features.detach().numpy()).all()
        return self.linear(features.mean((2, 3)))


def picky(*, depth: float, width: float, resolution: int) -> nn.Module:
    return _Picky()


def test_the_probe_measures_every_engine_that_works() -> None:
    timings = measure(tiny(), noise(64), Recipe.proxy(1), ALL, device=CPU)
    assert [t.engine for t in timings] == ALL
    assert all(t.seconds and min(t.seconds) > 0 for t in timings)
    network = BuiltNetwork(name="picky", reference="tests.test_engine:picky", resolution=8)
    timings = measure(network, noise(64), Recipe.proxy(1), ALL, device=CPU)
    assert [bool(t.seconds) for t in timings] == [True, True, False, False]


def test_an_engine_that_runs_out_of_memory_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the default, and whenever it was: here in the second of its turns, and in no other."""
    step, seen = Trainer._step, []

    def short(trainer: Trainer, images: Tensor, labels: Tensor, number: int) -> Tensor:
        seen.append(trainer.recipe.memory_format)
        if seen[-1] == "channels-last" and seen.count("channels-last") == 6:
            raise torch.OutOfMemoryError("none left")
        return step(trainer, images, labels, number)

    monkeypatch.setattr(probe, "_BEHIND", math.inf)

    monkeypatch.setattr(Trainer, "_step", short)
    timings = measure(tiny(), noise(64), Recipe.proxy(1), ALL[:2], device=CPU)
    assert timings[0].seconds == ()
    assert choose(timings).engine == ALL[1]


def test_the_batch_is_not_chosen_by_speed() -> None:
    """It is the recipe's with every engine."""
    data = image_data(noise(400), held_out=noise(20))
    batches = {ProxyTraining(data=data, engine=engine).recipe(2).batch(400) for engine in ALL}
    assert batches == {Recipe.proxy(2).batch(400)}


def test_nas_train_binds_what_it_always_bound() -> None:
    """Folders from before recipes had a memory format go on: a field more would refuse them."""
    from nas.training.options import _binding

    assert set(_binding(Recipe.full(3))) == {
        *("epochs", "batch_size", "min_steps", "learning_rate", "optimizer", "momentum"),
        *("weight_decay", "warmup_epochs", "label_smoothing", "ema_decay", "augment", "flip"),
        *("erasing", "min_crop_area", "precision"),
    }
    assert Recipe.full(3).memory_format == "channels-last"
