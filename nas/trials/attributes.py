"""How a slot is written into the attributes of a trial, and read back."""

from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.trials.evaluate import Outcome
from nas.trials.record import all_records, outcome_of
from nas.trials.retries import Retries
from nas.trials.trial import MeasurementKey, Proposal
from search_spaces.builder import network_from_json
from search_spaces.cost import count

_RESERVED = (
    *("slot", "attempt", "epochs", "seed", "digest", "architecture", "macs", "params", "cost"),
    *("choices", "outcome", "half_batch"),
)


def attributes_of(slot: int, retries: Retries, proposal: Proposal, cost: float) -> dict[str, Any]:
    """User attributes of the trial that begins an attempt."""
    counted = count(proposal.architecture)
    return {
        "slot": slot,
        "attempt": retries.number,
        "epochs": proposal.epochs,
        "seed": proposal.seed,
        "digest": proposal.architecture.digest,
        "architecture": proposal.architecture.to_json(),
        "macs": counted.macs,
        "params": counted.params,
        "cost": cost,
        "half_batch": retries.half_batch,
        **proposal.labels,
    }


def proposal_of(trial: FrozenTrial) -> Proposal:
    """What a trial measures; without its distributions."""
    attributes = trial.user_attrs
    return Proposal(
        architecture=network_from_json(attributes["architecture"]),
        epochs=attributes["epochs"],
        seed=attributes["seed"],
        params=attributes["choices"],
        labels={k: v for k, v in attributes.items() if k not in _RESERVED},
    )


def cost_of(trial: FrozenTrial) -> float:
    """Cost of a trial's network; multiply-adds in records from before there was a choice."""
    return trial.user_attrs.get("cost", trial.user_attrs["macs"])


def known_measurements(database: Path) -> dict[MeasurementKey, tuple[str, Outcome]]:
    """What the studies of a database have measured to the end: key -> (study and trial, outcome).

    What was stopped early is not among them: it says nothing of the epochs that were not trained.
    """
    known: dict[MeasurementKey, tuple[str, Outcome]] = {}
    for record in all_records(database):
        for trial in record.trials():
            if trial.state == TrialState.COMPLETE and not outcome_of(trial).reused_from:
                source = f"{record.name} #{trial.number}"
                proposal = trial.user_attrs
                key = proposal["digest"], proposal["epochs"], proposal["seed"]
                known[key] = source, outcome_of(trial)
        record.close()
    return known
