"""What fills the slots of a study: a sampler on a space, or a list."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.cli import UserError
from nas.costs.objective import Direction
from nas.trials.trial import Proposal, Result
from nas.untrusted import printable
from search_spaces.architecture import Architecture
from search_spaces.spaces import Space


@runtime_checkable
class Recommending(Protocol):
    """A sampler with a model of its own, which knows better than the best measurement."""

    def recommend(self, study: optuna.Study, number: int) -> list[dict[str, Any]]:
        """Choices of at most `number` networks, best first, measured or not."""
        ...


class SamplerProposer:
    """Fills the slots of a study with what a sampler draws from a space.

    The sampler works on a study in memory that has one trial per slot, so the attempts that a
    crash cost do not change what it proposes. Its trials carry the user attributes `accuracy` and
    `cost` when they ended with values, and what they reported at rungs if they were stopped.

    Args:
        sampler: One for the whole study. It must draw from its own seed and the trial's number,
            and know the rest from finished trials and what it noted in their system attributes
            (as `nas.samplers` do); then a resumed search goes on as the uninterrupted one would.
        space: What it draws from.
        epochs: Of every trial.
        seed: Of every training, so that differences between networks are not differences
            between seeds.
        directions: Of the objective's values.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        space: Space,
        *,
        epochs: int,
        seed: int,
        directions: Sequence[Direction] = ("maximize",),
    ) -> None:
        self._space, self._epochs, self._seed = space, epochs, seed
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, sampler=sampler, directions=list(directions)
        )
        self._distributions = {
            name: CategoricalDistribution(options) for name, options in space.choices.items()
        }

    @property
    def study(self) -> optuna.Study:
        """The study in memory; to be read only."""
        return self._study

    @property
    def sampler(self) -> BaseSampler:
        """What draws."""
        return self._study.sampler

    def recommend(self, number: int) -> list[Architecture]:
        """The networks that the sampler believes best, best first; empty if it has no belief.

        Several choices may name one network, so more are asked for until `number` differ.
        """
        if not isinstance(self.sampler, Recommending):
            return []
        networks: dict[str, Architecture] = {}
        for asked in (number, 4 * number, 16 * number):
            for choices in self.sampler.recommend(self._study, asked):
                network = self._space.decode(choices)
                networks.setdefault(network.digest, network)
            if len(networks) >= number:
                break
        return list(networks.values())[:number]

    def propose(self, slot: int) -> Proposal:
        """Ask the sampler."""
        trial = self._study.ask(dict(self._distributions))
        assert trial.number == slot, "one trial per slot"
        return Proposal(
            architecture=self._space.decode(trial.params),
            epochs=self._epochs,
            seed=self._seed,
            params=trial.params,
            distributions=self._distributions,
        )

    def state(self, slot: int) -> Mapping[str, Any]:
        """What the sampler noted on the slot's trial."""
        return dict(self._trial(slot).system_attrs)

    def restore(
        self, slot: int, proposal: Proposal, state: Mapping[str, Any], result: Result | None
    ) -> Proposal:
        """Add the slot's trial as it was.

        Raises:
            UserError: The space decodes its choices otherwise than it did.
        """
        kinds, params = self._distributions, proposal.params
        known = kinds.keys() == params.keys() and all(
            value in kinds[name].choices for name, value in params.items()
        )
        decoded = self._space.decode(params) if known else None
        if decoded is None or decoded.digest != proposal.architecture.digest:
            raise UserError(
                f"Space {self._space.name!r} now reads the choices of trial {slot} as another "
                f"network{'' if known else ', or has no such choices'}. Restore it, or choose a "
                "new --run-dir."
            )
        state_of_trial, values = _end_of(result)
        self._study.add_trial(
            create_trial(
                state=state_of_trial,
                values=values,
                params=dict(proposal.params),
                distributions=dict(self._distributions),
                user_attrs={} if result is None else _measures(result),
                system_attrs=dict(state),
                intermediate_values={} if result is None else dict(result.curve),
            )
        )
        return replace(proposal, distributions=self._distributions)

    def observe(self, result: Result) -> None:
        """Tell the sampler."""
        slot = result.job.slot
        trial_id = self._trial(slot)._trial_id
        for epoch, value in result.curve.items():
            self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        for name, value in _measures(result).items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        state, values = _end_of(result)
        self._study.tell(slot, values if state == TrialState.COMPLETE else None, state)

    def _trial(self, slot: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[slot]


def _end_of(result: Result | None) -> tuple[TrialState, list[float] | None]:
    """State and values of the trial in memory, as `optuna.Study.tell` leaves them."""
    if result is None:
        return TrialState.RUNNING, None
    if result.values is not None:
        return TrialState.COMPLETE, list(result.values)
    if result.pruned:
        return TrialState.PRUNED, [result.curve[max(result.curve)]]
    return TrialState.FAIL, None


def _measures(result: Result) -> dict[str, float]:
    """User attributes of a trial that ended with values."""
    if result.values is None:
        return {}
    assert result.outcome.accuracy is not None
    return {"accuracy": result.outcome.accuracy, "cost": result.cost}


class FixedProposer:
    """Fills the slots of a study from a list that is known beforehand."""

    def __init__(self, proposals: list[Proposal]) -> None:
        self._proposals = proposals

    def propose(self, slot: int) -> Proposal:
        return self._proposals[slot]

    def state(self, slot: int) -> Mapping[str, Any]:
        """Nothing beside the list."""
        return {}

    def restore(
        self, slot: int, proposal: Proposal, state: Mapping[str, Any], result: Result | None
    ) -> Proposal:
        # The study is named after the list, so only a record that was not written here differs.
        if slot >= len(self._proposals) or proposal.key != self._proposals[slot].key:
            raise UserError(
                f"Trial {slot} of the record is of {printable(proposal.architecture.name, 80)}, "
                "which is not what was to be measured there. Restore study.db from a copy, or "
                "choose another --run-dir."
            )
        return self._proposals[slot]

    def observe(self, result: Result) -> None:
        """Nothing to learn."""
