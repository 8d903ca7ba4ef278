"""Statistics and verdicts of `scaling_search.validate`, without any training."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.costs.metrics import METRICS
from scaling_search.compound import Coefficients, ScalingError
from scaling_search.contest import Contestant, Level
from scaling_search.two_way import TwoWay
from scaling_search.validate_report import results_frame, results_table, scaling_plot
from scaling_search.validate_words import verdict_lines, winner
from scaling_search.verdict import Assessment, assess
from tests.validate_evaluators import SMALL

RULES = ("fitted", "published", "fast", "depth", "width", "resolution")
NOISE = 0.004


def by_seed(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def draw(rng: np.random.Generator, truths: np.ndarray, seeds: int) -> list[dict[int, float]]:
    """Accuracies of networks, with what a seed adds to all of them."""
    cells = truths[:, None] + rng.normal(0, NOISE, (len(truths), seeds)) + rng.normal(0, 1, seeds)
    return [by_seed(row) for row in cells]


def contestant(rules: tuple[str, ...], cost: float, number: int) -> Contestant:
    return Contestant(
        rules=rules,
        architecture=replace(SMALL, head_width=8 * number, name=rules[0]),
        coefficients=Coefficients(1.2, 1.1, 1.2),
        phi=2.0,
        cost=cost,
    )


BASE = contestant(("base",), 100.0, 1)


def judge(
    means: Mapping[str, float],
    *,
    costs: Mapping[str, float] | None = None,
    seeds: int = 4,
    base: float | None = 0.5,
    levels: int = 1,
    wobble: float = 0.001,
) -> Assessment:
    """The assessment of rules with these means, whose seeds differ by `wobble` or so."""
    costs = {} if costs is None else costs
    rng = np.random.default_rng(0)
    found, accuracies = [], {}
    for level in range(levels):
        made = [
            contestant(tuple(rule.split("=")), costs.get(rule, 400.0), 2 + i + 10 * level)
            for i, rule in enumerate(means)
        ]
        found.append(Level(phi=2.0 + level, target=400.0, contestants=tuple(made), missing={}))
        for one, mean in zip(made, means.values(), strict=True):
            noise = rng.normal(0, wobble, seeds)
            values = by_seed(mean + noise - noise.mean())
            accuracies[one.architecture.digest] = {} if math.isnan(mean) else values
    if base is not None:
        accuracies[BASE.architecture.digest] = by_seed(np.full(seeds, base))
    return assess(BASE, found, accuracies)


def test_two_networks_are_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.7, 0.01, 6), rng.normal(0.69, 0.01, 6)
    difference, margin = TwoWay.fit([by_seed(ours), by_seed(theirs)], 1).difference(1)
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (difference - margin, difference + margin) == pytest.approx((low, high))


def test_noise_is_what_networks_and_seeds_leave() -> None:
    """Two-way analysis of variance by its textbook sums."""
    cells = np.random.default_rng(2).normal(0.7, 0.01, (5, 3))
    rest = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    two_way = TwoWay.fit([by_seed(row) for row in cells], 4)
    assert two_way.freedom == 8
    assert two_way.noise == pytest.approx(math.sqrt((rest**2).sum() / 8))
    difference, margin = two_way.difference(3)
    assert difference == pytest.approx(cells[0].mean() - cells[3].mean())
    quantile = stats.t.ppf(1 - 0.05 / 8, 8)
    assert margin == pytest.approx(quantile * two_way.noise * math.sqrt(2 / 3))


@given(shift=st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4))
def test_what_a_seed_adds_to_all_changes_nothing(shift: list[float]) -> None:
    cells = np.random.default_rng(3).normal(0.5, 0.01, (3, 4))
    plain, shifted = (
        TwoWay.fit([by_seed(row) for row in values], 2).difference(1)
        for values in (cells, cells + np.array(shift))
    )
    assert shifted == pytest.approx(plain, abs=1e-9)


def test_a_missing_seed_does_not_bias() -> None:
    """Seed 2 is 10 points better; the network that lacks it is not 10 / 3 points worse for it."""
    two_way = TwoWay.fit([{0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5, 2: 0.6}, {0: 0.3, 2: 0.5}], 2)
    assert two_way.difference(1)[0] == pytest.approx(0.1)
    assert two_way.difference(2)[0] == pytest.approx(0.2)


def test_no_telling_without_a_common_seed_or_with_one_seed() -> None:
    assert TwoWay.fit([{0: 0.5, 1: 0.5}, {2: 0.4, 3: 0.4}], 1).difference(1)[1] == math.inf
    one = TwoWay.fit([{0: 0.5}, {0: 0.4}], 1)
    assert one.difference(1) == (pytest.approx(0.1), math.inf)
    assert math.isnan(one.noise)
    assert one.seeds_needed(0.1) is None


def test_all_intervals_hold_together_in_95_of_100() -> None:
    rng = np.random.default_rng(4)
    truths = np.array([0.7, 0.71, 0.69, 0.7, 0.6, 0.72])
    held = 0
    for _ in range(600):
        two_way = TwoWay.fit(draw(rng, truths, 3), 5)
        pairs = [two_way.difference(i) for i in range(1, 6)]
        held += all(
            abs(difference - (truths[0] - truths[i])) <= margin
            for i, (difference, margin) in enumerate(pairs, 1)
        )
    assert 0.93 <= held / 600 <= 0.985  # Bonferroni is a little on the safe side


def test_the_seeds_that_are_named_suffice_four_times_in_five() -> None:
    rng = np.random.default_rng(5)
    truths = np.array([0.705, 0.7, 0.69, 0.68])
    pilot = replace(TwoWay.fit(draw(rng, truths, 3), 3), noise=NOISE)
    seeds = pilot.seeds_needed(0.005)
    assert seeds is not None
    found = 0
    for _ in range(600):
        difference, margin = TwoWay.fit(draw(rng, truths, seeds), 3).difference(1)
        found += difference > margin
    assert 0.77 <= found / 600 <= 0.88
    assert pilot.seeds_needed(0.01) < seeds  # type: ignore[operator]
    assert pilot.seeds_needed(1e-5) is None
    assert pilot.seeds_needed(0.0) is None


def test_many_seeds_are_those_of_the_normal_formula() -> None:
    two_way = replace(TwoWay.fit([by_seed(np.zeros(3))] * 4, 3), noise=NOISE)
    for effect in (0.001, 0.0007):
        quantiles = stats.norm.isf(0.05 / 6) + stats.norm.isf(0.2)
        formula = 2 * (quantiles * NOISE / effect) ** 2
        assert two_way.seeds_needed(effect) == pytest.approx(formula, rel=0.01)


AHEAD: dict[str, float] = dict(zip(RULES, (0.7, 0.69, 0.7, 0.6, 0.62, 0.61), strict=True))


def test_ahead_of_every_axis_and_behind_none_holds() -> None:
    assessment = judge(AHEAD)
    assert assessment.kind == "HOLDS"
    outcomes = {c.rival.contestant.label: c.outcome for c in assessment.comparisons}
    assert outcomes == {
        "published": "ahead",
        "fast": "not told apart",
        "depth": "ahead",
        "width": "ahead",
        "resolution": "ahead",
    }
    lines = verdict_lines(assessment)
    assert lines[0] == (
        "HOLDS: at phi 2 the fitted constants are ahead of every single axis, behind no rule"
    )
    assert any("not told apart from fast (+0.00 ± " in line for line in lines)
    assert not any("to do" in line for line in lines)


@pytest.mark.parametrize("rule", RULES[1:])
def test_any_rule_ahead_fails_and_is_named(rule: str) -> None:
    assessment = judge({**AHEAD, rule: 0.72})
    assert assessment.kind == "FAILS"
    assert winner(assessment).contestant.rules == (rule,)
    lines = verdict_lines(assessment)
    assert lines[0] == f"FAILS: at phi 2 the fitted constants are behind {rule}"
    assert any(line.startswith(f"to do: scale by {rule} instead") for line in lines)


def test_the_best_rule_at_the_largest_phi_is_the_winner() -> None:
    assessment = judge({**AHEAD, "fast": 0.72, "width": 0.73}, levels=2)
    assert assessment.kind == "FAILS"
    assert winner(assessment).contestant.label == "width"
    assert winner(assessment) is assessment.levels[1].comparisons[3].rival


def test_an_axis_within_noise_is_not_resolved_and_seeds_are_named() -> None:
    assessment = judge({**AHEAD, "width": 0.697}, wobble=0.004)
    assert assessment.kind == "NOT RESOLVED"
    (open_one,) = assessment.open_axes
    assert open_one.rival.contestant.label == "width"
    assert open_one.seeds_needed is not None
    assert open_one.seeds_needed > 4
    (line,) = (line for line in verdict_lines(assessment) if line.startswith("to do"))
    assert line.endswith(f": {open_one.seeds_needed} for width at phi 2")


def test_the_fewest_seeds_that_decide_are_those_of_an_axis_that_looks_ahead() -> None:
    """One axis ahead is enough for FAILS; HOLDS takes all of them."""

    def decisive(depth: float, width: float, resolution: float) -> tuple[str, ...] | None:
        axes = {"depth": depth, "width": width, "resolution": resolution}
        found = judge({"fitted": 0.7, **axes}, wobble=0.01)
        assert found.kind == "NOT RESOLVED"
        return None if found.decisive is None else found.decisive.rival.contestant.rules

    assert decisive(0.6985, 0.696, 0.6) == ("depth",)
    assert decisive(0.6985, 0.702, 0.703) == ("resolution",)
    assert decisive(0.7, 0.696, 0.6) is None
    assert decisive(0.7, 0.704, 0.6) == ("width",)


def test_equal_networks_are_no_matter_of_seeds() -> None:
    assessment = judge({**AHEAD, "depth": 0.7}, wobble=0.0)
    assert assessment.kind == "NOT RESOLVED"
    assert [c.seeds_needed for c in assessment.open_axes] == [None]
    lines = verdict_lines(assessment)
    assert any("more than 1000 for depth" in line for line in lines)
    assert any("a larger --phi" in line for line in lines)


def test_one_seed_decides_nothing() -> None:
    assessment = judge(AHEAD, seeds=1)
    assert assessment.kind == "NOT RESOLVED"
    assert verdict_lines(assessment)[0].endswith("use --seeds 3 or more")


def test_a_network_without_rivals_is_no_matter_of_seeds() -> None:
    assessment = judge({"fitted": 0.7})
    assert assessment.kind == "NOT RESOLVED"
    assert verdict_lines(assessment)[0].endswith("there is no other network to compare with")
    lost = judge({"fitted": 0.7, "depth": math.nan})
    assert verdict_lines(lost)[0].endswith("there is no other network to compare with")


def test_an_axis_whose_trials_all_failed_leaves_it_open() -> None:
    assessment = judge({**AHEAD, "depth": math.nan})
    assert assessment.kind == "NOT RESOLVED"
    assert any("all trials of depth failed" in line for line in verdict_lines(assessment))
    assert judge({**AHEAD, "published": math.nan}).kind == "HOLDS"


def test_a_lost_fitted_network_is_an_error() -> None:
    with pytest.raises(ScalingError, match="Every trial of the fitted network at phi = 2 failed"):
        judge({**AHEAD, "fitted": math.nan})


def test_a_rule_that_makes_the_fitted_network_is_no_rival() -> None:
    assessment = judge({"fitted=published": 0.7, **{rule: AHEAD[rule] for rule in RULES[2:]}})
    assert assessment.kind == "HOLDS"
    assert len(assessment.comparisons) == 4
    assert any("published and fitted are one network" in x for x in verdict_lines(assessment))


def test_a_lead_that_the_cost_explains_does_not_count() -> None:
    """0.2 for two doublings: 20 % more cost are worth 0.023, and width is 0.02 behind."""
    means, costs = {**AHEAD, "width": 0.68}, {"fitted": 480.0}
    assessment = judge(means, costs=costs)
    width = assessment.comparisons[3]
    rise = 0.2 * math.log(1.2) / math.log(4.8)
    assert width.even == pytest.approx(0.02 - rise)
    assert width.hangs_on_cost
    assert assessment.kind == "NOT RESOLVED"
    assert any("but -0.32 at equal cost" in line for line in verdict_lines(assessment))
    assert judge(means).kind == "HOLDS"
    assert judge(means, costs=costs, base=None).kind == "HOLDS"  # without the line, no correction


def test_nor_does_a_rival_s_lead() -> None:
    means = {**AHEAD, "width": 0.71}
    assert judge(means).kind == "FAILS"
    assert judge(means, costs={"width": 480.0}).kind == "NOT RESOLVED"


def test_a_correction_alone_decides_nothing() -> None:
    """Width is 0.0001 behind, at 20 % more cost: ahead at equal cost, level as it is."""
    assessment = judge({**AHEAD, "width": 0.6999}, costs={"width": 480.0})
    assert assessment.comparisons[3].even > assessment.comparisons[3].margin
    assert assessment.comparisons[3].outcome == "not told apart"


def test_frame_table_and_plot_have_every_network() -> None:
    assessment = judge(AHEAD, costs={"fast": 430.0}, levels=2)
    frame = results_frame(assessment, 100.0)
    assert frame["rules"].tolist() == ["base", *RULES, *RULES]
    assert frame["phi"].tolist() == [0.0, *[2.0] * 6, *[3.0] * 6]
    fast = next(row for row in frame.to_dict(orient="records") if row["rules"] == "fast")
    assert (fast["ratio"], fast["off_target"]) == (4.3, pytest.approx(0.075))
    assert fast["marked"]
    assert fast["low"] < fast["difference"] < fast["high"]
    assert frame["marked"].tolist().count(True) == 2
    table = results_table(assessment, METRICS["macs"])
    assert table.count("+7.5 % *") == 2
    assert len(table.splitlines()) == 2 + 13
    assert scaling_plot(assessment, METRICS["macs"]).startswith(b"\x89PNG")
