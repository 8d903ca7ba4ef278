"""Ranking candidates: means, pooled seed noise, and what it leaves tied."""

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from nas.search.evaluate import Outcome
from nas.search.study import Job, Proposal, Result
from scaling_search.candidates import Candidate
from scaling_search.constants import Ranking, accuracies_by_digest, constants, grid_frame, rank
from tests.grid_evaluators import candidates, truth

CANDIDATES = candidates()


def _rank(*groups: Sequence[float]) -> Ranking:
    """The first candidates with these accuracies."""
    chosen = CANDIDATES[: len(groups)]
    return rank(chosen, {c.architecture.digest: g for c, g in zip(chosen, groups, strict=True)})


def _tied(ranking: Ranking) -> set[Candidate]:
    return {standing.candidate for standing in ranking.tied}


def _simulate(rng: random.Random, noise: float, seeds: int, slope: float = 1.0) -> Ranking:
    """A grid whose networks differ by `slope` times their true differences."""
    return _rank(
        *(
            [slope * truth(c.architecture) + rng.gauss(0, noise) for _ in range(seeds)]
            for c in CANDIDATES
        )
    )


def test_pooled_noise_and_margin_by_hand() -> None:
    """Squares .0002 + .0008 over 1 + 2 degrees of freedom; t(95 %, 3) = 2.3534 from tables."""
    ranking = _rank([0.80, 0.82], [0.70, 0.72, 0.74])
    assert (ranking.best.candidate, ranking.freedom) == (CANDIDATES[0], 3)
    assert ranking.best.mean == pytest.approx(0.81)
    assert ranking.noise == pytest.approx(math.sqrt(0.001 / 3))
    margin = 2.3534 * math.sqrt(0.001 / 3) * math.sqrt(1 / 2 + 1 / 3)
    assert ranking.margin(ranking.standings[1]) == pytest.approx(margin, rel=1e-4)
    assert margin == pytest.approx(0.0392, abs=1e-4)
    assert ranking.tied == ()
    assert ranking.resolved


