"""constants.json and grid.csv: what a fit says, written and read back."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ValidationError

from nas.cli import UserError
from nas.search.report import spread
from scaling_search.candidates import Candidate
from scaling_search.compound import Coefficients
from scaling_search.fit import CONFIDENCE, Fit, Standing, coefficients_of
from scaling_search.shares import AXES, PUBLISHED, Shares

SCHEMA = 2
_NAMES = ("alpha", "beta", "gamma")


class Baseline(BaseModel):
    """The network that constants were fitted on."""

    name: str = ""
    digest: str


class Constants(BaseModel):
    """The keys of constants.json that other commands need; the rest is evidence."""

    alpha: float
    beta: float
    gamma: float
    baseline: Baseline | None = None
    resolved: bool = True
    source: str = "best"

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(self.alpha, self.beta, self.gamma)


_RULES = {
    "alpha, beta, gamma": "growth for every doubling: of multiply-adds, 2^shares; with "
    "source best, of the cost, as the best network's own triple has it",
    "region": "superlevel set of the surface that holds 90 % of its bootstrapped "
    "optima, within what the candidates span",
    "tied": "behind the best by no more than noise explains (one-sided t on the mixed "
    "model of all trainings, 5 % error shared by all rivals)",
    "resolved": "F test of the surface against networks that are all equal, p <= .025",
}
"""What the keys mean, for whoever reads the file."""
_MAX_BYTES = 10_000_000
"""Ours have a thousandth of that."""


def read_constants(file: Path) -> Constants:
    """Read a constants.json, of this version or the one before.

    Raises:
        UserError: It cannot be read, or is none.
        ScalingError: The constants break a rule.
    """
    try:
        with file.open("rb") as content:  # what has no end, such as a device, is no JSON by then
            constants = Constants.model_validate_json(content.read(_MAX_BYTES), strict=True)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise UserError(
            f"{file} is not the constants.json of scaling_search.grid: {problems}."
        ) from error
    _ = constants.coefficients
    return constants


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The constants that a fit leads to."""

    source: Literal["fit", "best", "default"]
    """`fit`: the surface's optimum. `best`: the best network, where there are too few for a
    surface, or they follow none. `default`: the published shares, where noise explains all
    differences."""
    coefficients: Coefficients
    """Growth for every doubling: of multiply-adds, or of the grid's cost where it is `best`."""

    @property
    def shares(self) -> Shares:
        return Shares.of(self.coefficients)


def choose(fit: Fit, ratio: float) -> Choice:
    """The constants for candidates of `ratio` times the base's cost."""
    if not fit.resolved:
        return Choice(source="default", coefficients=coefficients_of(PUBLISHED))
    if fit.optimum is not None and not fit.patternless:
        return Choice(source="fit", coefficients=coefficients_of(fit.optimum))
    power = math.log(2) / math.log(ratio)
    triple = fit.best.candidate.coefficients.values
    return Choice(source="best", coefficients=Coefficients(*(value**power for value in triple)))


def content(
    fit: Fit,
    baseline: Mapping[str, str],
    evidence: Mapping[str, Any],
    remedies: list[str],
    ratio: float,
) -> dict[str, Any]:
    """The content of constants.json.

    Args:
        fit: What the trainings say.
        baseline: Name and digest.
        evidence: Settings and counts that go with it.
        remedies: What would resolve more.
        ratio: Cost of the candidates over the base's.
    """
    choice = choose(fit, ratio)
    coefficients = choice.coefficients
    return {
        "schema": SCHEMA,
        **dict(zip(_NAMES, coefficients.values, strict=True)),
        "product": coefficients.product,
        "source": choice.source,
        "resolved": fit.resolved,
        "patternless": fit.patternless,
        "shares": dict(zip(AXES, choice.shares.values, strict=True)),
        "intervals": _intervals(fit),
        "region": _region(fit),
        "best": {
            **_standing(fit.best),
            "product": fit.best.candidate.product,
            "same_network": _triples(fit.best.candidate),
        },
        "tied": [_standing(standing) for standing in fit.tied],
        "remedies": remedies,
        "baseline": dict(baseline),
        "evidence": {
            "p_value": fit.p_value,
            "seed_noise": fit.noise if fit.noise == fit.noise else None,
            "candidates": len(fit.standings),
            "trainings": sum(len(s.accuracies) for s in fit.standings),
            "rules": _RULES,
            **evidence,
        },
    }


def to_json(made: Mapping[str, Any]) -> str:
    """The file's text."""
    return json.dumps(made, indent=2) + "\n"


def grid_frame(fit: Fit) -> pd.DataFrame:
    """One row a candidate, best first, as in grid.csv."""
    chances = fit.chances()
    return pd.DataFrame(
        {
            "alpha": s.candidate.coefficients.alpha,
            "beta": s.candidate.coefficients.beta,
            "gamma": s.candidate.coefficients.gamma,
            **{
                f"share_{axis}": value
                for axis, value in zip(AXES, s.candidate.shares.values, strict=True)
            },
            "product": s.candidate.product,
            "measured_ratio": s.candidate.ratio,
            "accuracy": s.mean,
            "accuracy_std": spread(list(s.accuracies.values())),
            "seeds": len(s.accuracies),
            "estimate": s.estimate,
            "behind": fit.best.estimate - s.estimate,
            "error": s.error,
            "probability_best": chances[s.candidate.architecture.digest],
            "tied_with_best": s.tied,
            "resolution": s.candidate.architecture.resolution,
            "params": s.candidate.cost.params,
            "macs": s.candidate.cost.macs,
            "activations": s.candidate.cost.activations,
            "triples": " ".join(_triples(s.candidate)),
            "digest": s.candidate.architecture.digest,
        }
        for s in fit.standings
    )


def _standing(standing: Standing) -> dict[str, Any]:
    candidate = standing.candidate
    return {
        **dict(zip(_NAMES, candidate.coefficients.values, strict=True)),
        "measured_ratio": candidate.ratio,
        "shares": dict(zip(AXES, candidate.shares.values, strict=True)),
        "accuracy": standing.mean,
        "accuracies": {str(seed): a for seed, a in sorted(standing.accuracies.items())},
        "estimate": standing.estimate,
    }


def _intervals(fit: Fit) -> dict[str, Any] | None:
    shares = fit.intervals()
    if shares is None:
        return None
    powers = {"alpha": 1.0, "beta": 0.5, "gamma": 0.5}
    return {
        "confidence": CONFIDENCE,
        **{
            name: [float(f"{2 ** (power * share):.4g}") for share in shares[axis]]
            for (name, power), axis in zip(powers.items(), AXES, strict=True)
        },
        "shares": {axis: list(bounds) for axis, bounds in shares.items()},
    }


def _region(fit: Fit) -> dict[str, Any] | None:
    if fit.region is None:
        return None
    return {
        "confidence": CONFIDENCE,
        "part_of_searched": float(fit.region.mean()),
        "shares": fit.points[fit.region].round(4).tolist(),
    }


def _triples(candidate: Candidate) -> list[str]:
    return [triple.label for triple in candidate.triples]
