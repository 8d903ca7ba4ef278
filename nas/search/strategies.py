"""Search strategies: each is an Optuna sampler, made anew for every slot from its own seed.

A sampler derives what it knows from the study's trials, so nothing else needs saving, and seeding
it by slot makes a resumed search go on as the uninterrupted one would. **A new strategy is added
to `STRATEGIES`**; users bring theirs as ``--strategy my_module:factory``, a function
``factory(seed: int) -> optuna.samplers.BaseSampler``.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from nas.cli import UserError
from nas.search.evaluate import load_object
from nas.search.study import Proposal
from search_spaces.spaces import Space

Strategy = Callable[[int], BaseSampler]

TPE_STARTUP_TRIALS = 10


def tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator; its first ten trials are random."""
    return TPESampler(seed=seed, n_startup_trials=TPE_STARTUP_TRIALS)


STRATEGIES: dict[str, Strategy] = {"random": RandomSampler, "tpe": tpe}


def load_strategy(name: str) -> Strategy:
    """A strategy of ours by name, or the user's as ``my_module:factory``.

    Raises:
        UserError: Neither.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" in name:
        return load_object(name, "--strategy")
    raise UserError(
        f"`--strategy` must be one of {', '.join(STRATEGIES)}, or my_module:factory; got {name!r}."
    )


class SamplerProposer:
    """Fills the slots of a study with what a strategy samples from a space.

    The sampler works on a study in memory that has one trial per slot, so the attempts that a
    crash cost do not change what it proposes.
    """

    def __init__(self, strategy: Strategy, space: Space, *, epochs: int, seed: int) -> None:
        self._strategy, self._space = strategy, space
        self._epochs, self._seed = epochs, seed
        self._study = optuna.create_study(direction="maximize")
        self._distributions = {
            name: CategoricalDistribution(options) for name, options in space.choices.items()
        }

    def propose(self, slot: int) -> Proposal:
        """Ask the strategy; every trial trains from the study's own seed, so that differences
        between networks are not differences between seeds."""
        seed = np.random.SeedSequence([self._seed, slot]).generate_state(1)[0]
        self._study.sampler = self._strategy(int(seed))
        trial = self._study.ask(dict(self._distributions))
        assert trial.number == slot, "one trial per slot"
        return Proposal(
            architecture=self._space.decode(trial.params),
            epochs=self._epochs,
            seed=self._seed,
            params=trial.params,
            distributions=self._distributions,
        )

    def restore(self, slot: int, proposal: Proposal) -> Proposal:
        if self._space.decode(proposal.params).digest != proposal.architecture.digest:
            raise UserError(
                f"Space {self._space.name!r} now reads the choices of trial {slot} as another "
                "network. Restore it, or choose a new --run-dir."
            )
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=dict(proposal.params),
                distributions=dict(self._distributions),
            )
        )
        return replace(proposal, distributions=self._distributions)

    def observe(self, slot: int, value: float | None) -> None:
        if value is None:
            self._study.tell(slot, state=TrialState.FAIL)
        else:
            self._study.tell(slot, value)


class FixedProposer:
    """Fills the slots of a study from a list that is known beforehand."""

    def __init__(self, proposals: list[Proposal]) -> None:
        self._proposals = proposals

    def propose(self, slot: int) -> Proposal:
        return self._proposals[slot]

    def restore(self, slot: int, proposal: Proposal) -> Proposal:
        assert proposal.key == self._proposals[slot].key, "the list changed between starts"
        return self._proposals[slot]

    def observe(self, slot: int, value: float | None) -> None:
        """Nothing to learn."""
