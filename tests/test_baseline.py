"""The search for a baseline, and what it is compared with."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nas.cli import UserError
from nas.costs.metrics import METRICS
from nas.costs.objective import Objective, ParetoObjective, RewardObjective
from nas.costs.reward import Reward
from nas.search.baseline import Fidelity, SearchResult, Trials, measured, search, stock_b0
from nas.search.finalists import BestReward, Selection, WithinBudget
from nas.search.strategies import TPE_STARTUP_TRIALS
from nas.trials.evaluate import Evaluator
from nas.trials.halving import Halving
from nas.trials.runner import TrialRunner
from nas.workers import Workers
from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.spaces import SPACES, Space
from search_spaces.zoo import efficientnet_b0
from tests.searching import SPACE, SmallSpace, accuracy, large_kernels

REWARD = RewardObjective(Reward(8e6))
PARETO = ParetoObjective()
TWO_BY_TWO = Fidelity(finalists=2, epochs=9, seeds=2)


class Counting:
    """Counts the calls of another evaluator."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.calls = Counter[tuple[str, int, int]]()
        self._evaluator = evaluator

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        self.calls[architecture.digest, epochs, seed] += 1
        return self._evaluator(architecture, epochs=epochs, seed=seed)


def _search(
    folder: Path,
    evaluator: Evaluator = accuracy,
    *,
    space: Space = SPACE,
    strategy: str = "tpe",
    trials: int = 14,
    fidelity: Fidelity = TWO_BY_TWO,
    lines: list[str] | None = None,
    objective: Objective = REWARD,
    selection: Selection | None = None,
    halving: Halving | None = None,
) -> SearchResult:
    runner = TrialRunner(folder / "study.db", evaluator, objective, Workers())
    return search(
        runner,
        space,
        objective,
        selection or BestReward(),
        strategy=strategy,
        trials=Trials(number=trials, epochs=3, seed=0, halving=halving),
        fidelity=fidelity,
        announce=([] if lines is None else lines).append,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchResult, Counting]:
    """One search, its folder and its calls."""
    folder, counting = tmp_path_factory.mktemp("search"), Counting(accuracy)
    return folder, _search(folder, counting), counting


Finished = tuple[Path, SearchResult, Counting]


def test_the_comparison_has_as_many_trials_as_the_search(finished: Finished) -> None:
    _, result, _ = finished
    assert len(result.search) == len(result.control) == 14
    reused = [r.outcome.reused_from for r in sorted(result.control, key=lambda r: r.job.slot)]
    startup = [f"search #{i}" for i in range(TPE_STARTUP_TRIALS)]
    assert reused == [*startup, *[""] * (14 - TPE_STARTUP_TRIALS)]


def test_nothing_is_measured_twice(finished: Finished) -> None:
    _, _, counting = finished
    assert set(counting.calls.values()) == {1}


def test_finalists_are_trained_longer_with_fresh_seeds(finished: Finished) -> None:
    _, result, counting = finished
    proxies = {(epochs, seed) for _, epochs, seed in counting.calls if epochs == 3}
    assert proxies == {(3, 0)}
    for network in result.finalists:
        digest = network.architecture.digest
        trainings = sorted(key[1:] for key in counting.calls if key[0] == digest and key[1] != 3)
        assert trainings == [(9, 1), (9, 2)]
        expected = [accuracy(network.architecture, epochs=9, seed=seed) for seed in (1, 2)]
        assert list(network.accuracies) == expected
        assert network.rewards == tuple(REWARD(a, network.macs)[0] for a in expected)
        assert network.reward == pytest.approx(sum(network.rewards) / 2)
        assert network.accuracy == pytest.approx(sum(expected) / 2)
        cost = count(network.architecture)
        assert (network.macs, network.params) == (cost.macs, cost.params)
        assert network.cost == cost.macs


def test_the_best_of_both_searches_and_stock_b0_compete(finished: Finished) -> None:
    _, result, _ = finished
    origins = Counter(network.origin for network in result.finalists)
    assert origins["stock B0"] == 1
    assert origins["search"] + origins["both"] == 2
    assert origins["random"] + origins["both"] == 2
    rewards = [network.reward for network in result.finalists]
    assert rewards == sorted(rewards, reverse=True)
    ranked = sorted(result.search, key=lambda r: -(r.value or 0))
    best = {result.job.proposal.architecture.digest for result in ranked[:2]}
    own = {n.architecture.digest for n in result.finalists if n.origin in ("search", "both")}
    assert own == best


def test_the_baseline_is_the_search_s_best_finalist(finished: Finished) -> None:
    _, result, _ = finished
    own = [network for network in result.finalists if network.origin in ("search", "both")]
    assert result.baseline == own[0].architecture


