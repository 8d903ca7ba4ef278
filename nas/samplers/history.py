"""What our samplers share: what a study has finished, and its choices as arrays of indices.

Of a study's trials only those that are COMPLETE with finite values teach anything; RUNNING and
PRUNED ones only count as taken, where a sampler avoids repeats; FAILed ones are as good as gone.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.seeding import rng_for, seed_for

Indices = tuple[int, ...]
"""One network: for each choice of the space, in its order, the index of the chosen option."""

_TOLD = (TrialState.COMPLETE, TrialState.PRUNED)
_TAKEN = (*_TOLD, TrialState.RUNNING)


class Choices:
    """A categorical search space, with its networks as index vectors in the order of its names."""

    def __init__(self, search_space: Mapping[str, BaseDistribution]) -> None:
        """
        Raises:
            ValueError: A distribution that is not categorical.
        """
        self.distributions: dict[str, CategoricalDistribution] = {}
        for name, distribution in search_space.items():
            if not isinstance(distribution, CategoricalDistribution):
                raise ValueError(f"Only categorical choices have indices; {name!r} is none.")
            self.distributions[name] = distribution

    @property
    def names(self) -> list[str]:
        return list(self.distributions)

    @property
    def sizes(self) -> list[int]:
        """The number of options of each choice."""
        return [len(distribution.choices) for distribution in self.distributions.values()]

    @property
    def num_networks(self) -> int:
        return math.prod(self.sizes)

    def encode(self, params: Mapping[str, Any]) -> Indices:
        """The indices of the chosen options.

        Raises:
            KeyError: A choice is not among the `params`.
            ValueError: An option that its choice does not have.
        """
        return tuple(
            int(distribution.to_internal_repr(params[name]))
            for name, distribution in self.distributions.items()
        )

    def decode(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """The options that indices stand for, by name."""
        pairs = zip(self.distributions.items(), indices, strict=True)
        return {name: distribution.choices[int(index)] for (name, distribution), index in pairs}

    def draw(self, rng: np.random.Generator) -> Indices:
        """A network, uniformly."""
        return tuple(int(rng.integers(size)) for size in self.sizes)

    def mutate(self, indices: Indices, rng: np.random.Generator) -> Indices:
        """One choice, drawn uniformly, set to another of its options; as it is where no choice
        has two."""
        free = [i for i, size in enumerate(self.sizes) if size > 1]
        if not free:
            return indices
        place = int(rng.choice(free))
        option = int(rng.integers(self.sizes[place] - 1))
        return (*indices[:place], option + (option >= indices[place]), *indices[place + 1 :])

    def avoid(self, taken: set[Indices], indices: Indices, rng: np.random.Generator) -> Indices:
        """`indices`, mutated until they are not `taken`; as they are if every network is."""
        if len(taken) >= self.num_networks:
            return indices
        while indices in taken:
            indices = self.mutate(indices, rng)
        return indices

    def describes(self, trial: FrozenTrial) -> bool:
        """Whether a trial took these choices, among the same options."""
        theirs = trial.distributions
        return all(_same(theirs.get(name), ours) for name, ours in self.distributions.items())


def scores(study: Study, trials: Sequence[FrozenTrial]) -> np.ndarray:
    """The trials' values with the sign that makes more better: (trials, objectives)."""
    signs = [1 if way == StudyDirection.MAXIMIZE else -1 for way in study.directions]
    return np.array([trial.values for trial in trials]).reshape(-1, len(signs)) * signs


