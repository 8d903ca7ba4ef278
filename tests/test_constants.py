"""constants.json and grid.csv: what they hold, and reading them back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.cli import UserError
from nas.trials.evaluate import Outcome
from nas.trials.trial import Job, Proposal, Result
from scaling_search.compound import Coefficients, ScalingError
from scaling_search.constants import choose, content, grid_frame, read_constants, to_json
from scaling_search.fit import Fit, accuracies_by_seed
from scaling_search.shares import PUBLISHED
from tests.grid_evaluators import candidates
from tests.scaled import fitted, lattice, peak

SHARES = lattice(4)
BASELINE = {"name": "tiny", "digest": "0123456789ab"}


def _fit(noise: float = 0.002, depth: float = 0.06, networks: int = 15) -> Fit:
    rng = np.random.default_rng(1)
    truth = peak((0.25, 0.25, 0.5), depth)(SHARES[:networks])
    return fitted(truth[:, None] + rng.normal(0, noise, (networks, 3)), SHARES[:networks])


def _content(fit: Fit, ratio: float = 2.0) -> dict[str, Any]:
    return json.loads(to_json(content(fit, BASELINE, {"epochs": 7}, ["train longer"], ratio)))


def test_a_resolved_fit_gives_its_optimum_with_intervals_and_region() -> None:
    fit, made = _fit(), _content(_fit())
    assert (made["schema"], made["source"], made["resolved"]) == (2, "fit", True)
    assert made["alpha"] * made["beta"] ** 2 * made["gamma"] ** 2 == pytest.approx(2, rel=2e-3)
    assert [*made["shares"].values()] == pytest.approx([0.25, 0.25, 0.5], abs=0.06)
    intervals = made["intervals"]
    assert intervals["confidence"] == made["region"]["confidence"] == 0.9
    for name in ("alpha", "beta", "gamma"):
        low, high = intervals[name]
        assert 1 <= low <= made[name] <= high
    low, high = intervals["shares"]["depth"]
    assert intervals["alpha"] == pytest.approx([2**low, 2**high], rel=1e-3)
    low, high = intervals["shares"]["width"]
    assert intervals["beta"] == pytest.approx([2 ** (low / 2), 2 ** (high / 2)], rel=1e-3)
    assert fit.region is not None
    assert len(made["region"]["shares"]) == fit.region.sum()
    assert np.sum(made["region"]["shares"], axis=1) == pytest.approx(1.0, abs=1e-3)
    assert made["baseline"] == BASELINE
    assert made["remedies"] == ["train longer"]
    evidence = made["evidence"]
    assert (evidence["epochs"], evidence["candidates"], evidence["trainings"]) == (7, 15, 45)
    assert evidence["seed_noise"] == pytest.approx(0.002, rel=0.3)
    assert evidence["p_value"] < 1e-6


def test_the_best_and_the_tied_are_named_with_their_accuracies() -> None:
    fit, made = _fit(noise=0.01), _content(_fit(noise=0.01))
    best = fit.best
    assert made["best"]["accuracy"] == pytest.approx(best.mean)
    assert made["best"]["accuracies"] == {str(s): a for s, a in best.accuracies.items()}
    assert made["best"]["same_network"] == [best.candidate.coefficients.label]
    assert [tied["estimate"] for tied in made["tied"]] == [s.estimate for s in fit.tied]
    assert len(made["tied"]) > 0


def test_where_noise_explains_all_the_published_shares_are_the_stated_default() -> None:
    made = _content(_fit(noise=0.05, depth=0.0))
    assert (made["source"], made["resolved"]) == ("default", False)
    assert [made[name] for name in ("alpha", "beta", "gamma")] == [1.214, 1.107, 1.16]
    assert [*made["shares"].values()] == pytest.approx(PUBLISHED.values, abs=1e-3)
    assert made["region"]["part_of_searched"] == 1.0


def test_too_few_networks_give_the_best_triple_per_doubling() -> None:
    """2^0.25 per doubling is what x4 in cost has as 4^0.25: the power of the ratio is taken out."""
    fit = _fit(networks=4)
    assert fit.optimum is None
    triple = fit.best.candidate.coefficients
    assert choose(fit, 2.0).coefficients.values == pytest.approx(triple.values)
    halved = choose(fit, 4.0).coefficients
    assert halved.values == pytest.approx([value**0.5 for value in triple.values])
    made = _content(fit)
    assert (made["source"], made["intervals"], made["region"]) == ("best", None, None)


def test_a_single_training_is_written_without_nan() -> None:
    made = json.loads(to_json(content(fitted(np.array([[0.5]]), SHARES[:1]), BASELINE, {}, [], 2)))
    assert made["evidence"]["seed_noise"] is None
    assert made["source"] == "default"
    assert "NaN" not in json.dumps(made)


def test_grid_frame_has_a_row_a_network_best_first() -> None:
    fit = _fit(noise=0.01)
    frame = grid_frame(fit)
    assert len(frame) == 15
    assert frame["estimate"].is_monotonic_decreasing
    assert frame["behind"].tolist()[0] == 0
    assert frame["tied_with_best"].tolist().count(True) == 1 + len(fit.tied)
    assert sum(frame["probability_best"].tolist()) == pytest.approx(1)
    shares = frame[["share_depth", "share_width", "share_resolution"]].to_numpy()
    assert shares.sum(axis=1) == pytest.approx(1)
    row, standing = frame.iloc[3], fit.standings[3]
    assert row["digest"] == standing.candidate.architecture.digest
    assert (row["accuracy"], row["seeds"]) == (pytest.approx(standing.mean), 3)
    assert row["macs"] == standing.candidate.cost.macs


def test_read_constants_reads_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "constants.json"
    file.write_text(to_json(content(_fit(), BASELINE, {}, [], 2.0)))
    constants = read_constants(file)
    assert constants.coefficients == choose(_fit(), 2.0).coefficients
    assert (constants.resolved, constants.source) == (True, "fit")
    assert constants.baseline is not None
    assert constants.baseline.digest == BASELINE["digest"]


def test_read_constants_reads_the_version_before(tmp_path: Path) -> None:
    file = tmp_path / "constants.json"
    file.write_text('{"schema": 1, "alpha": 1.2, "beta": 1.1, "gamma": 1.15, "resolved": false}')
    constants = read_constants(file)
    assert constants.coefficients == Coefficients(1.2, 1.1, 1.15)
    assert not constants.resolved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not the constants.json of scaling_search.grid: file: Invalid JSON"),
        ('{"alpha": 1.2, "beta": 1.1}', "gamma: Field required"),
        ('{"alpha": "1", "beta": 1.1, "gamma": 1.1}', "alpha: Input should be a valid number"),
        ('{"alpha": -1.0, "beta": 1.1, "gamma": 1.1}', "alpha, beta, gamma > 0"),
    ],
)
def test_what_is_no_constants_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "constants.json"
    file.write_text(text)
    with pytest.raises((ValueError, ScalingError), match=message):
        read_constants(file)
    with pytest.raises(ValueError, match=r"missing\.json cannot be read: No such file"):
        read_constants(tmp_path / "missing.json")


def test_a_file_without_end_is_no_constants_file() -> None:
    with pytest.raises(UserError, match=r"/dev/zero is not the constants\.json"):
        read_constants(Path("/dev/zero"))


def test_accuracies_are_gathered_by_network_and_seed() -> None:
    networks = [candidate.architecture for candidate in candidates()[:2]]

    def result(network: int, seed: int, accuracy: float | None) -> Result:
        proposal = Proposal(architecture=networks[network], epochs=1, seed=seed)
        job = Job(slot=0, trial_id=0, number=0, proposal=proposal, cost=1.0, rungs=(1,))
        outcome = Outcome(accuracy=accuracy, reason="" if accuracy else "nan")
        values = None if accuracy is None else (accuracy,)
        return Result(job=job, outcome=outcome, values=values, macs=1, params=1)

    results = [result(0, 7, 0.2), result(1, 5, 0.5), result(0, 5, 0.4), result(0, 6, None)]
    first, second = (network.digest for network in networks)
    assert accuracies_by_seed(results, first=5) == {first: {2: 0.2, 0: 0.4}, second: {0: 0.5}}


def test_networks_that_follow_no_surface_give_the_best_of_them() -> None:
    """Each has an accuracy of its own, as rounding may make it, and seeds hardly differ."""
    rng = np.random.default_rng(3)
    own = 0.6 + rng.normal(0, 0.02, (15, 1))
    fit = fitted(own + rng.normal(0, 0.001, (15, 4)), SHARES)
    made = _content(fit)
    assert (made["resolved"], made["patternless"], made["source"]) == (True, True, "best")
    best = fit.best.candidate.coefficients
    assert [made[name] for name in ("alpha", "beta", "gamma")] == pytest.approx([*best.values])
    assert not _content(_fit())["patternless"]
