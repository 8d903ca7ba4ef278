"""The race's promises: budget, pairing, and whom it trains."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_search.compound import ScalingError
from scaling_search.race import FullGrid, Race, Schedule, default_budget
from tests.scaled import candidates_at, lattice, peak

SHARES = lattice(4)
CANDIDATES = candidates_at(SHARES)
TRUTH = peak((0.25, 0.25, 0.5))(SHARES)
INDEX = {c.architecture.digest: i for i, c in enumerate(CANDIDATES)}


def _run(
    schedule: Schedule,
    values: np.ndarray,
    *,
    at_most: int | None = None,
    failing: frozenset[int] = frozenset(),
) -> list[list[tuple[int, int]]]:
    """Rounds of (candidate, seed) until the schedule is over, told `values` (candidates, seeds)."""
    rounds = []
    while runs := schedule.next_round(at_most):
        told: dict[str, dict[int, float]] = {}
        for candidate, seed in runs:
            digest = candidate.architecture.digest
            if INDEX[digest] not in failing:
                told.setdefault(digest, {})[seed] = float(values[INDEX[digest], seed])
        schedule.tell(told)
        rounds.append([(INDEX[c.architecture.digest], seed) for c, seed in runs])
    return rounds


def _race(budget: int, seeds: int = 6, at_once: int = 1) -> Race:
    return Race(candidates=CANDIDATES, seeds=seeds, budget=budget, target=2.0, at_once=at_once)


def _noisy(seed: int, seeds: int = 6, noise: float = 0.005) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return TRUTH[:, None] + rng.normal(0, noise, (len(SHARES), seeds))


@given(
    seed=st.integers(0, 100),
    extra=st.integers(0, 60),
    seeds=st.integers(1, 5),
    at_once=st.integers(1, 4),
    noise=st.sampled_from([0.0, 0.002, 0.05]),
)
@settings(max_examples=25, deadline=None)
def test_budget_seeds_and_order_are_kept(
    seed: int, extra: int, seeds: int, at_once: int, noise: float
) -> None:
    race = _race(len(SHARES) + extra, seeds, at_once)
    rounds = _run(race, _noisy(seed, seeds, noise))
    runs = [run for one in rounds for run in one]
    assert len(set(runs)) == len(runs) == race.spent <= len(SHARES) + extra
    assert {candidate for candidate, _ in rounds[0]} == set(range(len(SHARES)))
    counts = Counter(candidate for candidate, _ in runs)
    for candidate, number in counts.items():
        assert [s for c, s in runs if c == candidate] == list(range(number))
        assert number <= seeds
    assert race.is_over
    assert race.next_round() == []


@pytest.mark.parametrize(("at_once", "rounds"), [(1, 3), (len(SHARES), 2)])
def test_rounds_are_announced_as_if_no_network_were_out(at_once: int, rounds: int) -> None:
    race = _race(2 * len(SHARES), at_once=at_once)
    assert race.rounds == rounds
    assert len(_run(race, _noisy(2, noise=0.5))) == rounds  # hardly any is
    full = FullGrid(candidates=CANDIDATES, seeds=3, target=2.0)
    assert len(_run(full, _noisy(2))) == full.rounds


def test_a_third_of_the_trainings_finds_what_all_find() -> None:
    """30 races: the winner is among the full grid's winners in at least 27."""
    hits, spent = 0, []
    for seed in range(30):
        values = _noisy(seed)
        race = _race(default_budget(*values.shape))
        full = FullGrid(candidates=CANDIDATES, seeds=6, target=2.0)
        _run(race, values)
        _run(full, values)
        assert race.fit is not None
        assert full.fit is not None
        winners = {s.candidate for s in (full.fit.best, *full.fit.tied)}
        hits += race.fit.best.candidate in winners
        spent.append(race.spent / full.budget)
    assert hits >= 27
    assert max(spent) <= 1 / 3 + 1e-9


def test_trainings_go_to_the_good() -> None:
    race = _race(40)
    runs = [c for one in _run(race, _noisy(0)) for c, _ in one]
    counts = np.bincount(runs, minlength=len(SHARES))
    order = np.argsort(-TRUTH)
    assert counts[order[:4]].mean() > 2 * counts[order[8:]].mean()


def test_without_noise_the_race_ends_early() -> None:
    race = _race(80)
    _run(race, _noisy(0, noise=0.0))
    assert [INDEX[c.architecture.digest] for c in race.remaining] == [int(TRUTH.argmax())]
    assert race.spent < 30


def test_told_the_same_it_is_the_same_race() -> None:
    assert _run(_race(40), _noisy(1)) == _run(_race(40), _noisy(1))


@pytest.mark.parametrize("at_most", [1, 4])
def test_rounds_cut_short_by_time_go_on_where_they_were(at_most: int) -> None:
    rounds = _run(_race(20), _noisy(2), at_most=at_most)
    assert max(map(len, rounds)) <= at_most
    runs = [run for one in rounds for run in one]
    assert runs[: len(SHARES)] == [(i, 0) for i in range(len(SHARES))]
    assert 15 < len(runs) <= 20
    race = _race(20)
    assert race.next_round(0) == []
    assert not race.is_over


def test_a_failing_network_is_out() -> None:
    race = _race(40)
    rounds = _run(race, _noisy(3), failing=frozenset({int(TRUTH.argmax())}))
    assert sum((int(TRUTH.argmax()), 1) in one for one in rounds) == 0
    assert int(TRUTH.argmax()) not in {INDEX[c.architecture.digest] for c in race.remaining}


@pytest.mark.parametrize("full", [False, True])
def test_a_first_training_that_fails_does_not_end_a_round_cut_short(full: bool) -> None:
    schedule = FullGrid(candidates=CANDIDATES, seeds=2, target=2.0) if full else _race(30)
    rounds = _run(schedule, _noisy(3), at_most=1, failing=frozenset({0, 1}))
    assert len(rounds) > len(CANDIDATES)
    assert schedule.fit is not None
    assert len(schedule.fit.standings) == len(CANDIDATES) - 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("at_most", [None, 1])
def test_nothing_but_failures_is_an_error(full: bool, at_most: int | None) -> None:
    schedule = FullGrid(candidates=CANDIDATES, seeds=2, target=2.0) if full else _race(30)
    with pytest.raises(ValueError, match="Every trial of the grid failed"):
        _run(schedule, _noisy(3), at_most=at_most, failing=frozenset(range(len(CANDIDATES))))


def test_a_budget_below_one_training_each_is_refused() -> None:
    with pytest.raises(ScalingError, match=r"budget of 14 .* one of each of the 15 networks"):
        _race(14)


def test_the_default_budget_is_a_third_and_one_each_at_least() -> None:
    assert default_budget(24, 6) == 48
    assert default_budget(24, 2) == 24
    assert default_budget(7, 5) == 12


def test_the_full_grid_is_every_candidate_with_every_seed() -> None:
    full = FullGrid(candidates=CANDIDATES, seeds=3, target=2.0)
    rounds = _run(full, _noisy(0))
    assert rounds == [[(i, s) for i in range(len(SHARES))] for s in range(3)]
    assert full.is_over
    short = FullGrid(candidates=CANDIDATES, seeds=2, target=2.0)
    shortened = [run for one in _run(short, _noisy(0), at_most=4) for run in one]
    assert shortened == [*rounds[0], *rounds[1]]
