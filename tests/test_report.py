"""What a search leaves for people: the verdict must not claim more than was measured."""

import math
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.costs.metrics import METRICS
from nas.costs.objective import Objective, ParetoObjective, RewardObjective
from nas.costs.reward import Reward
from nas.search.baseline import SearchResult
from nas.search.finalists import Measured
from nas.search.markdown import markdown as any_markdown
from nas.search.plot import pareto_plot
from nas.search.report import (
    compare,
    finalists_frame,
    front_frame,
    front_table,
    pooled_spread,
    spread,
    trials_frame,
)
from nas.search.report import verdict as any_verdict
from nas.trials.evaluate import Outcome
from nas.trials.halving import Halving
from nas.trials.record import Record
from nas.trials.trial import Job, Proposal, Result
from tests.searching import drive, fixed_study, network, proposals, sampled_study

REWARD, PARETO = RewardObjective(Reward(5000)), ParetoObjective()


def verdict(result: SearchResult, objective: Objective = REWARD, target: float = 5000) -> str:
    return any_verdict(result, objective, target)


def markdown(result: SearchResult, plan: list[str], objective: Objective = REWARD) -> str:
    return any_markdown(result, plan, objective, 5000)


def _measured(origin: str, width: int, *rewards: float) -> Measured:
    return Measured(
        architecture=network(width),
        origin=origin,
        macs=1000 * width,
        params=10 * width,
        cost=float(1000 * width),
        accuracies=rewards,
        rewards=rewards,
    )


def _trial(slot: int, value: float | None) -> Result:
    proposal = Proposal(architecture=network(slot + 1), epochs=1, seed=0)
    return Result(
        job=Job(
            slot=slot,
            trial_id=slot,
            number=slot,
            proposal=proposal,
            cost=1000.0 * (slot + 1),
            rungs=(1,),
        ),
        outcome=Outcome(accuracy=value),
        values=None if value is None else (value, 1000.0 * (slot + 1)),
        macs=1000 * (slot + 1),
        params=10,
    )


def _result(*finalists: Measured) -> SearchResult:
    """The baseline is the best of the search's own."""
    own = [m for m in finalists if m.origin in ("search", "both")]
    baseline = max(own, key=lambda m: m.reward).architecture if own else network(1)
    return SearchResult(
        search=tuple(_trial(i, v) for i, v in enumerate((0.3, None, 0.5, 0.4))),
        control=(_trial(0, 0.2),),
        finalists=tuple(sorted(finalists, key=lambda m: -m.reward)),
        baseline=baseline,
    )


OWN = _measured("search", 8, 0.80, 0.81, 0.82)


def test_a_clear_win_is_told() -> None:
    words = verdict(
        _result(
            OWN, _measured("random", 9, 0.70, 0.71, 0.72), _measured("stock B0", 10, 0.6, 0.61, 0.6)
        )
    )
    random_search, stock, noise = words.splitlines()
    assert random_search == (
        "reward 0.8100 above 0.7100 of random search at the same number of trials: ahead"
    )
    assert stock.endswith("of stock EfficientNet-B0 at the same multiply-adds: ahead")
    assert noise.startswith("seed noise of the reward 0.0")
    assert noise.endswith("(standard deviation, 6 d.o.f.)")


@pytest.mark.parametrize("origin", ["random", "stock B0"])
def test_a_search_that_did_not_win_is_told(origin: str) -> None:
    result = _result(OWN, _measured(origin, 9, 0.90, 0.91, 0.92))
    words = verdict(result)
    assert "0.8100 below 0.9100" in words
    assert ": behind" in words
    assert f"THE SEARCH DID NOT WIN: {origin} has the best mean reward" in words
    assert "- THE SEARCH DID NOT WIN" in markdown(result, ["plan"])


def test_the_same_mean_is_neither_above_nor_below() -> None:
    words = verdict(_result(OWN, _measured("random", 9, *OWN.rewards)))
    assert "reward 0.8100 equal to 0.8100 of random search" in words


def test_a_lead_within_the_noise_is_not_called_one() -> None:
    words = verdict(_result(OWN, _measured("random", 9, 0.79, 0.81, 0.80)))
    assert "0.8100 above 0.8000" in words
    assert "not told apart from seed noise" in words
    assert "ahead" not in words


def test_a_loss_within_the_noise_is_still_no_win() -> None:
    words = verdict(_result(OWN, _measured("stock B0", 9, 0.81, 0.81, 0.82)))
    assert "not told apart from seed noise" in words
    assert "THE SEARCH DID NOT WIN: stock B0" in words


