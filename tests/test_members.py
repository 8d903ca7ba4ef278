"""Members and what is said of them, without the command."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas.costs.latency import Latency
from nas.costs.memory import Memory
from nas.costs.metrics import MACS, PARAMS, Metric
from scaling_search.compound import ScalingError
from scaling_search.family_report import off_target, rules, tinynet_text
from scaling_search.members import (
    Steps,
    family_table,
    implied_table,
    member_at,
    member_for,
    released_member,
    target_label,
)
from scaling_search.released import PAPER
from search_spaces.cost import count
from search_spaces.rounding import Rounding
from search_spaces.zoo import efficientnet_b0, resnet50

B0 = efficientnet_b0()


def test_the_published_members_follow_no_phi() -> None:
    """The phi of every column is facts of arithmetic on the released code's numbers."""
    table = implied_table(B0, PAPER).set_index("name")
    assert [f"{phi:.2f}" for phi in table["phi_macs"]] == [
        *("0.88", "1.45", "2.38", "3.73", "5.03", "5.98", "7.02")
    ]
    assert [f"{phi:.2f}" for phi in table.loc["B4"]] == ["3.22", "3.53", "3.78", "3.73"]
    family = family_table([released_member(B0, i, Steps()) for i in range(1, 8)], count(B0).macs)
    for column in table:
        assert family[column].tolist() == table[column].tolist()


def test_a_target_below_the_base_rounds_depth_half_up_with_the_given_pixels() -> None:
    member = member_for(B0, PAPER, 100e6, MACS, Steps(resolution=32))
    assert member.architecture.resolution == 160
    assert member.architecture.num_blocks == 11
    above = member_for(B0, PAPER, 860e6, MACS, Steps(resolution=32))
    assert above.architecture.num_blocks == 23
    assert above.architecture.resolution == 256
    up = member_for(B0, PAPER, 100e6, MACS, Steps(depth="ceil"))
    assert up.architecture.num_blocks == 13


def test_a_member_by_target_is_the_member_at_its_phi() -> None:
    member = member_for(B0, PAPER, 1e9, MACS, Steps())
    same = member_at(B0, PAPER, member.phi, Steps())
    assert member.architecture == replace(same.architecture, name="efficientnet-b1G")
    assert (member.name, member.factors) == ("B1G", same.factors)
    assert member.solved is not None
    assert member.solved.cost == count(member.architecture).macs


@pytest.mark.parametrize(
    ("metric", "target", "label"),
    [
        (MACS, 400e6, "400M"),
        (PARAMS, 5e6, "5M-params"),
        (Latency(file=Path("nowhere")), 12.5, "12.5ms"),
        (Memory(batch_size=2), 8e9, "8G-memory"),
    ],
)
def test_targets_name_members(metric: Metric, target: float, label: str) -> None:
    assert target_label(metric, target) == label


def test_the_rules_are_said() -> None:
    assert rules(B0, Steps(), [0, 3]) == (
        "repeats rounded up · widths in 8s · resolution in 8 px · dropout +0.05 per phi, at most "
        "0.5"
    )
    assert "rounded up (half up where phi < 0)" in rules(B0, Steps(), [-1, 3])
    assert "rounded half up · " in rules(B0, Steps(), [-2, -1])
    assert "rounded up · " in rules(B0, Steps(depth="ceil"), [-1, 3])
    assert "resolution in 4 px · dropout stays 0" in rules(resnet50(), Steps(resolution=4), [1])


def test_steps_are_checked() -> None:
    with pytest.raises(ValueError, match="Divisors must be at least 1"):
        Steps(resolution=0).rounding(Rounding())
    with pytest.raises(ScalingError, match="`-1000 <= phi <= 1000` must hold"):
        member_at(B0, PAPER, float("nan"), Steps())


def test_only_what_is_worth_a_word_is_said() -> None:
    near = [member_for(B0, PAPER, 860e6, MACS, Steps())]
    assert off_target(near, MACS, B0, Steps()) is None
    assert tinynet_text(near, family_table(near, count(B0).macs)) is None
    far = [*near, member_for(B0, PAPER, 500e6, MACS, Steps())]
    words = off_target(far, MACS, B0, Steps()) or ""
    assert words.startswith("B500M (+14%): over 5% from the target in multiply-adds. Whole")
    assert words.endswith(" with --depth-rounding round, --resolution-step 4, a deeper baseline.")
    finest = Steps(depth="round", resolution=1)
    far = [member_for(B0, PAPER, 420e6, MACS, finest)]
    words = off_target(far, MACS, B0, finest) or ""
    assert words.endswith("pixels leave gaps, smaller ones with a deeper baseline.")
