"""The built module has EfficientNet's details, and computes what the description says."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from search_spaces.architecture import Architecture, Stage, units
from search_spaces.blocks import Block, Pooling
from search_spaces.layers import Pool
from search_spaces.network import Network
from search_spaces.ops import Bottleneck, MBConv, Op, Skip
from search_spaces.zoo import ZOO
from tests.strategies import architectures

B0 = ZOO["efficientnet-b0"]()
SMALL = replace(B0, resolution=32, num_classes=5, stages=B0.stages[:3], head_width=24)


def _one_block(op: Op, *, width: int = 8, stride: int = 1, drop_path: float = 0.0) -> Block:
    """The second of two stages, on 8 channels, so that `drop_path` / 2 is its rate."""
    stages = (
        Stage(block=MBConv(expansion=1), width=8, repeats=1, stride=1),
        Stage(block=op, width=width, repeats=1, stride=stride),
    )
    network = Network(replace(SMALL, stages=stages, drop_path=drop_path))
    block = network.get_submodule("stages.1.0")
    assert isinstance(block, Block)
    return block


def _images(number: int, architecture: Architecture) -> Tensor:
    size = architecture.resolution
    generator = torch.Generator().manual_seed(3)
    return torch.randn(number, architecture.in_channels, size, size, generator=generator)


@settings(max_examples=50, deadline=None)
@given(architectures())
def test_sizes_and_names_are_those_of_the_walk(architecture: Architecture) -> None:
    network = Network(architecture).eval()
    seen: dict[str, torch.Size] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: output.shape})
        )
    logits = network(torch.zeros(2, architecture.in_channels, *[architecture.resolution] * 2))
    assert logits.shape == (2, architecture.num_classes)
    for unit in units(architecture):
        for name, layer, in_size in unit.layers:
            shape = seen[f"{unit.name}.{name}"]
            if unit.name != "classifier":
                assert shape[2:] == (layer.out_size(in_size),) * 2
        if unit.name != "classifier":
            assert seen[unit.name][2:] == (unit.out_size,) * 2


def test_b0_has_the_published_norms_and_biases() -> None:
    network = Network(B0)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert sum(2 * norm.num_features for norm in norms) == 42_016  # facts 3.1, "BN buffers"
    biased = {
        name.rsplit(".", 1)[-1]
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.bias is not None
    }
    assert biased == {"reduce", "expand"}


def test_projections_are_linear() -> None:
    block = _one_block(MBConv(expansion=6, se_ratio=0.25))
    names = {name for name, m in block.named_modules() if isinstance(m, nn.SiLU)}
    assert names == {
        "branch.expand.activation",
        "branch.depthwise.activation",
        "branch.se.activation",
    }
    assert [name for name, _ in block.branch.named_children()] == [
        "expand",
        "depthwise",
        "se",
        "project",
    ]


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("stem.branch.conv.conv", (2 / (9 * 32)) ** 0.5),
        ("stages.3.1.branch.depthwise.conv", 0.4714),
        ("stages.5.1.branch.depthwise.conv", 0.2828),
        ("stages.5.1.branch.expand.conv", (2 / 1152) ** 0.5),
        ("stages.5.1.branch.se.reduce", (2 / 48) ** 0.5),
        ("head.branch.conv.conv", (2 / 1280) ** 0.5),
        ("classifier.branch.fc.linear", (1 / 1000 / 3) ** 0.5),
    ],
)
def test_initial_weights_have_the_published_spread(name: str, std: float) -> None:
    torch.manual_seed(0)
    weight = Network(B0).get_parameter(f"{name}.weight")
    # Six standard errors of the mean and of the standard deviation of n normal draws.
    error = 6 * std / weight.numel() ** 0.5
    assert weight.std().item() == pytest.approx(std, abs=error / 2**0.5)
    assert weight.mean().item() == pytest.approx(0, abs=error)


def test_initial_biases_are_0_and_norms_the_identity() -> None:
    for name, parameter in Network(SMALL).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif ".norm." in name:
            assert (parameter == 1).all(), name


def test_the_classifier_is_uniform_within_its_bound() -> None:
    weight = Network(SMALL).get_parameter("classifier.branch.fc.linear.weight")
    assert weight.abs().max() <= 5**-0.5


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(Network(SMALL).state_dict()["stages.1.0.branch.expand.conv.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_b0_drops_paths_at_the_published_rates() -> None:
    rates = [m.p for m in Network(B0).modules() if isinstance(m, StochasticDepth)]
    blocks = (2, 4, 6, 7, 9, 10, 12, 13, 14)  # those with a shortcut, of 16
    assert rates == pytest.approx([0.2 * block / 16 for block in blocks])


def test_stochastic_depth_drops_the_branch_by_image_and_rescales_it() -> None:
    block = _one_block(MBConv(expansion=2), drop_path=0.8)
    x = torch.randn(64, 8, 4, 4)
    block.eval()
    branch = block.branch(x)
    torch.testing.assert_close(block(x), x + branch)
    for module in block.modules():
        if isinstance(module, StochasticDepth):
            assert module.p == pytest.approx(0.4)
            module.train()
    torch.manual_seed(0)
    out = block(x)
    dropped = (out == x).flatten(1).all(1)
    assert 10 < dropped.sum() < 45
    torch.testing.assert_close(out[~dropped], (x + branch / 0.6)[~dropped])


def test_resnet_activates_after_the_sum() -> None:
    network = Network(
        replace(
            SMALL,
            activation="relu",
            stages=(Stage(block=Bottleneck(), width=16, repeats=1, stride=2),),
        )
    ).eval()
    block = network.get_submodule("stages.0.0")
    assert isinstance(block, Block)
    assert block.shortcut is not None
    x = torch.randn(2, 32, 7, 7)
    expected = (block.branch(x) + block.shortcut(x)).relu()
    torch.testing.assert_close(block(x), expected)
    assert (block.branch(x) < 0).any()


@pytest.mark.parametrize("skip", ["identity", "pool", "none"])
@pytest.mark.parametrize(("width", "stride"), [(8, 1), (8, 2), (12, 1), (5, 2)])
def test_shortcuts(skip: Skip, width: int, stride: int) -> None:
    block = _one_block(MBConv(skip=skip), width=width, stride=stride).eval()
    x = torch.randn(2, 8, 5, 5)
    shortcut = block(x) - block.branch(x)
    expected = torch.zeros_like(shortcut)
    if skip == "pool":
        kept = min(8, width)
        pooled = nn.functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        expected[:, :kept] = pooled[:, :kept]
    elif skip == "identity" and (width, stride) == (8, 1):
        expected = x
    torch.testing.assert_close(shortcut, expected)


def test_average_pooling_leaves_a_constant_image_constant() -> None:
    ones = torch.ones(1, 2, 5, 5)
    pooled = Pooling(Pool("avg", 2, 3, stride=2))(ones)
    assert torch.equal(pooled, torch.cat([ones, torch.zeros(1, 1, 5, 5)], 1)[..., :3, :3])


def test_squeeze_excite_gates_channels_by_their_means() -> None:
    block = _one_block(MBConv(expansion=1, se_ratio=0.25)).eval()
    se = block.branch.get_submodule("se")
    x = torch.randn(2, 8, 3, 3)
    means = x.mean((2, 3))
    weights = {name: p.flatten(1) if p.ndim > 1 else p for name, p in se.named_parameters()}
    hidden = nn.functional.silu(means @ weights["reduce.weight"].T + weights["reduce.bias"])
    gate = torch.sigmoid(hidden @ weights["expand.weight"].T + weights["expand.bias"])
    torch.testing.assert_close(se(x), x * gate[:, :, None, None])


@settings(max_examples=25, deadline=None)
@given(architectures())
def test_every_parameter_gets_a_gradient(architecture: Architecture) -> None:
    network = Network(replace(architecture, drop_path=0.0, dropout=0.0)).eval()
    network(_images(2, architecture)).logsumexp(1).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_trains_in_channels_last(name: str) -> None:
    architecture = replace(ZOO[name](), resolution=32, num_classes=3, dropout=0.0, drop_path=0.0)
    torch.manual_seed(0)
    network = Network(architecture).double()
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images = _images(4, architecture).double()
    losses = [
        module(batch).logsumexp(1).mean()
        for module, batch in (
            (network, images),
            (twin, images.to(memory_format=torch.channels_last)),
        )
    ]
    torch.testing.assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize(
    "block",
    [MBConv(se_ratio=0.25), MBConv(se_ratio=0.25, skip="pool"), Bottleneck()],
    ids=lambda block: f"{block.op}-{getattr(block, 'skip', '')}",
)
def test_torch_export_keeps_the_batch_dynamic(block: Op) -> None:
    stages = (
        Stage(block=block, width=12, repeats=2, stride=2),
        Stage(block=block, width=8, repeats=1, stride=1),
    )
    network = Network(replace(SMALL, stages=stages)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (_images(2, SMALL),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for number in (1, 5):
        images = _images(number, SMALL)
        torch.testing.assert_close(loaded(images), network(images))