def test_what_random_search_found_too_is_no_gain() -> None:
    words = verdict(_result(_measured("both", 8, 0.80, 0.81), _measured("random", 9, 0.7, 0.71)))
    expected = "found by random search at the same number of trials too: the search gained nothing"
    assert words.splitlines()[0] == expected


def test_single_seeds_tell_nothing_apart() -> None:
    words = verdict(_result(_measured("search", 8, 0.9), _measured("random", 9, 0.1)))
    assert "not told apart (one seed each)" in words
    assert "seed noise" not in words


def test_no_finalists_no_verdict() -> None:
    result = _result()
    assert verdict(result) == ""
    assert "the baseline is not confirmed by repeats" in markdown(result, ["plan"])


def test_the_report_holds_plan_table_and_stages() -> None:
    text = markdown(_result(OWN, _measured("stock B0", 10, 0.6)), ["data    digits"])
    assert "    data    digits" in text
    assert "| search" in text
    assert "| stock B0" in text
    assert OWN.architecture.table() in text


def test_the_finalists_table() -> None:
    table = finalists_frame([OWN, _measured("stock B0", 10, 0.6)], REWARD)
    assert list(table.origin) == ["search", "stock B0"]
    assert table.reward.tolist() == pytest.approx([0.81, 0.6])
    assert table.accuracy_std[0] == pytest.approx(0.01)
    assert math.isnan(table.accuracy_std[1])
    assert list(table.seeds) == [3, 1]


_seeds = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(st.lists(_seeds, max_size=5))
def test_pooled_spread_is_that_of_the_centred_values(groups: list[list[float]]) -> None:
    noise, freedom = pooled_spread(groups)
    many = [group for group in groups if len(group) > 1]
    assert freedom == sum(len(group) - 1 for group in many)
    if freedom:
        centred = np.concatenate([np.subtract(group, np.mean(group)) for group in many])
        assert noise == pytest.approx(math.sqrt((centred**2).sum() / freedom))
    else:
        assert math.isnan(noise)
    assert all(math.isnan(spread(group)) for group in groups if len(group) == 1)


@given(_seeds, _seeds, st.floats(0.001, 0.2), st.integers(1, 20))
def test_comparing_is_antisymmetric(
    ours: list[float], theirs: list[float], noise: float, freedom: int
) -> None:
    mirrored = {"ahead": "behind", "behind": "ahead"}
    one, other = compare(ours, theirs, noise, freedom), compare(theirs, ours, noise, freedom)
    assert other == mirrored.get(one, one)


def test_the_margin_is_student_s() -> None:
    # t(0.975, 4) = 2.776; three seeds a side, noise 0.01: the margin is 0.02267.
    assert compare([0.5226] * 3, [0.5] * 3, 0.01, 4) == "not told apart from seed noise"
    assert compare([0.5227] * 3, [0.5] * 3, 0.01, 4) == "ahead"


def test_the_plot_is_an_image() -> None:
    both = _measured("both", 9, 0.7, 0.71)
    two = _measured("search", 7, 0.5, 0.6)
    for result in (_result(), _result(OWN, both, two, _measured("stock B0", 10, 0.6))):
        image = Image.open(BytesIO(pareto_plot(result, 5000.0, METRICS["macs"])))
        assert image.size == (1080, 540)


def test_the_trials_table_has_a_row_for_every_attempt(tmp_path: Path) -> None:
    study = sampled_study(tmp_path / "a.db", 3)
    drive(study, stop=1)
    drive(sampled_study(tmp_path / "a.db", 3))
    record = Record(tmp_path / "a.db", "study")
    table = trials_frame(record.trials())
    record.close()
    columns = ["number", "state", "reward", "accuracy", "macs", "params", "seconds", "reason"]
    assert list(table.columns[:8]) == columns
    assert list(table.number) == [0, 1, 2, 3]
    assert list(table.reason) == ["", "orphaned", "", ""]
    assert list(table.slot) == [0, 1, 1, 2]
    assert set(study.results[0].job.proposal.params) <= set(table.columns)
    assert not {"architecture", "choices", "outcome"} & set(table.columns)
    read = pd.read_csv(StringIO(table.to_csv(index=False)), keep_default_na=False)
    assert list(read.state) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_labels_become_columns(tmp_path: Path) -> None:
    labelled = [replace(p, labels={"origin": "search"}) for p in proposals(2)]
    drive(fixed_study(tmp_path / "a.db", labelled))
    record = Record(tmp_path / "a.db", "study")
    assert list(trials_frame(record.trials(), "value").origin) == ["search", "search"]
    record.close()


