"""The spaces: their size, what they hold, and that every network of them is one."""

import pickle
import random
import statistics
from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.adapt import stride_budget
from search_spaces.architecture import Architecture, units
from search_spaces.capacity import capacity
from search_spaces.cost import count
from search_spaces.spaces import (
    SPACES,
    FactorizedSpace,
    default_target_macs,
    efficientnet,
    mnasnet,
    sample,
)
from search_spaces.zoo import efficientnet_b0, mobilenet_v2

SIZES = [8, 16, 28, 32, 64, 224]

every_space = pytest.mark.parametrize("name", SPACES)
every_size = pytest.mark.parametrize("resolution", SIZES)


def _space(name: str, resolution: int, classes: int = 10) -> FactorizedSpace:
    target = default_target_macs(resolution, classes)
    return SPACES[name](resolution=resolution, num_classes=classes, target_macs=target)


def _networks(space: FactorizedSpace, number: int) -> list[Architecture]:
    rng = random.Random(0)
    return [space.decode(sample(space, rng)) for _ in range(number)]


def test_mnasnet_has_432_options_a_block() -> None:
    space = mnasnet()
    block = [len(options) for name, options in space.choices.items() if name.startswith("block1.")]
    assert block == [4, 2, 2, 3, 3, 3]
    assert space.size == 432**7
    assert len(space.choices) == 42


def test_efficientnet_has_108_options_a_block() -> None:
    assert efficientnet().size == 108**7
    assert all("skip" not in name for name in efficientnet().choices)


def test_the_paper_s_conditions_give_the_paper_s_widths() -> None:
    assert mnasnet(224, 1000, 400e6).base_width == 1.0
    assert efficientnet(224, 1000, 400e6).base_width == 1.0


def test_efficientnet_holds_b0_exactly() -> None:
    b0 = efficientnet_b0()
    choices = efficientnet().encode(b0)
    decoded = efficientnet().decode(choices)
    assert decoded == replace(b0, name=decoded.name)
    assert choices["block3.kernel"] == 5
    assert {choices[f"block{i}.width"] for i in range(3, 8)} == {1.0}


def test_mnasnet_holds_mobilenet_v2_s_shape() -> None:
    space = mnasnet()
    choices = {
        f"block{i}.{name}": value
        for i in range(1, 8)
        for name, value in {
            **{"op": "dwconv" if i == 1 else "mbconv6", "kernel": 3, "se": 0.0},
            **{"skip": "identity", "width": 1.0, "layers": 0},
        }.items()
    }
    assert count(space.decode(choices)) == count(mobilenet_v2())


@every_space
@every_size
def test_every_network_is_sound_at_every_size(name: str, resolution: int) -> None:
    space = _space(name, resolution)
    for network in _networks(space, 40):
        assert (network.resolution, network.num_classes) == (resolution, 10)
        assert count(network).macs > 0
        last = list(units(network))[-1]
        assert last.in_size >= 4
        strides = [network.stem.stride, *(stage.stride for stage in network.stages)]
        assert strides.count(2) == stride_budget(resolution)
        assert Architecture.from_json(network.to_json()) == network
        assert network.name == f"{name}-{network.digest}"


@every_space
@every_size
def test_random_networks_cost_about_the_target(name: str, resolution: int) -> None:
    macs = [count(network).macs for network in _networks(_space(name, resolution), 300)]
    ratio = statistics.median(macs) / default_target_macs(resolution, 10)
    assert 0.6 < ratio < 1.4  # as at 224 px and 400 M, where it is .77 and .90


@every_space
@pytest.mark.parametrize("target", [100e6, 1e9, 4e9])
def test_the_target_moves_the_base_width(name: str, target: float) -> None:
    space = SPACES[name](resolution=224, num_classes=1000, target_macs=target)
    assert (space.base_width < 1) == (target < 400e6)
    macs = [count(network).macs for network in _networks(space, 60)]
    assert 0.6 < statistics.median(macs) / target < 1.4


@every_space
def test_the_base_width_falls_with_the_target(name: str) -> None:
    widths = [
        SPACES[name](resolution=32, num_classes=10, target_macs=target).base_width
        for target in (4e6, 8e6, 16e6, 32e6, 64e6)
    ]
    assert widths == sorted(set(widths))
    assert widths[0] < 1


@every_space
@given(data=st.data(), resolution=st.sampled_from(SIZES))
@settings(max_examples=40, deadline=None)
def test_encode_and_decode_are_inverse(name: str, data: st.DataObject, resolution: int) -> None:
    space = _space(name, resolution)
    choices = {k: data.draw(st.sampled_from(options)) for k, options in space.choices.items()}
    network = space.decode(choices)
    assert space.decode(space.encode(network)) == network


