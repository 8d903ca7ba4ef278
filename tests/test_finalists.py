"""Who is measured again: the proposer's belief before the luckiest observation."""

from collections.abc import Sequence

import pytest

from nas.cli import UserError
from nas.costs.metrics import METRICS
from nas.costs.objective import ParetoObjective
from nas.search.finalists import (
    BestReward,
    Measured,
    Recommender,
    WithinBudget,
    finalists_of,
)
from nas.trials.evaluate import Outcome
from nas.trials.proposers import FixedProposer
from nas.trials.trial import Job, Proposal, Result
from search_spaces.architecture import Architecture
from tests.searching import network


class Believing(FixedProposer):
    """A proposer with a belief of its own."""

    def __init__(self, *believed: Architecture) -> None:
        super().__init__([])
        self._believed = list(believed)

    def recommend(self, number: int) -> list[Architecture] | None:
        return self._believed[:number]


def _result(slot: int, width: int, accuracy: float | None, *, reason: str = "") -> Result:
    proposal = Proposal(architecture=network(width), epochs=3, seed=0)
    cost = METRICS["params"](network(width))
    done = accuracy is not None and not reason
    return Result(
        job=Job(
            slot=slot,
            trial_id=slot,
            number=slot,
            proposal=proposal,
            cost=cost,
            rungs=(3,),
        ),
        outcome=Outcome(accuracy=accuracy, reason=reason),  # type: ignore[arg-type]
        values=(accuracy, cost) if done and accuracy is not None else None,
        macs=0,
        params=0,
    )


RESULTS = [
    _result(0, 8, 0.3),
    _result(1, 16, 0.5),
    _result(2, 24, 0.4),
    _result(3, 32, 0.9, reason="pruned"),
    _result(4, 40, None, reason="error"),
    _result(5, 16, 0.45),
    _result(6, 48, 0.6),
]
NOTHING_BELIEVED = FixedProposer([])


def _widths(networks: Sequence[Architecture]) -> list[int]:
    return [a.stages[0].width for a in networks]


def test_the_best_observed_each_network_once() -> None:
    assert _widths(finalists_of(NOTHING_BELIEVED, RESULTS, 9)) == [48, 16, 24, 8]
    assert _widths(finalists_of(NOTHING_BELIEVED, RESULTS, 2)) == [48, 16]
    assert finalists_of(NOTHING_BELIEVED, [], 2) == []


def test_belief_goes_first_and_may_name_what_was_never_tried() -> None:
    proposer = Believing(network(64), network(8), network(64), network(16))
    assert isinstance(proposer, Recommender)
    assert _widths(finalists_of(proposer, RESULTS, 3)) == [64, 8]
    assert _widths([BestReward().best(proposer, RESULTS)]) == [64]
    assert _widths(finalists_of(Believing(), RESULTS, 1)) == [48]


def _within(target: float, is_given: bool = True) -> WithinBudget:
    objective = ParetoObjective(METRICS["params"])
    return WithinBudget(objective=objective, target=target, is_given=is_given)


def _cost(width: int) -> float:
    return METRICS["params"](network(width))


def test_the_front_up_to_the_target() -> None:
    selection = _within(_cost(48) - 1)
    assert _widths(selection.finalists(NOTHING_BELIEVED, RESULTS, 9)) == [8, 16]
    assert _widths(selection.finalists(NOTHING_BELIEVED, RESULTS, 1)) == [16]
    assert _widths([selection.best(NOTHING_BELIEVED, RESULTS)]) == [16]
    assert _widths([_within(_cost(48)).best(NOTHING_BELIEVED, RESULTS)]) == [48]


def test_the_front_from_end_to_end_without_a_target() -> None:
    selection = _within(1, is_given=False)
    assert _widths(selection.finalists(NOTHING_BELIEVED, RESULTS, 2)) == [8, 48]
    assert _widths(selection.finalists(NOTHING_BELIEVED, RESULTS, 9)) == [8, 16, 48]
    assert _widths([selection.best(NOTHING_BELIEVED, RESULTS)]) == [8]
    assert selection.finalists(NOTHING_BELIEVED, [], 2) == []


def test_a_believed_front_goes_before_the_observed_one() -> None:
    proposer = Believing(network(64), network(8), network(24))
    assert _widths(_within(1, is_given=False).finalists(proposer, RESULTS, 3)) == [8, 24, 64]
    assert _widths([_within(_cost(30)).best(proposer, RESULTS)]) == [24]


def test_nothing_cheap_enough_is_told() -> None:
    with pytest.raises(UserError, match=r"`--target-cost` asks for at most 1 params, but the che"):
        _within(1).best(NOTHING_BELIEVED, RESULTS)
    assert _within(1).finalists(NOTHING_BELIEVED, RESULTS, 3) == []


def _measured(width: int, *accuracies: float) -> Measured:
    return Measured(
        architecture=network(width),
        origin="search",
        macs=0,
        params=0,
        cost=_cost(width),
        accuracies=accuracies,
        rewards=accuracies,
    )


def test_the_baseline_is_picked_by_means_within_the_target() -> None:
    measured = [_measured(8, 0.5), _measured(16, 0.9, 0.5), _measured(24, 0.8), _measured(48, 0.9)]
    assert BestReward().pick(measured) == measured[3]
    assert _within(_cost(24)).pick(measured) == measured[2]
    assert _within(_cost(16)).pick(measured) == measured[1]
    assert _within(1, is_given=False).pick(measured) == measured[0]
