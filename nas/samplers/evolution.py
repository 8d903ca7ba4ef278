"""Regularized evolution: the old die, not the bad (Real et al. 2019, arXiv:1802.01548, §3.2).

A lucky measurement lives as long as any other, so that noise is forgotten: what stays in the
population has been measured well several times, in its descendants.
"""

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from nas.samplers.history import Choices, ChoiceSampler, Indices, scores


class RegularizedEvolutionSampler(ChoiceSampler):
    """Mutates the best of a few drawn from the last finished trials.

    While fewer than `population_size` trials are finished, networks are drawn uniformly. From
    then on the population is the last `population_size` finished trials by number; `sample_size`
    of them are drawn without replacement, and the best of these, with one of its choices set to
    another option, is proposed. A network that another trial has or had is mutated further, until
    the space is exhausted.
    """

    def __init__(self, *, population_size: int = 20, sample_size: int = 5, seed: int = 0) -> None:
        """
        Raises:
            ValueError: `1 <= sample_size <= population_size` does not hold.
        """
        super().__init__(seed=seed)
        if not 1 <= sample_size <= population_size:
            raise ValueError(
                "`1 <= sample_size <= population_size` must hold, but got "
                f"(sample_size={sample_size}, population_size={population_size})."
            )
        self._population_size, self._sample_size = population_size, sample_size

    def choose(
        self, study: Study, trial: FrozenTrial, choices: Choices, rng: np.random.Generator
    ) -> Indices:
        population = self.past.finished(study)[-self._population_size :]
        if len(population) < self._population_size:
            proposal = choices.draw(rng)
        else:
            parent = choices.encode(self._winner(study, population, rng).params)
            proposal = choices.mutate(parent, rng)
        return choices.avoid(self.past.taken(study, choices, trial), proposal, rng)

    def _winner(
        self, study: Study, population: list[FrozenTrial], rng: np.random.Generator
    ) -> FrozenTrial:
        places = rng.choice(len(population), size=self._sample_size, replace=False)
        drawn = [population[place] for place in places]
        return drawn[int(np.argmax(scores(study, drawn)[:, 0]))]