@every_space
def test_only_choices_that_rounding_makes_equal_encode_to_others(name: str) -> None:
    space = SPACES[name]()
    rng = random.Random(1)
    for _ in range(50):
        choices = sample(space, rng)
        encoded = space.encode(space.decode(choices))
        # One layer less than one is one; near 16 channels, multiples of 8 make factors coincide.
        different = {k for k in choices if encoded[k] != choices[k]}
        assert different <= {"block1.layers", "block7.layers", "block1.width", "block2.width"}


PLAIN = replace(  # no choice in any block but of the width of some
    efficientnet(), ops=("mbconv6",), kernels=(3,), se_ratios=(0.25,), depth_changes=(0,)
)
ONE = replace(mnasnet(), reference=replace(mobilenet_v2(), stages=mobilenet_v2().stages[:1]))
FIXED = replace(PLAIN, width_factors=(1.0,))


@pytest.mark.parametrize(
    "space",
    [*(_space(name, size) for name in SPACES for size in (16, 224)), PLAIN, ONE, FIXED],
    ids=lambda space: f"{space.name}-{space.reference.resolution}-{len(space.choices)}",
)
@settings(max_examples=40)
@given(data=st.data())
def test_what_choices_cost_and_can_is_what_their_network_does(
    space: FactorizedSpace, data: st.DataObject
) -> None:
    drawn = st.fixed_dictionaries({k: st.sampled_from(o) for k, o in space.choices.items()})
    several = data.draw(st.lists(drawn, min_size=1, max_size=4))
    found = space.counts(several)
    assert found.shape == (len(several), 5)
    for choices, row in zip(several, found.tolist(), strict=True):
        network = space.decode(choices)
        expected, able = count(network), capacity(network)
        assert row[:4] == [*astuple(expected), able.channels]
        assert row[4] == pytest.approx(able.log_fan_in)
        assert space.cost(choices) == expected
        assert space.cost(dict(reversed(choices.items()))) == expected
        assert pickle.loads(pickle.dumps(space)).cost(choices) == expected


def test_costs_of_what_are_no_choices_are_refused() -> None:
    space = efficientnet()
    choices = space.encode(efficientnet_b0())
    space.cost(choices)
    with pytest.raises(ValueError, match=r"`block2.kernel` must be one of \(3, 5\), but got 7"):
        space.cost({**choices, "block2.kernel": 7})
    with pytest.raises(ValueError, match=r"has other choices: block9\.op"):
        space.cost({**choices, "block9.op": "mbconv6"})
    del choices["block1.op"]
    with pytest.raises(ValueError, match=r"has other choices: block1\.op"):
        space.cost(choices)
    with pytest.raises(ValueError, match=r"has other choices: block1\.op, block9\.op"):
        space.cost({**choices, "block9.op": "mbconv6"})


def test_samples_are_reproducible_and_spread() -> None:
    space = mnasnet()
    first, again = ([sample(space, random.Random(seed)) for seed in range(100)] for _ in range(2))
    assert first == again
    seen = {(name, value) for choices in first for name, value in choices.items()}
    assert len(seen) == sum(map(len, space.choices.values()))


def test_a_network_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="Space 'mnasnet' does not hold 'efficientnet-b0'"):
        mnasnet().encode(efficientnet_b0())
    shorter = replace(efficientnet_b0(), stages=efficientnet_b0().stages[:-1])
    with pytest.raises(ValueError, match="does not hold"):
        efficientnet().encode(shorter)


def test_unknown_and_missing_choices_are_refused() -> None:
    space = efficientnet()
    choices = space.encode(efficientnet_b0())
    with pytest.raises(ValueError, match=r"has other choices: block9\.op"):
        space.decode({**choices, "block9.op": "mbconv6"})
    del choices["block1.op"]
    with pytest.raises(ValueError, match=r"has other choices: block1\.op"):
        space.decode(choices)


def test_a_value_that_is_no_option_is_refused() -> None:
    choices = efficientnet().encode(efficientnet_b0())
    with pytest.raises(ValueError, match=r"`block2.kernel` must be one of \(3, 5\), but got 7"):
        efficientnet().decode({**choices, "block2.kernel": 7})


@pytest.mark.parametrize(("resolution", "classes", "target"), [(224, 1000, 400e6), (64, 10, 33e6)])
def test_default_targets_follow_the_pixels(resolution: int, classes: int, target: float) -> None:
    assert default_target_macs(resolution, classes) == target


@pytest.mark.slow
@settings(max_examples=10)
@given(st.integers(8, 512), st.integers(2, 1000))
def test_default_targets_can_be_met(resolution: int, classes: int) -> None:
    target = default_target_macs(resolution, classes)
    assert target >= 0.95 * 400e6 * (resolution / 224) ** 2
    for space in SPACES.values():
        assert space(resolution, classes, target).base_width > 0.1


def test_a_target_out_of_reach_is_refused_as_it_was_given() -> None:
    with pytest.raises(ValueError, match=r"'mnasnet' at 32 px near 2K multiply-adds \(nearest: "):
        mnasnet(32, 10, 2e3)