def test_rivals_share_the_error() -> None:
    """Two rivals, 2.5 % each: t(97.5 %, 3) = 3.1824, where one rival has 2.3534."""
    ranking = _rank([0.80, 0.82], [0.76, 0.78], [0.70, 0.72])
    assert ranking.noise == pytest.approx(math.sqrt(0.0002))
    assert ranking.margin(ranking.standings[1]) == pytest.approx(
        3.1824 * math.sqrt(0.0002), rel=1e-4
    )
    assert [s.candidate for s in ranking.tied] == [CANDIDATES[1]]  # .04 < .0450 < .1
    assert _rank([0.80, 0.82], [0.76, 0.78]).margin(ranking.standings[1]) == pytest.approx(
        2.9200 * math.sqrt(0.0002), rel=1e-4
    )


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")  # [1, 1]
@given(
    ours=st.lists(st.floats(0, 1), min_size=2, max_size=5),
    theirs=st.lists(st.floats(0, 1), min_size=2, max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_with_one_rival_a_tie_is_a_t_test(ours: list[float], theirs: list[float]) -> None:
    ranking = _rank(ours, theirs)
    assume(ranking.noise > 1e-9)
    best, other = (standing.accuracies for standing in ranking.standings)
    test: Any = stats.ttest_ind(best, other, alternative="greater")
    assume(abs(test.pvalue - 0.05) > 1e-9)
    assert bool(ranking.tied) == (test.pvalue > 0.05)


def test_what_dunnett_s_test_leaves_open_is_tied() -> None:
    """Bonferroni is a little wider than the exact test of several rivals, never narrower."""
    rng = np.random.default_rng(5)
    open_ones = tied = 0
    for _ in range(10):
        groups = [list(rng.normal(mean, 0.02, 4)) for mean in (0.8, 0.78, 0.76, 0.74, 0.7)]
        ranking = _rank(*groups)
        best, *others = (standing.accuracies for standing in ranking.standings)
        result = stats.dunnett(*others, control=best, alternative="less", rng=rng)
        clearly_open = result.pvalue > 0.051
        is_tied = [standing in ranking.tied for standing in ranking.standings[1:]]
        assert all(np.array(is_tied)[clearly_open])
        open_ones, tied = open_ones + clearly_open.sum(), tied + sum(is_tied)
    assert 0 < open_ones <= tied < 40
    assert tied - open_ones <= 3


def test_one_seed_resolves_nothing() -> None:
    ranking = _rank([0.9], [0.1], [0.5])
    assert [s.mean for s in ranking.standings] == [0.9, 0.5, 0.1]
    assert math.isnan(ranking.noise)
    assert (ranking.freedom, ranking.margin(ranking.standings[1])) == (0, math.inf)
    assert ranking.tied == ranking.standings[1:]
    assert not ranking.resolved
    content = json.loads(json.dumps(constants(ranking, {}), allow_nan=False))
    assert (content["resolved"], content["evidence"]["seed_noise"]) == (False, None)
    assert [tied["accuracy"] for tied in content["tied"]] == [0.5, 0.1]


def test_a_single_network_has_nothing_to_be_resolved_from() -> None:
    ranking = _rank([0.9, 0.91])
    assert ranking.tied == ()
    assert not ranking.resolved
    assert not constants(ranking, {})["resolved"]


def test_without_noise_only_equals_tie_and_the_cheapest_of_them_leads() -> None:
    ranking = _rank([0.7, 0.7], [0.9, 0.9], [0.9, 0.9], [0.89, 0.89])
    assert ranking.noise == 0
    equals = sorted(CANDIDATES[1:3], key=lambda c: c.cost.macs)
    assert [s.candidate for s in ranking.standings[:2]] == equals
    assert _tied(ranking) == {equals[1]}


@given(st.permutations(range(5)), st.integers(0, 100))
def test_the_order_of_candidates_changes_nothing(order: list[int], seed: int) -> None:
    rng = random.Random(seed)
    groups = [[rng.random() for _ in range(rng.randint(0, 3))] for _ in range(5)]
    groups[0] = [0.5]
    accuracies = {
        c.architecture.digest: g for c, g in zip(CANDIDATES[:5], groups, strict=True) if g
    }
    ranking = rank(CANDIDATES[:5], accuracies)
    shuffled = rank([CANDIDATES[i] for i in order], dict(reversed(accuracies.items())))
    assert shuffled.standings == ranking.standings
    assert shuffled.tied == ranking.tied


def test_networks_whose_trials_all_failed_are_left_out() -> None:
    digest = CANDIDATES[3].architecture.digest
    ranking = rank(CANDIDATES, {digest: [0.5, 0.6], CANDIDATES[1].architecture.digest: []})
    assert [s.candidate for s in ranking.standings] == [CANDIDATES[3]]


def test_no_accuracy_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Every trial of the grid failed; trials\.csv"):
        rank(CANDIDATES, {})


@pytest.mark.parametrize("slope", [0, 0.5, 1])
def test_the_truly_best_is_best_or_tied_in_95_percent_of_grids(slope: float) -> None:
    """400 grids; equal networks (slope 0) are the worst case, and there 95 % are exact."""
    rng = random.Random(1)
    best = max(CANDIDATES, key=lambda c: truth(c.architecture))
    kept = 0
    for _ in range(400):
        ranking = _simulate(rng, 0.02, 3, slope)
        kept += best in {ranking.best.candidate, *_tied(ranking)}
    assert kept >= 0.95 * 400


def test_small_noise_resolves_and_large_noise_does_not() -> None:
    rng = random.Random(2)
    best = max(CANDIDATES, key=lambda c: truth(c.architecture))
    for _ in range(40):
        sharp = _simulate(rng, 0.001, 3)
        assert (sharp.best.candidate, sharp.tied, sharp.resolved) == (best, (), True)
    assert sum(_simulate(rng, 0.3, 3).resolved for _ in range(40)) <= 2


def test_more_seeds_tell_more_networks_apart() -> None:
    ties = [
        np.mean([len(_simulate(random.Random(i), 0.02, seeds).tied) for i in range(20)])
        for seeds in (2, 5, 20)
    ]
    assert ties == sorted(ties, reverse=True)
    assert ties[0] > ties[2] + 1


def test_grid_frame_has_a_row_a_network_best_first() -> None:
    ranking = _rank([0.5, 0.5], [0.9, 0.92], [0.9, 0.9])
    frame = grid_frame(ranking)
    best, cost = CANDIDATES[1], CANDIDATES[1].cost
    row = frame.iloc[0]
    assert (row["alpha"], row["beta"], row["gamma"]) == best.coefficients.values
    assert (row["product"], row["measured_ratio"]) == (best.product, best.ratio)
    assert (row["params"], row["macs"], row["activations"]) == (
        *(cost.params, cost.macs, cost.activations),
    )
    assert row["accuracy_std"] == pytest.approx(math.sqrt(0.0002))
    assert row["digest"] == best.architecture.digest
    assert row["triples"].split() == [triple.label for triple in best.triples]
    assert frame["accuracy"].is_monotonic_decreasing
    assert frame["tied_with_best"].tolist() == [True, True, False]
    assert frame["seeds"].tolist() == [2, 2, 2]


def test_constants_name_the_best_and_their_evidence() -> None:
    ranking = _rank([0.9, 0.92], [0.5, 0.5], [0.9, 0.9])
    content = json.loads(json.dumps(constants(ranking, {"epochs": 7})))
    best = CANDIDATES[0]
    assert [content[name] for name in ("alpha", "beta", "gamma")] == [*best.coefficients.values]
    assert (content["product"], content["measured_ratio"]) == (best.product, best.ratio)
    assert content["same_network"] == [triple.label for triple in best.triples]
    (tied,) = content["tied"]
    assert (tied["alpha"], tied["accuracy"]) == (CANDIDATES[2].coefficients.alpha, 0.9)
    assert not content["resolved"]
    evidence = content["evidence"]
    assert evidence["accuracies"] == [0.9, 0.92]
    assert evidence["seed_noise"] == pytest.approx(math.sqrt(0.0002 / 3))
    assert (evidence["degrees_of_freedom"], evidence["candidates"], evidence["epochs"]) == (3, 3, 7)


def test_accuracies_are_gathered_by_network_in_seed_order() -> None:
    def result(candidate: int, seed: int, accuracy: float | None) -> Result:
        architecture = CANDIDATES[candidate].architecture
        proposal = Proposal(architecture=architecture, epochs=1, seed=seed)
        job = Job(slot=0, attempt=0, trial_id=0, number=0, proposal=proposal, cost=1.0, rungs=(1,))
        outcome = Outcome(accuracy=accuracy, reason="" if accuracy else "nan")
        values = None if accuracy is None else (accuracy,)
        return Result(job=job, outcome=outcome, values=values, macs=1, params=1)

    results = [result(0, 2, 0.2), result(1, 0, 0.5), result(0, 0, 0.4), result(0, 1, None)]
    first, second = (candidate.architecture.digest for candidate in CANDIDATES[:2])
    assert accuracies_by_digest(results) == {first: [0.4, 0.2], second: [0.5]}
