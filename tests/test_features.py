"""Networks as numbers: what each column says, and which costs are refused."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from nas.samplers import features
from nas.samplers.features import Features
from nas.samplers.history import Choices
from tests.sampling import Options, distributions, uneven

OPTIONS: Options = {
    "block1.op": ("conv", "mbconv", None),
    "block1.width": (64, 8, 16, 24),
    "block2.op": ("conv", "mbconv", None),
    "block2.width": (64, 8, 16, 24),
    "deep": (True, False),
    "mixed": ("none", 0.5),
    "only": (7,),
}
WITHOUT_OPTIONS: Options = {"a": (1,), "b": ("x",)}


def _choices(options: Options = OPTIONS) -> Choices:
    return Choices(distributions(options))


def _all(choices: Choices) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, choices.sizes))))


def _costs(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([[1 + uneven(dict(n)), n["block1.width"] ** 2.0] for n in networks])


def test_columns_are_centred_and_scaled_over_the_space() -> None:
    networks = Features(_choices(), None)(_all(_choices()))
    assert np.unique(networks["one-hot"]).tolist() == [0, 1]
    assert set(networks["one-hot"].sum(1)) == {7}
    for columns in ("options", "levels"):
        assert networks[columns].mean(0) == pytest.approx(0)
    assert (networks["options"] ** 2).sum(1).mean() == pytest.approx(1)
    assert (networks["levels"] ** 2).sum(1).mean() == pytest.approx(6 / 7), "all but `only`"
    assert networks["decisions"].mean(0) == pytest.approx(0)


def test_numbers_are_levels_by_rank_and_others_stay_apart() -> None:
    def levels(options: tuple[Any, ...]) -> np.ndarray:
        columns = Features(_choices({"a": options}), None)(np.arange(len(options))[:, None])
        return columns["levels"]

    assert levels((64, 8, 16)) == pytest.approx(np.sqrt([[1.5], [1.5], [0]]) * [[1], [-1], [0]])
    assert levels((64, 8, 16)) == pytest.approx(levels((7e9, -1.5, 0)))
    assert levels((True, False)) == pytest.approx(np.array([[1], [-1]]))
    for options in (("c", "a", "b"), ("c", 1, 2), (None, 0.5, "x")):
        distances = np.linalg.norm(levels(options)[:, None] - levels(options), axis=2)
        assert distances[np.triu_indices(3, 1)] == pytest.approx(np.full(3, distances[0, 1]))


def test_a_decision_is_the_same_wherever_it_is_taken() -> None:
    choices = _choices()
    found = Features(choices, None)
    network = {"deep": True, "mixed": 0.5, "only": 7}
    first, exchanged, other = (
        found(
            np.array(
                [
                    choices.encode(
                        {**network, "block1.op": ops[0], "block2.op": ops[1]}
                        | {"block1.width": widths[0], "block2.width": widths[1]}
                    )
                ]
            )
        )["decisions"]
        for ops, widths in (
            (("conv", None), (8, 64)),
            ((None, "conv"), (64, 8)),
            (("conv", None), (8, 24)),
        )
    )
    assert first == pytest.approx(exchanged)
    assert first.shape == (1, 4), "three ops and one width"
    assert np.flatnonzero(np.abs(first - other)[0] > 1e-9).size == 1


def test_without_names_in_common_there_are_no_decisions() -> None:
    assert "decisions" not in Features(_choices({"a.x": (1, 2), "b.y": (1, 2)}), None)(
        np.array([[0, 1]])
    )


@pytest.mark.parametrize("options", [{"a": (3,)}, WITHOUT_OPTIONS, {"a": (3, 5)}])
def test_spaces_with_next_to_nothing_to_choose(options: Options) -> None:
    choices = _choices(options)
    networks = Features(choices, lambda n: np.full((len(n), 1), 3.0))(_all(choices))
    for columns in ("constant", "one-hot", "options", "levels", "costs"):
        assert np.isfinite(networks[columns]).all()
        assert networks[columns].shape[0] == choices.num_networks


def test_costs_are_logarithms_by_their_mean_and_spread_over_the_space() -> None:
    choices = _choices()
    found = Features(choices, _costs)
    networks = found(_all(choices))
    decoded = [choices.decode(row) for row in _all(choices)]
    assert np.array_equal(networks.costs, _costs(decoded))
    assert np.array_equal(networks.costs, found.costs(_all(choices)))
    logs = np.log(networks.costs)
    expected = (logs - logs.mean(0)) / logs.std(0)
    assert networks["costs"] == pytest.approx(expected, abs=0.15), "but for the sample"
    low, high = found.log_cost_range
    assert (low, high) == pytest.approx(np.quantile(logs[:, 0], [0.01, 0.99]), abs=0.05)


def test_a_network_s_costs_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Counter[str]()

    def counting(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        asked.update(repr(sorted(n.items())) for n in networks)
        return _costs(networks)

    choices = _choices()
    found, rows = Features(choices, counting), _all(choices)
    first = [found.costs(rows), found(rows[::-1]).costs[::-1], found.costs(rows[[5, 5]])[[0]]]
    assert set(asked.values()) == {1}
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(first[0][[5]], first[2])
    monkeypatch.setattr(features, "_REMEMBERED", 50)
    again = np.concatenate([found.costs(rows[i : i + 10]) for i in range(0, len(rows), 10)])
    assert np.array_equal(first[0], again)
    assert set(asked.values()) == {2}


def test_a_cost_that_hardly_varies_says_nothing_rather_than_too_much() -> None:
    """One in 4,000 networks costs more; the sample that scales the columns shows none."""
    choices = _choices({f"choice{i}": (1, 2, 3, 4) for i in range(6)})

    def costs(networks: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([[2.0 if set(n.values()) == {4} else 1.1] for n in networks])

    columns = Features(choices, costs)(np.array([[0] * 6, [3] * 6]))["costs"]
    assert columns[0] == pytest.approx(0, abs=1e-9)
    assert 0 < columns[1] < 1e3


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (lambda n: np.ones(len(n)), r"networks, costs\).* 339 networks, but gave the shape \(339,"),
        (lambda n: np.ones((2, len(n))), r"but gave the shape \(2, 339\)"),
        (lambda n: np.ones((len(n), 0)), r"but gave the shape \(339, 0\)"),
        (lambda n: 1.0, r"but gave the shape \(\)"),
        (
            lambda n: _costs(n) * [1, 0],
            r"positive and finite, but are \[.*, 0\.0\] for .*'only': 7",
        ),
        (lambda n: -_costs(n), r"positive and finite, but are \[-4\."),
        (lambda n: _costs(n) * [np.nan, 1], r"positive and finite, but are \[nan, "),
        (lambda n: _costs(n) * [1, np.inf], r"positive and finite, but are .*inf"),
    ],
)
def test_what_is_no_cost_is_refused(costs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Features(_choices(), costs)


def test_a_number_of_costs_that_changes_is_refused() -> None:
    choices = _choices({f"choice{i}": (1, 2, 3, 4) for i in range(20)})
    found = Features(choices, lambda n: np.ones((len(n), 2 if len(n) > 1 else 3)))
    with pytest.raises(ValueError, match=r"as many costs whenever .*, but gave 2, then 3"):
        found.costs(np.zeros((1, 20), int))
