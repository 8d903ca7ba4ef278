"""From the grid's trials to constants: means over seeds, seed noise, and what is tied; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nas.search.report import pooled_spread, spread
from scaling_search.candidates import Candidate

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A candidate and the accuracies of its seeds."""

    candidate: Candidate
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates by mean accuracy, best first, and what the seed noise leaves undecided."""

    standings: tuple[Standing, ...]
    noise: float
    """Standard deviation between seeds of one network, pooled over all; NaN with one seed."""
    freedom: int
    """Degrees of freedom of `noise`."""

    @property
    def best(self) -> Standing:
        return self.standings[0]

    def margin(self, standing: Standing) -> float:
        """How far `standing` may be behind the best and still not be told apart from it.

        One-sided t quantile on the pooled seed noise; infinite with one seed. The error of 5 % is
        shared by all rivals of the best (Bonferroni), as in Gupta's subset selection (1965): the
        truly best network is the best or tied in 95 % of grids, whatever their size. A plain 95 %
        quantile loses it in half of all grids of 60 equal networks.
        """
        if self.freedom == 0:
            return float("inf")
        error = (1 - CONFIDENCE) / max(1, len(self.standings) - 1)
        runs = 1 / len(self.best.accuracies) + 1 / len(standing.accuracies)
        return float(stats.t.ppf(1 - error, self.freedom)) * self.noise * float(np.sqrt(runs))

    @property
    def tied(self) -> tuple[Standing, ...]:
        """Those that cannot be told apart from the best, without the best itself."""
        return tuple(s for s in self.standings[1:] if self.best.mean - s.mean <= self.margin(s))

    @property
    def resolved(self) -> bool:
        """Whether there are rivals, and the best is ahead of them all."""
        return len(self.standings) > 1 and not self.tied


def rank(candidates: Sequence[Candidate], accuracies: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank candidates by their accuracies, given by digest.

    Candidates whose trials all failed are left out. Of equal means the cheaper comes first.

    Raises:
        ValueError: No candidate has an accuracy.
    """
    standings = [
        Standing(candidate=c, accuracies=tuple(accuracies[c.architecture.digest]))
        for c in candidates
        if accuracies.get(c.architecture.digest)
    ]
    if not standings:
        raise ValueError("Every trial of the grid failed; trials.csv has the reasons.")
    noise, freedom = pooled_spread(s.accuracies for s in standings)
    ordered = sorted(standings, key=lambda s: (-s.mean, s.candidate.cost.macs))
    return Ranking(standings=tuple(ordered), noise=noise, freedom=freedom)


def grid_frame(ranking: Ranking) -> pd.DataFrame:
    """One row a candidate, best first, as in grid.csv."""
    tied = {s.candidate.architecture.digest for s in ranking.tied}
    return pd.DataFrame(
        {
            "alpha": s.candidate.coefficients.alpha,
            "beta": s.candidate.coefficients.beta,
            "gamma": s.candidate.coefficients.gamma,
            "product": s.candidate.product,
            "measured_ratio": s.candidate.ratio,
            "accuracy": s.mean,
            "accuracy_std": spread(s.accuracies),
            "seeds": len(s.accuracies),
            "tied_with_best": s is ranking.best or s.candidate.architecture.digest in tied,
            "resolution": s.candidate.architecture.resolution,
            "blocks": sum(stage.repeats for stage in s.candidate.architecture.stages),
            "params": s.candidate.cost.params,
            "macs": s.candidate.cost.macs,
            "activations": s.candidate.cost.activations,
            "triples": " ".join(_triples(s.candidate)),
            "digest": s.candidate.architecture.digest,
        }
        for s in ranking.standings
    )


def constants(ranking: Ranking, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The content of constants.json: the best candidate and what speaks for it."""
    best = ranking.best
    coefficients = best.candidate.coefficients
    return {
        "schema": 1,
        "alpha": coefficients.alpha,
        "beta": coefficients.beta,
        "gamma": coefficients.gamma,
        "product": coefficients.product,
        "measured_ratio": best.candidate.ratio,
        "same_network": _triples(best.candidate),
        "resolved": ranking.resolved,
        "tied": [
            {
                "alpha": s.candidate.coefficients.alpha,
                "beta": s.candidate.coefficients.beta,
                "gamma": s.candidate.coefficients.gamma,
                "accuracy": s.mean,
                "measured_ratio": s.candidate.ratio,
            }
            for s in ranking.tied
        ],
        "evidence": {
            "accuracy": best.mean,
            "accuracies": list(best.accuracies),
            "seed_noise": None if ranking.freedom == 0 else ranking.noise,
            "degrees_of_freedom": ranking.freedom,
            "candidates": len(ranking.standings),
            "rule": "tied: behind the best by no more than seed noise explains (one-sided t on the "
            "pooled noise, 5 % error shared by all rivals)",
            **evidence,
        },
    }


def accuracies_by_digest(results: Iterable[Any]) -> dict[str, list[float]]:
    """Accuracies of a study's completed results, by the network's digest and in seed order."""
    gathered: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        if result.outcome.accuracy is not None:
            proposal = result.job.proposal
            gathered.setdefault(proposal.architecture.digest, []).append(
                (proposal.seed, result.outcome.accuracy)
            )
    return {digest: [a for _, a in sorted(pairs)] for digest, pairs in gathered.items()}


def _triples(candidate: Candidate) -> list[str]:
    return [triple.label for triple in candidate.triples]
