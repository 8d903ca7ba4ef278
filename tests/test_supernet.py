"""Shared weights: which networks share them, and that each computes as it would alone."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.supernet.envelope import Envelope, SharingError, envelope_of, extremes
from nas.supernet.network import Supernet, supernet
from search_spaces.architecture import Architecture, units
from search_spaces.builder import BuiltNetwork
from search_spaces.cost import count
from search_spaces.layers import Classifier, Conv, SqueezeExcite
from search_spaces.network import Network
from search_spaces.ops import Bottleneck, MBConv
from search_spaces.spaces import SPACES, Space, sample
from tests.supernets import SPACE, ResidualSpace

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SHARED = supernet(envelope_of(SPACE), seed=0)

networks = st.integers(0, 10**6).map(lambda n: SPACE.decode(sample(SPACE, random.Random(n))))


def _parts(shared: Supernet, architecture: Architecture) -> Iterator[tuple[str, str, Tensor]]:
    """A network's own name of every weight, the supernet's, and the mask of the used part there,
    by the layers of the walk."""
    kinds = {"conv": "conv", "separable": "separable", "mbconv": "mbconv"}
    whole = dict(shared.named_parameters())
    for unit in units(architecture):
        prefix = unit.name
        if unit.name.startswith("stages."):
            block = architecture.stages[int(unit.name.split(".")[1])].block
            prefix += f".{kinds[block.op]}"
            prefix += "1" if isinstance(block, MBConv) and block.expansion == 1 else ""
        for layer_name, layer, _ in unit.layers:
            for end, out, ins, kernel in _tensors(layer):
                tail = f"{layer_name}.{end}"
                tensor = whole[f"{prefix}.{tail}"]
                mask = torch.zeros(tensor.shape, dtype=torch.bool)
                if tensor.ndim == 4:
                    edge = (tensor.shape[2] - kernel) // 2
                    stop = edge + kernel
                    mask[:out, :ins, edge:stop, edge:stop] = True
                elif tensor.ndim == 2:
                    mask[:out, :ins] = True
                else:
                    mask[:out] = True
                yield f"{unit.name}.{tail}", f"{prefix}.{tail}", mask


def _tensors(layer: object) -> list[tuple[str, int, int, int]]:
    """End of the name, output and input channels and kernel of every tensor of a layer."""
    match layer:
        case Conv(ins, out, kernel, _, groups):
            return [
                ("conv.weight", out, ins // groups, kernel),
                ("norm.weight", out, 0, 0),
                ("norm.bias", out, 0, 0),
            ]
        case SqueezeExcite(channels, squeezed):
            return [
                ("reduce.weight", squeezed, channels, 1),
                ("reduce.bias", squeezed, 0, 0),
                ("expand.weight", channels, squeezed, 1),
                ("expand.bias", channels, 0, 0),
            ]
        case Classifier(ins, classes):
            return [("linear.weight", classes, ins, 0), ("linear.bias", classes, 0, 0)]
    return []


def _plain(shared: Supernet, architecture: Architecture) -> Network:
    """The network by itself, its weights taken by the masks."""
    network = Network(architecture)
    own = dict(network.named_parameters())
    whole = dict(shared.named_parameters())
    with torch.no_grad():
        for name, theirs, mask in _parts(shared, architecture):
            own.pop(name).flatten().copy_(whole[theirs][mask])
    assert not own
    return network


@settings(max_examples=30)
@given(networks)
def test_a_network_computes_as_it_would_alone(architecture: Architecture) -> None:
    alone = _plain(SHARED, architecture)
    cut_out = SHARED.extract(architecture)
    template = SHARED.template(architecture, regularised=False)
    for training in (True, False):
        wanted = alone.train(training)(IMAGES)
        torch.testing.assert_close(cut_out.train(training)(IMAGES), wanted, rtol=0, atol=0)
        computed = SHARED.compute(template.train(training), IMAGES)
        torch.testing.assert_close(computed, wanted, rtol=0, atol=0)


@settings(max_examples=30)
@given(networks)
def test_gradients_reach_the_used_part_and_nothing_else(architecture: Architecture) -> None:
    SHARED.zero_grad(set_to_none=True)
    SHARED.compute(
        SHARED.template(architecture, regularised=False), IMAGES
    ).square().sum().backward()
    alone = _plain(SHARED, architecture)
    alone(IMAGES).square().sum().backward()
    own = {name: parameter.grad for name, parameter in alone.named_parameters()}
    gradients = {n: p.grad for n, p in SHARED.named_parameters() if p.grad is not None}
    for name, theirs, mask in _parts(SHARED, architecture):
        gradient = gradients.pop(theirs)
        torch.testing.assert_close(gradient[mask], own[name].flatten(), rtol=0, atol=0)  # type: ignore[union-attr]
        assert not gradient[~mask].any()
    assert not gradients


def test_every_weight_belongs_to_some_network() -> None:
    unused = {n: torch.ones(p.shape, dtype=torch.bool) for n, p in SHARED.named_parameters()}
    rng = random.Random(0)
    for _ in range(400):
        for _, name, mask in _parts(SHARED, SPACE.decode(sample(SPACE, rng))):
            unused[name] &= ~mask
    assert not [name for name, mask in unused.items() if mask.any()]


@pytest.mark.parametrize("name", list(SPACES))
def test_the_envelope_holds_the_whole_space(name: str) -> None:
    space = SPACES[name](resolution=32, num_classes=10, target_macs=2e7)
    envelope, rng = envelope_of(space), random.Random(1)
    for _ in range(300):
        envelope.check(space.decode(sample(space, rng)))


@pytest.mark.parametrize("space", [SPACE, SPACES["mnasnet"](32, 10, 8e6)])
def test_the_extremes_bound_the_space(space: Space) -> None:
    largest, smallest = (count(network).macs for network in extremes(space))
    rng = random.Random(2)
    macs = [count(space.decode(sample(space, rng))).macs for _ in range(300)]
    assert smallest <= min(macs) < max(macs) <= largest


def test_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (supernet(envelope_of(SPACE), seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_dropout_is_the_largest_network_s_alone() -> None:
    architecture = replace(SPACE.reference, dropout=0.5, drop_path=0.5)
    small = SHARED.template(architecture, regularised=False).train()
    torch.testing.assert_close(SHARED.compute(small, IMAGES), SHARED.compute(small, IMAGES))
    large = SHARED.template(architecture, regularised=True).train()
    assert not torch.equal(SHARED.compute(large, IMAGES), SHARED.compute(large, IMAGES))
    assert SHARED.extract(architecture).architecture == architecture


def test_a_larger_network_is_refused() -> None:
    stage = replace(SPACE.reference.stages[0], repeats=9)
    deep = replace(SPACE.reference, name="deep", stages=(stage, SPACE.reference.stages[1]))
    with pytest.raises(SharingError, match="deep is larger somewhere, or of another op, than what"):
        SHARED.extract(deep)


def test_bottlenecks_are_refused_with_the_reason() -> None:
    with pytest.raises(SharingError, match="a projection with weights in some networks and the"):
        envelope_of(ResidualSpace())


def test_a_builder_s_network_is_refused() -> None:
    built = BuiltNetwork(name="own", reference="tests.builders:plain", resolution=8)
    with pytest.raises(SharingError, match="only the builder knows what they compute"):
        Envelope.around(built)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resolution": 9}, "they agree in resolution; tiny has 8, tiny 9."),
        ({"head_width": 0}, "they agree in head; tiny has True, tiny False."),
        ({"norm_eps": 1e-5}, "they agree in norm eps; tiny has 0.001, tiny 1e-05."),
        ({"stages": SPACE.reference.stages[:1]}, r"strides of the stages; tiny has \[1, 2\], tiny"),
    ],
)
def test_networks_that_differ_in_what_has_no_weights_to_cut(changes: dict, words: str) -> None:
    one = Envelope.around(SPACE.reference)
    with pytest.raises(SharingError, match=words):
        _ = one | Envelope.around(replace(SPACE.reference, **changes))


def test_another_op_is_refused() -> None:
    stage = replace(SPACE.reference.stages[0], block=Bottleneck())
    with pytest.raises(SharingError, match="between blocks of op 'bottleneck'"):
        Envelope.around(replace(SPACE.reference, stages=(stage, SPACE.reference.stages[1])))