def test_stock_b0_costs_what_the_baseline_costs(finished: Finished) -> None:
    _, result, _ = finished
    stock = next(n for n in result.finalists if n.origin == "stock B0")
    assert stock.macs == pytest.approx(count(result.baseline).macs, rel=0.15)
    assert stock.architecture.resolution == result.baseline.resolution
    assert stock.architecture.num_classes == result.baseline.num_classes


def test_the_same_search_again_measures_nothing(finished: Finished) -> None:
    folder, result, _ = finished
    again = Counting(accuracy)
    repeated = _search(folder, again)
    assert again.calls == Counter()
    assert repeated.baseline == result.baseline
    assert repeated.finalists == result.finalists


def test_more_finalists_may_be_asked_for_later(finished: Finished) -> None:
    folder, _, _ = finished
    again = Counting(accuracy)
    result = _search(folder, again, fidelity=Fidelity(finalists=3, epochs=9, seeds=3))
    assert {epochs for _, epochs, _ in again.calls} == {9}
    assert all(len(network.accuracies) == 3 for network in result.finalists)
    assert set(again.calls.values()) == {1}


def test_a_lucky_proxy_does_not_become_the_baseline(tmp_path: Path) -> None:
    def fickle(architecture: Architecture, *, epochs: int, seed: int) -> float:
        value = accuracy(architecture)
        return value / 2 if epochs == 3 else (1 - value) / 2

    result = _search(tmp_path, fickle, fidelity=Fidelity(finalists=4, epochs=9, seeds=2))
    best = max(result.search, key=lambda r: r.value or 0)
    assert result.baseline != best.job.proposal.architecture


def test_without_finalists_the_best_trial_is_the_baseline(tmp_path: Path) -> None:
    counting = Counting(large_kernels)
    result = _search(tmp_path, counting, fidelity=Fidelity(finalists=0, epochs=9, seeds=2))
    assert (result.finalists, result.control) == ((), ())
    assert {epochs for _, epochs, _ in counting.calls} == {3}
    best = max(result.search, key=lambda r: (r.value or 0, -r.job.slot))
    assert result.baseline == best.job.proposal.architecture


def test_random_search_is_not_compared_with_itself(tmp_path: Path) -> None:
    result = _search(tmp_path, strategy="random")
    assert result.control == ()
    assert {network.origin for network in result.finalists} == {"search", "stock B0"}


def test_what_both_searches_found_is_trained_once(tmp_path: Path) -> None:
    counting = Counting(accuracy)
    result = _search(tmp_path, counting, trials=TPE_STARTUP_TRIALS)
    assert {network.origin for network in result.finalists} == {"both", "stock B0"}
    assert len(result.finalists) == 3
    assert set(counting.calls.values()) == {1}


def test_seeds_that_fail_are_left_out(tmp_path: Path) -> None:
    def failing_for_seed_2(architecture: Architecture, *, epochs: int, seed: int) -> float:
        return math.nan if seed == 2 else accuracy(architecture)

    result = _search(tmp_path, failing_for_seed_2)
    assert {len(network.accuracies) for network in result.finalists} == {1}


def test_a_search_without_any_success_says_so(tmp_path: Path) -> None:
    def broken(architecture: Architecture, *, epochs: int, seed: int) -> Any:
        raise RuntimeError("no")

    with pytest.raises(ValueError, match="Every trial failed"):
        _search(tmp_path, broken, trials=3)
    with pytest.raises(UserError, match=r"5 trials in a row failed; the first with:\nerror: Trace"):
        _search(tmp_path, broken, trials=9)


def test_finalists_that_all_fail_are_an_error(tmp_path: Path) -> None:
    def failing_later(architecture: Architecture, *, epochs: int, seed: int) -> float:
        return math.nan if epochs == 9 else accuracy(architecture)

    fidelity = Fidelity(finalists=2, epochs=9, seeds=1)
    with pytest.raises(ValueError, match="Every finalist of the search failed"):
        _search(tmp_path, failing_later, fidelity=fidelity)


def test_a_space_far_from_b0_is_searched_without_that_comparison(tmp_path: Path) -> None:
    lines: list[str] = []
    result = _search(tmp_path, space=SmallSpace(), trials=6, lines=lines)
    assert "stock B0" not in {network.origin for network in result.finalists}
    assert any("no comparison with stock EfficientNet-B0: No width" in line for line in lines)


