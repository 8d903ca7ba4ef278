"""What trials tell a model: finished ones, stopped ones by extrapolation, running ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import Study
from optuna.trial import TrialState, create_trial

from nas.samplers.history import Choices, Past
from nas.samplers.measurements import Measurements, ended, measurements, networks_of
from tests.sampling import SIX, Direction, Options, distributions

CHOICES = Choices(distributions(SIX))
NETWORKS = [CHOICES.decode((i // 2, i % 2)) for i in range(6)]


def _study(directions: tuple[Direction, ...] = ("maximize",)) -> Study:
    return optuna.create_study(directions=directions)


def _told_by(study: Study) -> Measurements:
    return measurements(ended(study, Past()), Past(), CHOICES)


def _add(
    study: Study,
    network: int,
    value: float | None,
    curve: Mapping[int, float] | None = None,
    *,
    state: TrialState = TrialState.COMPLETE,
    options: Options = SIX,
    values: tuple[float, ...] | None = None,
) -> None:
    study.add_trial(
        create_trial(
            state=state,
            params={name: NETWORKS[network][name] for name in SIX} if options is SIX else {},
            distributions=dict(distributions(options)) if options is SIX else {},
            value=value,
            values=values,
            intermediate_values=dict(curve or {}),
        )
    )


def _told(rows: list[Any]) -> Measurements:
    n = len(rows)
    return Measurements(
        indices=np.array(rows).reshape(n, 1), values=np.arange(n) * 1.0, extra_variance=np.ones(n)
    )


def test_finished_trials_are_measured_and_the_others_are_not() -> None:
    study = _study()
    _add(study, 2, 0.5)
    _add(study, 0, None, state=TrialState.FAIL)
    _add(study, 1, float("inf"))
    _add(study, 3, None, state=TrialState.RUNNING)
    _add(study, 4, None, state=TrialState.PRUNED)
    _add(study, 5, -0.25)
    found = _told_by(study)
    assert [CHOICES.decode(row) for row in found.indices] == [NETWORKS[2], NETWORKS[5]]
    assert found.values.tolist() == [0.5, -0.25]
    assert found.extra_variance.tolist() == [0, 0]


def test_of_several_objectives_the_first_is_measured() -> None:
    study = _study(("maximize", "minimize"))
    _add(study, 0, None, values=(0.5, 7.0))
    assert _told_by(study).values.tolist() == [0.5]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stopped_trial_ends_where_the_finished_ones_lead(sign: int) -> None:
    study = _study()
    _add(study, 0, 0.4 * sign, {1: 0.1 * sign, 2: 0.2 * sign})
    _add(study, 1, 0.6 * sign, {1: 0.3 * sign, 2: 0.4 * sign})
    _add(study, 2, 0.8 * sign, {1: 0.2 * sign, 2: 0.6 * sign})
    _add(study, 3, None, {1: 0.05 * sign}, state=TrialState.PRUNED)
    _add(study, 4, None, {1: 0.05 * sign, 2: 0.2 * sign}, state=TrialState.PRUNED)
    found = _told_by(study)
    assert found.values[3:] == pytest.approx([0.05 * sign * 3, 0.2 * sign * 1.5])
    about = [np.var([0.4 - 0.3, 0.6 - 0.9, 0.8 - 0.6]), np.var([0.4 - 0.3, 0, 0.8 - 0.9])]
    assert found.extra_variance == pytest.approx([0, 0, 0, *about])


def test_reports_of_both_signs_lead_on_by_their_difference() -> None:
    """A ratio to a mean that is about zero would make a stopped trial a thousand times as good."""
    study = _study()
    for network, (reported, final) in enumerate([(-1.0, 2.0), (0.999, 4.0), (0.0, 3.0)]):
        _add(study, network, final, {1: reported})
    _add(study, 3, None, {1: -2.0}, state=TrialState.PRUNED)
    found = _told_by(study)
    assert found.values[3] == pytest.approx(-2.0 + 3 + 0.001 / 3)
    assert found.extra_variance[3] == pytest.approx(np.var([3, 3.001, 3]))


def test_reports_of_zero_lead_on_too() -> None:
    study = _study()
    for network in range(3):
        _add(study, network, 0.5, {1: 0.0})
    _add(study, 3, None, {1: 0.0}, state=TrialState.PRUNED)
    assert _told_by(study).values.tolist() == [0.5] * 4


def test_a_stopped_trial_is_not_judged_by_too_few() -> None:
    study = _study()
    _add(study, 0, 0.4, {1: 0.1})
    _add(study, 1, 0.4, {1: 0.1, 2: float("nan")})
    _add(study, 2, 0.4, {2: 0.2})
    _add(study, 3, None, {1: 0.1}, state=TrialState.PRUNED)
    _add(study, 3, None, {1: 0.1, 3: 0.1}, state=TrialState.PRUNED)
    _add(study, 3, None, {1: float("nan")}, state=TrialState.PRUNED)
    assert len(_told_by(study)) == 3
    _add(study, 4, 0.4, {1: 0.1})
    assert len(_told_by(study)) == 5, "that with a number at its last step"


def test_stopped_trials_stand_among_the_finished_by_number() -> None:
    study = _study()
    _add(study, 0, None, {1: 0.1}, state=TrialState.PRUNED)
    for network in (1, 2, 3):
        _add(study, network, 0.4, {1: 0.2})
    found = _told_by(study)
    assert [CHOICES.decode(row) for row in found.indices] == NETWORKS[:4]
    assert found.values == pytest.approx([0.2, 0.4, 0.4, 0.4])


def test_networks_of_a_state_leave_out_one_and_those_of_other_spaces() -> None:
    study = _study()
    for network in (3, 1, 2):
        _add(study, network, None, state=TrialState.RUNNING)
    _add(study, 4, None, state=TrialState.FAIL)
    _add(study, 0, None, state=TrialState.RUNNING, options={})
    study.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params={"width": 8, "kernel": 3},
            distributions=dict(distributions({"width": (32, 8), "kernel": (3, 5)})),
        )
    )
    found = networks_of(study, CHOICES, TrialState.RUNNING, besides=1)
    assert [CHOICES.decode(row) for row in found] == [NETWORKS[3], NETWORKS[2]]
    assert networks_of(study, CHOICES, TrialState.PRUNED).shape == (0, 2)


def test_factors_and_the_sign_are_taken_off() -> None:
    told = Measurements(
        indices=np.array([[0], [1]]),
        values=np.array([2.0, -6.0]),
        extra_variance=np.array([4.0, 9.0]),
    ).over(np.array([2.0, 3.0]), -1.0)
    assert told.values.tolist() == [-1, 2]
    assert told.extra_variance.tolist() == [1, 1]


def test_what_is_certain_is_added() -> None:
    told = _told([0, 1]).with_certain(np.array([[5]]), np.array([7.0]))
    assert told.indices.tolist() == [[0], [1], [5]]
    assert (told.values.tolist(), told.extra_variance.tolist()) == ([0, 1, 7], [1, 1, 0])


def test_monstrous_values_are_cut_where_their_powers_are_finite() -> None:
    study = _study()
    for i, value in enumerate((1.0, 1e200, -1e300)):
        _add(study, i, value)
    assert _told_by(study).values.tolist() == [1.0, 1e70, -1e70]


@pytest.mark.parametrize("number", [9, 10, 11, 12, 57, 1000])
def test_thinning_keeps_the_later_half_and_as_many_evenly_from_before(number: int) -> None:
    kept = _told(list(range(number))).thinned(10).indices[:, 0].tolist()
    if number <= 10:
        assert kept == list(range(number))
        return
    assert kept[5:] == list(range(number - 5, number))
    assert len(set(kept)) == 10
    assert kept == sorted(kept)
    assert kept[0] == 0
    gaps = np.diff([*kept[:5], number - 5 - 1 + 1])
    assert gaps.max() - gaps.min() <= max(1, gaps.max() - 1)
    assert kept[4] == number - 6, "evenly up to the later half"
