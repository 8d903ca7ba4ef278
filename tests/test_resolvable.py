"""Which depths fit into a ratio, what is said where they are few, and that the remedies hold."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.costs.metrics import MACS
from scaling_search.candidates import Grid, find_candidates
from scaling_search.compound import Coefficients, default_rounding, scale
from scaling_search.resolvable import distinct_steps, resolvability
from search_spaces.adapt import adapt_resolution
from search_spaces.builder import base_of_builder
from search_spaces.rounding import Rounding
from search_spaces.zoo import ZOO, efficientnet_b0
from tests.grid_evaluators import TINY

B0 = efficientnet_b0()
CEIL, ROUND = Rounding(), Rounding(depth="round")


def test_depths_of_b0_within_twice_its_cost() -> None:
    """Repeats 1, 2, 2, 3, 3, 4, 1, rounded up: the first step is 23 blocks, up to alpha 1.25."""
    steps = distinct_steps(B0, "depth", 2.1)
    assert [(step.low, step.high) for step in steps] == [
        *((1.01, 1.25), (1.26, 1.33), (1.34, 1.5)),
        *((1.51, 1.66), (1.67, 1.75), (1.76, 2.0)),
    ]
    assert steps[0].ratio == pytest.approx(1.4765, abs=1e-4)
    assert distinct_steps(B0, "depth", 1.6) == steps[:2]
    assert distinct_steps(B0, "depth", 1.4) == []


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from([make() for make in ZOO.values()]),
    st.sampled_from(["depth", "width", "resolution"]),
    st.sampled_from([CEIL, ROUND]),
    st.sampled_from([1.5, 2.1]),
)
def test_steps_equal_a_scan(base, axis: str, rounding: Rounding, ratio: float) -> None:
    found: dict[str, list[float]] = {}
    for i in range(1, 150):
        value = (100 + i) / 100
        alone = {"depth": (value, 1, 1), "width": (1, value, 1), "resolution": (1, 1, value)}
        network = scale(base, Coefficients(*alone[axis]), 1, rounding)
        if MACS(network) / MACS(base) <= ratio:
            found.setdefault(network.digest, []).append(value)
    found.pop(scale(base, Coefficients(1, 1, 1), 1, rounding).digest, None)
    steps = distinct_steps(base, axis, ratio, rounding)
    assert [(step.low, step.high) for step in steps] == [(v[0], v[-1]) for v in found.values()]


def test_what_the_bounds_fix_need_not_be_resolved() -> None:
    assert resolvability(B0, Grid(beta=(1, 1))) == resolvability(B0) != []
    assert resolvability(B0, Grid(alpha=(1, 1))) == []


def test_b0_rounded_up_does_not_resolve_alpha_and_the_remedies_do() -> None:
    problem, remedy = resolvability(B0)
    assert problem == (
        "alpha is coarse: efficientnet-b0 at x2 has 6 depths, no share of depth between 0.00 and "
        "0.56; every alpha from 1.01 to 1.25 is one network, of x1.48 multiply-adds"
    )
    assert remedy == (
        "remedy for depth: --depth-rounding round (10 depths, no share of depth between 0.45 and "
        "0.73); --ratio 4 (18 depths, no share of depth between 0.00 and 0.28)"
    )
    assert resolvability(B0, rounding=ROUND) == []
    assert resolvability(B0, Grid(target=4.0)) == []


def test_what_is_said_of_b0_is_true_of_its_candidates() -> None:
    depths = {candidate.shares.depth for candidate in find_candidates(B0)}
    assert all(depth == 0 or depth > 0.5 for depth in depths)
    depths = {candidate.shares.depth for candidate in find_candidates(B0, rounding=ROUND)}
    assert any(0.1 < depth < 0.35 for depth in depths)


def test_one_block_a_stage() -> None:
    """Every alpha in (1, 2] is one network, rounded to the nearest too."""
    stages = tuple(replace(stage, repeats=1) for stage in TINY.stages)
    base = replace(TINY, stages=stages)
    problem, remedy = resolvability(base, rounding=default_rounding(base, 1))[:2]
    assert problem.startswith("alpha is coarse: tiny at x2 has 1 depth, no share of depth between")
    assert "--depth-rounding round (1 depth, " in remedy
    assert "still coarse); --ratio " in remedy


def test_coarse_pixels_are_said_and_finer_ones_offered() -> None:
    base = adapt_resolution(ZOO["resnet-50"](), 32)
    assert resolvability(base) == []
    problem, remedy = resolvability(base, rounding=Rounding(depth="ceil", resolution_divisor=16))
    assert problem.startswith("gamma is coarse: resnet-50 at x2 has 0 resolutions, no share of")
    assert remedy.startswith("remedy for resolution: --resolution-step 8 (1 resolution, ")


def test_coarse_widths_are_said() -> None:
    base = replace(TINY, head_width=8, stages=tuple(replace(s, width=8) for s in TINY.stages))
    lines = resolvability(base, rounding=Rounding(depth="round", resolution_divisor=1))
    assert any(line.startswith("beta is coarse: tiny at x2 has ") for line in lines)
    assert any(line.startswith("remedy for width: --ratio ") for line in lines)


def test_a_network_that_shrinks_is_not_judged() -> None:
    assert resolvability(B0, Grid(target=0.5)) == []


def test_of_a_builder_only_depth_is_looked_at() -> None:
    base = base_of_builder("tests.builders:plain", 16)
    problem, remedy = resolvability(base)
    assert problem.startswith("alpha is coarse: tests.builders:plain at x2 has 2 depths")
    assert "every alpha from 1.05 to 1.5 is one network" in problem
    assert remedy.startswith("remedy for depth: --ratio 4 (")