class Past:
    """What a study's trials tell, each trial that has ended being read once.

    An ended trial does not change, and a study only grows: what was found out about its first
    trials, up to the first that still runs, is kept, so that a suggestion costs the same after
    thousands of trials as after ten. Another study is read from its beginning.
    """

    def __init__(self) -> None:
        self._start()

    def finished(self, study: Study) -> list[FrozenTrial]:
        """The COMPLETE trials whose values are all finite, by number."""
        latest = self._read(study)
        return [*self._finished, *filter(_is_finished, latest)]

    def space(self, study: Study) -> dict[str, BaseDistribution]:
        """The categorical choices that all COMPLETE and PRUNED trials share, sorted by name.

        While there is none, those of the RUNNING trials, so that those asked in parallel at the
        start can already differ. Optuna's `IntersectionSearchSpace` finds the same, but compares
        option by option, which takes seconds at thousands of trials, or remembers a study by a
        number that another study may have.
        """
        latest = self._read(study)
        before = [] if self._space is None else [self._space]
        ended = before + [trial.distributions for trial in latest if trial.state in _TOLD]
        running = (trial for trial in latest if trial.state == TrialState.RUNNING)
        return _shared(ended or [t.distributions for t in running if t.distributions])

    def taken(self, study: Study, choices: Choices, besides: FrozenTrial) -> set[Indices]:
        """The networks that trials other than `besides`, which runs, have measured, stopped or now
        measure."""
        latest = self._read(study)
        self._encode(choices)
        return self._taken | {
            choices.encode(trial.params)
            for trial in latest
            if trial.state in _TAKEN and trial.number != besides.number and choices.describes(trial)
        }

    def encode(self, choices: Choices, trials: Iterable[FrozenTrial]) -> list[Indices]:
        """The networks of trials of the study that was read last, in order."""
        self._encode(choices)
        return [
            known if (known := self._known(trial)) is not None else choices.encode(trial.params)
            for trial in trials
        ]

    def _start(self) -> None:
        self._ended: list[FrozenTrial] = []
        self._finished: list[FrozenTrial] = []
        self._space: dict[str, BaseDistribution] | None = None
        self._forget_indices(None)

    def _forget_indices(self, choices: Choices | None) -> None:
        self._choices = choices
        self._indices: list[Indices | None] = []
        self._taken: set[Indices] = set()

    def _read(self, study: Study) -> list[FrozenTrial]:
        """Take in what has ended since the last time; the trials from the first that runs on."""
        trials = study.get_trials(deepcopy=False)
        known = len(self._ended)
        # Storages hand out the same object for an ended trial, and one object is of one study.
        if known and (known > len(trials) or trials[known - 1] is not self._ended[-1]):
            self._start()
        for trial in trials[len(self._ended) :]:
            if not trial.state.is_finished():
                break
            self._ended.append(trial)
            if _is_finished(trial):
                self._finished.append(trial)
            if trial.state in _TOLD:
                before = [] if self._space is None else [self._space]
                self._space = _shared([*before, trial.distributions])
        return trials[len(self._ended) :]

    def _encode(self, choices: Choices) -> None:
        """Find the indices of ended trials, None of those that took other choices."""
        if self._choices is None or self._choices.distributions != choices.distributions:
            self._forget_indices(choices)
        for trial in self._ended[len(self._indices) :]:
            indices = choices.encode(trial.params) if choices.describes(trial) else None
            self._indices.append(indices)
            if indices is not None and trial.state in _TOLD:  # it has ended
                self._taken.add(indices)

    def _known(self, trial: FrozenTrial) -> Indices | None:
        is_known = trial.number < len(self._ended) and self._ended[trial.number] is trial
        return self._indices[trial.number] if is_known else None


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))


def _shared(spaces: Sequence[Mapping[str, BaseDistribution]]) -> dict[str, BaseDistribution]:
    """The categorical choices that are in all of the spaces, sorted by name."""
    first = spaces[0] if spaces else {}
    return {
        name: first[name]
        for name in sorted(first)
        if isinstance(first[name], CategoricalDistribution)
        and all(_same(space.get(name), first[name]) for space in spaces)
    }


def _same(left: BaseDistribution | None, right: BaseDistribution) -> bool:
    if isinstance(left, CategoricalDistribution) and isinstance(right, CategoricalDistribution):
        # Optuna's own comparison takes microseconds an option; it alone knows equal NaN.
        return left is right or left.choices == right.choices or left == right
    return left == right


def require_one_objective(study: Study, sampler: BaseSampler) -> None:
    """
    Raises:
        ValueError: The study has several objectives.
    """
    if len(study.directions) > 1:
        raise ValueError(
            f"{type(sampler).__name__} follows one objective; the study has "
            f"{len(study.directions)}. Give it one value per trial, or choose a strategy for "
            "several, such as nsga2."
        )


class ChoiceSampler(BaseSampler):
    """A sampler that proposes whole networks from categorical choices.

    What it proposes for a trial depends on the seed, the trial's number and the study's trials
    alone, so one made anew after a restart goes on as the old one would have. Parameters of other
    kinds than categorical, and all those of trials that are asked before the study knows its
    search space, are drawn at random, each independently.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self.past = Past()
        """Of the study that is asked about."""

    @abstractmethod
    def choose(
        self, study: Study, trial: FrozenTrial, choices: Choices, rng: np.random.Generator
    ) -> Sequence[int] | np.ndarray:
        """The network for a trial, as indices into `choices`; `rng` is the trial's own."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        self.check(study)
        return self.past.space(study)

    def check(self, study: Study) -> None:
        """
        Raises:
            ValueError: The sampler does not know what to do with the study's objectives. Here:
                there are several.
        """
        require_one_objective(study, self)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        choices = Choices(search_space)
        return choices.decode(self.choose(study, trial, choices, rng_for(self._seed, trial.number)))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = RandomSampler(seed_for(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)