def test_what_was_stopped_early_has_no_value(tmp_path: Path) -> None:
    drive(sampled_study(tmp_path / "a.db", 9, epochs=9, halving=Halving()))
    record = Record(tmp_path / "a.db", "study")
    table = trials_frame(record.trials())
    record.close()
    stopped = table[table.state == "PRUNED"]
    assert len(stopped) > 0
    assert stopped.reward.isna().all()
    assert set(stopped.stopped_after) <= {1, 3}
    assert table[table.state == "COMPLETE"].stopped_after.isna().all()


def test_two_values_have_the_columns_of_accuracy_and_cost(tmp_path: Path) -> None:
    drive(sampled_study(tmp_path / "a.db", 3, strategy="nsga2", objective=PARETO))
    record = Record(tmp_path / "a.db", "study")
    table = trials_frame(record.trials(), None)
    assert [t.values for t in record.trials()] == table[["accuracy", "cost"]].to_numpy().tolist()
    record.close()
    assert "reward" not in table.columns
    assert list(table.cost) == list(table.macs)


FRONT = SearchResult(
    search=tuple(_trial(i, v) for i, v in enumerate((0.3, 0.2, None, 0.5))),
    control=tuple(_trial(i, v) for i, v in enumerate((0.1, 0.2, 0.2, 0.2))),
    finalists=(
        replace(_measured("search", 4, 0.42, 0.44), architecture=network(4), cost=4000.0),
        _measured("stock B0", 3, 0.41, 0.43),
        replace(_measured("both", 1, 0.25, 0.27), cost=1000.0),
        replace(_measured("random", 2, 0.22, 0.20), cost=2000.0),
    ),
    baseline=network(4),
)


def test_the_front_has_single_trials_beside_means() -> None:
    table = front_frame(FRONT, PARETO)
    costs = [PARETO.metric(network(width)) for width in (1, 2, 4)]
    assert list(table.cost) == costs
    assert list(table.digest) == [network(width).digest for width in (1, 2, 4)]
    assert list(table.accuracy) == [0.3, 0.2, 0.5]
    assert list(table.on_front) == [True, False, True]
    assert list(table.on_final_front) == [True, False, True]
    assert list(table.baseline) == [False, False, True]
    assert list(table.origin) == ["both", "random", "search"]
    assert table.final_accuracy.tolist() == pytest.approx([0.26, 0.21, 0.43])
    assert list(table.seeds) == [2, 2, 2]
    text = front_table(FRONT, PARETO)
    assert "0.4300 ± 0.0141 (2)" in text
    assert text.splitlines()[-1].endswith("<- baseline")


def test_a_front_without_finalists() -> None:
    table = front_frame(replace(FRONT, finalists=()), PARETO)
    assert list(table.accuracy) == [0.3, 0.5]
    assert list(table.seeds) == [0, 0]
    assert not table.on_final_front.any()
    words = verdict(replace(FRONT, finalists=()), PARETO)
    assert words.startswith("hypervolume ")


def test_the_fronts_are_compared_by_hypervolume() -> None:
    lines = verdict(FRONT, PARETO).splitlines()
    # Costs 1, 2 and 4 thousand: the box is two factors of two wide.
    assert lines[-2] == (
        "hypervolume 0.3000 of the search's trials, 0.1500 of random search's "
        "(reference point accuracy 0 at 4K; share of the box from 1K, log cost)"
    )
    assert lines[-1].startswith("hypervolume 0.2600 of its finalists, 0.2600 of random search's")
    assert lines[-1].endswith("not told apart from seed noise")
    assert not any("hypervolume" in line for line in verdict(FRONT).splitlines())
    assert "| 4" in markdown(FRONT, ["plan"], PARETO)


def test_accuracies_are_compared_within_the_target_only() -> None:
    dear = replace(_measured("random", 9, 0.9, 0.9), cost=9000.0)
    result = replace(FRONT, finalists=(*FRONT.finalists, dear))
    assert "THE SEARCH DID NOT WIN" not in verdict(result, PARETO, 5000)
    assert "accuracy 0.4300 above 0.2600 of random search" in verdict(result, PARETO, 5000)
    assert "THE SEARCH DID NOT WIN: random has the best mean accuracy" in verdict(
        result, PARETO, 9000
    )


def test_other_costs_have_their_column() -> None:
    objective = RewardObjective(Reward(5), METRICS["activations"])
    table = finalists_frame([OWN], objective)
    assert table.activations.tolist() == [8000.0]
    assert "| 8K acts" in markdown(_result(OWN), ["plan"], objective)
    assert "reward" not in finalists_frame([OWN], PARETO).columns


def test_saved_epochs_are_told() -> None:
    result = replace(_result(OWN), epochs_spent=30, epochs_saved=60)
    words = "Successive halving trained 30 of 90 epochs of the trials: 60 saved (67%)."
    assert words in markdown(result, ["plan"])
    assert "Successive halving" not in markdown(_result(OWN), ["plan"])
