"""What samplers remember of a study: never other than what a fresh look would find, read once."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.evolution import RegularizedEvolutionSampler
from nas.samplers.history import Choices, Past
from tests.sampling import SIX, Options, add, distributions, hits, new_study, search

CHOICES = Choices(distributions(SIX))
OTHER: Options = {"width": (8, 16, 24, 32), "kernel": (3, 5)}
_ENDS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_networks = st.tuples(st.sampled_from(SIX["width"]), st.sampled_from(SIX["kernel"]))
_events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _networks, st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(_ENDS)),
    ),
    max_size=25,
)


def _sampled_study() -> Study:
    return new_study(RegularizedEvolutionSampler())


def _happen(study: Study, event: tuple[Any, ...]) -> None:
    """A trial begins, with our options or others; or one of those that run ends."""
    kind, first, second = event
    if kind == "add":
        params = dict(zip(SIX, first, strict=True))
        add(study, SIX if second else OTHER, params, TrialState.RUNNING)
        return
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if running:
        value = math.inf if first == 9 else float(first)
        trial = running[first % len(running)]
        study.tell(trial.number, value if second == TrialState.COMPLETE else None, second)


@settings(deadline=None)
@given(_events)
def test_what_is_remembered_is_what_a_fresh_look_finds(events: list[tuple[Any, ...]]) -> None:
    study, past = _sampled_study(), Past()
    for event in [("add", (8, 3), True), *events]:
        _happen(study, event)
        asked = study.get_trials(deepcopy=False)[-1]
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != asked.number]
        taken = {
            CHOICES.encode(trial.params)
            for trial in trials
            if trial.state != TrialState.FAIL and CHOICES.describes(trial)
        }
        if asked.state == TrialState.RUNNING:
            assert past.taken(study, CHOICES, asked) == taken
        assert past.finished(study) == [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])
        ]
        assert past.space(study) == Past().space(study)
        encoded = past.encode(CHOICES, study.get_trials(deepcopy=False))
        assert encoded == [CHOICES.encode(t.params) for t in study.get_trials(deepcopy=False)]


def test_another_study_and_other_choices_are_read_from_their_beginning() -> None:
    past, studies = Past(), (_sampled_study(), _sampled_study())
    for study, width in zip(studies, (8, 16), strict=True):
        for kernel in (3, 5):
            add(study, SIX, {"width": width, "kernel": kernel}, value=width)
        add(study, SIX, {"width": width, "kernel": 3}, TrialState.RUNNING)
    only = Choices(distributions({"kernel": (3, 5)}))
    for study, width in (*zip(studies, (8, 16), strict=True), (studies[0], 8)):
        asked = study.get_trials(deepcopy=False)[-1]
        place = SIX["width"].index(width)
        assert past.taken(study, CHOICES, asked) == {(place, 0), (place, 1)}
        assert past.taken(study, only, asked) == {(0,), (1,)}
        assert [trial.values for trial in past.finished(study)] == [[width]] * 2


def test_an_ended_trial_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[int] = Counter()
    describes = Choices.describes

    def counting(self: Choices, trial: FrozenTrial) -> bool:
        read[trial.number] += 1
        return describes(self, trial)

    monkeypatch.setattr(Choices, "describes", counting)
    options: Options = {f"choice{i}": (3, 5, 7, 9) for i in range(8)}
    search(new_study(RegularizedEvolutionSampler()), options, hits, until=120, parallel=4)
    # While it or one before it runs, each of four parallel asks looks; then nobody does again.
    assert len(read) > 100
    assert max(read.values()) <= 8