@pytest.mark.parametrize("resolution", [8, 32, 64, 224])
def test_stock_b0_is_fitted_at_any_size(resolution: int) -> None:
    space = SPACES["mnasnet"](resolution=resolution, num_classes=10, target_macs=20e6)
    like = space.decode({name: options[-1] for name, options in space.choices.items()})
    macs = count(like).macs
    stock = stock_b0(like, macs)
    assert count(stock).macs == pytest.approx(macs, rel=0.15)
    assert stock.activation == "silu"


def test_stock_b0_at_its_own_cost_is_b0() -> None:
    b0 = efficientnet_b0()
    assert stock_b0(b0, count(b0).macs).digest == b0.digest


def test_a_network_that_was_not_measured_has_no_mean(finished: Finished) -> None:
    _, result, _ = finished
    assert measured("search", efficientnet_b0(), result.search, REWARD) is None


def _within(target: float, is_given: bool = True) -> WithinBudget:
    return WithinBudget(objective=PARETO, target=target, is_given=is_given)


def _front(folder: Path, selection: Selection, evaluator: Evaluator = accuracy) -> SearchResult:
    return _search(
        folder, evaluator, strategy="nsga2", trials=24, objective=PARETO, selection=selection
    )


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchResult]:
    """A search for a front, without a target."""
    folder = tmp_path_factory.mktemp("front")
    return folder, _front(folder, _within(8e6, is_given=False))


def _unbeaten(result: SearchResult) -> list[tuple[float, str]]:
    """Cost and digest of what no other trial beats, by cost."""
    points = [(r.cost, r.outcome.accuracy or 0.0, r) for r in result.search]
    return sorted(
        (cost, r.job.proposal.architecture.digest)
        for cost, value, r in points
        if not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v, _ in points)
    )


def test_without_a_target_finalists_span_the_front(front: tuple[Path, SearchResult]) -> None:
    _, result = front
    unbeaten = _unbeaten(result)
    own = {n.architecture.digest for n in result.finalists if n.origin in ("search", "both")}
    assert own == {unbeaten[0][1], unbeaten[-1][1]}
    assert [n.rewards for n in result.finalists] == [n.accuracies for n in result.finalists]


def test_a_baseline_is_picked_afterwards_without_another_search(
    front: tuple[Path, SearchResult],
) -> None:
    folder, result = front
    unbeaten = _unbeaten(result)
    middle = len(unbeaten) // 2
    counting = Counting(accuracy)
    picked = _front(folder, _within(unbeaten[middle][0]), counting)
    assert {epochs for _, epochs, _ in counting.calls} <= {9}
    own = [n for n in picked.finalists if n.origin in ("search", "both")]
    near = {digest for _, digest in unbeaten[: middle + 1][-TWO_BY_TWO.finalists :]}
    assert near <= {n.architecture.digest for n in own}
    best = max((n for n in own if n.cost <= unbeaten[middle][0]), key=lambda n: n.accuracy)
    assert picked.baseline == best.architecture


def test_a_target_below_the_whole_front_names_the_cheapest(
    front: tuple[Path, SearchResult],
) -> None:
    folder, result = front
    cheapest = PARETO.metric.format(_unbeaten(result)[0][0])
    words = f"at most 1K, but the cheapest network on the front costs {cheapest}"
    counting = Counting(accuracy)
    with pytest.raises(UserError, match=words):
        _front(folder, _within(1000), counting)
    assert counting.calls == Counter()


def test_the_control_searches_the_same_front_at_random(front: tuple[Path, SearchResult]) -> None:
    _, result = front
    assert len(result.control) == len(result.search) == 24
    assert {len(r.values or ()) for r in result.control} == {2}


def test_halving_saves_epochs_of_both_searches_but_not_of_finalists(tmp_path: Path) -> None:
    counting, lines = Counting(accuracy), list[str]()
    result = _search(tmp_path, counting, halving=Halving(min_epochs=1, reduction=3), lines=lines)
    stopped = [r for r in (*result.search, *result.control) if r.value is None]
    assert stopped
    assert result.epochs_saved > 0
    assert any(line.startswith("halving saved ") for line in lines)
    assert all(len(network.accuracies) == 2 for network in result.finalists)
    full = {r.job.proposal.architecture.digest for r in result.search if r.value is not None}
    own = {n.architecture.digest for n in result.finalists if n.origin in ("search", "both")}
    assert own <= full


def test_any_cost_can_be_in_the_reward(tmp_path: Path) -> None:
    objective = RewardObjective(Reward(3e5), METRICS["params"])
    result = _search(tmp_path, trials=6, objective=objective)
    for r in result.search:
        assert r.cost == r.params == count(r.job.proposal.architecture).params
        assert r.outcome.accuracy is not None
        assert r.value == Reward(3e5)(r.outcome.accuracy, r.params)
    assert all(network.cost == network.params for network in result.finalists)
