"""Spaces, objectives and loops that the tests of the samplers share; Optuna alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

Options = Mapping[str, Sequence[Any]]
Params = dict[str, Any]
Objective = Callable[[Params], float]
Direction = Literal["maximize", "minimize"]

EASY: Options = {f"choice{i}": (3, 5, 7, 9) for i in range(8)}
PLANTED = {f"choice{i}": (3, 5, 7, 9)[i % 4] for i in range(8)}
SIX: Options = {"width": (8, 16, 24), "kernel": (3, 5)}


def hits(params: Params) -> float:
    """How many choices are those of the planted optimum."""
    return float(sum(params[name] == value for name, value in PLANTED.items()))


def uneven(params: Params) -> float:
    """Some number that depends on every choice of any space."""
    return sum(hash_of(i, name, value) for i, (name, value) in enumerate(sorted(params.items())))


def hash_of(place: int, name: str, value: Any) -> float:
    return sum(map(ord, f"{place}{name}{value!r}")) * (place + 7) % 101 / 101


def distributions(options: Options) -> dict[str, CategoricalDistribution]:
    return {name: CategoricalDistribution(tuple(values)) for name, values in options.items()}


def new_study(sampler: BaseSampler, direction: Direction = "maximize") -> Study:
    return optuna.create_study(direction=direction, sampler=sampler)


def ask(study: Study, options: Options) -> Params:
    return study.ask(dict(distributions(options))).params


def search(
    study: Study, options: Options, objective: Objective, until: int, *, parallel: int = 1
) -> list[Params]:
    """Ask and tell until the study has `until` trials, so many asked before the first is told,
    and told last to first; all of the study's choices."""
    while (start := len(study.get_trials(deepcopy=False))) < until:
        asked = [study.ask(dict(distributions(options))) for _ in range(parallel)]
        for trial in reversed(asked):
            study.tell(trial, objective(trial.params))
        assert asked[-1].number == start + parallel - 1
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def resumed(study: Study, sampler: BaseSampler, cut: int) -> Study:
    """The study's first `cut` trials in a fresh one, as read back from a record."""
    fresh = new_study(
        sampler, "maximize" if study.direction == StudyDirection.MAXIMIZE else "minimize"
    )
    for trial in study.get_trials(deepcopy=False)[:cut]:
        fresh.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,
            )
        )
    return fresh


def add(
    study: Study,
    options: Options,
    params: Params,
    state: TrialState = TrialState.COMPLETE,
    value: float | None = None,
) -> None:
    """Add a trial that no sampler proposed."""
    study.add_trial(
        create_trial(
            state=state, params=params, distributions=dict(distributions(options)), value=value
        )
    )
