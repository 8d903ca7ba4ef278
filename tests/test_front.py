"""The Pareto front of results."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.trials.evaluate import Outcome
from nas.trials.front import dominates, front
from nas.trials.trial import Job, Proposal, Result
from tests.searching import network

PROPOSAL = Proposal(architecture=network(8), epochs=1, seed=0)

_numbers = st.integers(0, 4).map(float)


def _result(slot: int, values: tuple[float, ...] | None) -> Result:
    job = Job(slot=slot, trial_id=slot, number=slot, proposal=PROPOSAL, cost=1.0, rungs=(1,))
    return Result(job=job, outcome=Outcome(accuracy=0.5), values=values, macs=1, params=1)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0.5, 10), (0.5, 11), True),
        ((0.6, 10), (0.5, 10), True),
        ((0.5, 10), (0.5, 10), False),
        ((0.6, 11), (0.5, 10), False),
    ],
)
def test_better_in_one_and_worse_in_none(
    one: tuple[float, ...], other: tuple[float, ...], expected: bool
) -> None:
    assert dominates(one, other, ("maximize", "minimize")) is expected


@given(
    st.lists(st.none() | st.tuples(_numbers, _numbers, _numbers), max_size=25),
    st.tuples(*[st.sampled_from(["maximize", "minimize"])] * 3),
)
def test_the_front_is_what_nothing_dominates(
    values: list[tuple[float, ...] | None], directions: tuple[str, ...]
) -> None:
    results = [_result(slot, v) for slot, v in enumerate(values)]
    done = [v for v in values if v is not None]
    expected = []
    for slot, v in enumerate(values):
        if v is None or v in values[:slot]:
            continue
        if not any(dominates(other, v, directions) for other in done):
            expected.append(slot)
    assert [r.job.slot for r in front(reversed(results), directions)] == expected


@given(st.lists(_numbers, min_size=1))
def test_with_one_value_it_is_the_first_best(values: list[float]) -> None:
    results = [_result(slot, (v,)) for slot, v in enumerate(values)]
    assert [r.job.slot for r in front(results, ["minimize"])] == [values.index(min(values))]
