"""Row 22 of the fault matrix: what may change when a command goes on, flag by flag.

A flag binds the run, or it is a budget, concurrency, or a place. A new flag belongs to one of the
two here, or a test fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from nas import proxy, run, train
from nas.proxies.prepared import prepare as prepare_proxy
from nas.search import plan as run_plan
from scaling_search import grid, grid_plan, validate, validate_plan
from search_spaces.network import module_of
from search_spaces.weights import save_weights
from tests.grid_evaluators import TINY
from tests.trees import plant

TOY = {"evaluator": "tests.searching:large_kernels", "resolution": 32, "num_classes": 10}
SCALED = {"evaluator": "tests.grid_evaluators:peaked"}
SIZED = {**TOY, "target_flops": 8e6}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command's settings, and which of them bind."""

    settings: type
    """The dataclass of its flags."""
    prepare: Any
    """Makes a plan of them, which has the conditions."""
    base: Mapping[str, Any]
    """Flags that are given in any case."""
    binding: Mapping[str, tuple[Mapping[str, Any], Any]]
    """By flag: what else is given, and the value that the flag is changed to."""
    free: Mapping[str, Any]
    """By flag: the value that it is changed to; None where that needs a GPU or a cluster."""

    def conditions(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.prepare(self.settings(**{**self.base, **values})).conditions)


FOUND = {"evaluator": None, "data": "IMAGES", "precision": "fp32", "memory_format": "contiguous"}
"""With no probe, which would take its seconds each time."""
IMAGES: dict[str, tuple[Mapping[str, Any], Any]] = {
    "data": (FOUND, "digits"),
    "max_images": (FOUND, 12),
    "val_images": (FOUND, 3),
    "batch_size": (FOUND, 8),
    "flip": (FOUND, False),
    "balanced": (FOUND, True),
}
SHARED = {**FOUND, "evaluator": "supernet", "num_classes": None, "supernet_epochs": 2}
MEASURED = ({}, None)
"""Where a plan alone measures latencies for minutes; nas.run's does not, and is tried."""
OF_TRIALS = {
    **{"workers": 2, "trial_minutes": 5.0, "gpus_per_trial": None, "ray_address": None},
    **{"dry_run": True, "run_dir": Path("elsewhere"), "cache_dir": Path("elsewhere")},
    # What they let in or leave out is in the fingerprint of the images.
    **{"skip_bad": True, "follow_links": True},
}
RECORDED = frozenset({"precision", "memory_format"})
"""Flags of trials that the manifest binds, because what is left out is chosen by a probe; see
tests/test_tuning.py."""
OF_SCALING: dict[str, tuple[Mapping[str, Any], Any]] = {
    **IMAGES,
    "evaluator": ({}, "tests.grid_evaluators:paper"),
    "epochs": ({}, 9),
    "seed": ({}, 1),
    "baseline": ({}, "mobilenet-v2"),
    "resolution": ({}, 48),
    "cost": ({}, "params"),
    "latency_batch": MEASURED,
}
COMMANDS = {
    "nas.run": Command(
        settings=run.Settings,
        prepare=run_plan.prepare,
        base=SIZED,
        binding={
            **IMAGES,
            "evaluator": ({}, "tests.searching:accuracy"),
            "epochs": ({}, 9),
            "seed": ({}, 1),
            "space": ({}, "efficientnet"),
            "strategy": ({}, "random"),
            "cost": ({"target_flops": None}, "params"),
            "target_flops": ({}, 9e6),
            "target_cost": ({"target_flops": None, "cost": "params", "target_cost": 1e6}, 2e6),
            "w": ({}, -0.1),
            "hard": ({}, True),
            "pareto": ({}, True),
            "halving": ({}, True),
            "min_epochs": ({"halving": True}, 2),
            "reduction": ({"halving": True}, 4),
            "latency_batch": ({"target_flops": None, "cost": "latency", "target_cost": 5.0}, 8),
            "resolution": ({}, 40),
            "num_classes": ({}, 12),
            "supernet_epochs": (SHARED, 3),
            "supernet_drawn": (SHARED, 1),
        },
        free={
            **OF_TRIALS,
            **{"trials": 99, "finalists": 1, "finalist_epochs": 7, "finalist_seeds": 1},
        },
    ),
    "nas.proxy": Command(
        settings=proxy.Settings,
        prepare=prepare_proxy,
        base={**SIZED, "architectures": 6, "variants": ()},
        binding={
            **IMAGES,
            "evaluator": ({}, "tests.searching:accuracy"),
            "seed": ({}, 1),
            "space": ({}, "efficientnet"),
            "target_flops": ({}, 9e6),
            "resolution": ({}, 40),
            "num_classes": ({}, 12),
        },
        # Trials are known by network, epochs and seed; the reward is computed of their accuracies.
        free={
            **OF_TRIALS,
            **{"epochs": 4, "architectures": 7, "seeds": 3, "long_epochs": 30, "long_seeds": 2},
            **{"variants": ("epochs=0.5",), "w": -0.1, "hard": True},
        },
    ),
    "scaling_search.grid": Command(
        settings=grid.Settings,
        prepare=grid_plan.prepare,
        base={**SCALED, "baseline": "TINY"},
        binding={
            **OF_SCALING,
            "depth_rounding": ({}, "round"),
            "resolution_step": ({}, 2),
            "step": ({}, 0.1),
            "tolerance": ({}, 0.1),
            "ratio": ({}, 2.5),
            "max_alpha": ({}, 1.9),
            "max_beta": ({}, 1.3),
            "max_gamma": ({}, 1.3),
            "select": ({}, "formula"),
            "candidates": ({}, 12),
        },
        free={**OF_TRIALS, "seeds": 2, "trials": 90, "hours": 1.0, "full": True},
    ),
    "scaling_search.validate": Command(
        settings=validate.Settings,
        prepare=validate_plan.prepare,
        base={**SCALED, "baseline": "TINY", "alpha": 1.2, "beta": 1.1, "gamma": 1.15},
        binding={
            **OF_SCALING,
        },
        # Which networks are compared may change: each is trained alike.
        free={
            **OF_TRIALS,
            **{"seeds": 2, "phi": (1.0,), "alpha": 1.3, "beta": 1.2, "gamma": 1.1},
            **{"depth_rounding": "round", "resolution_step": 2, "constants": None},
        },
    ),
    "nas.train": Command(
        settings=train.Settings,
        prepare=train.prepare,
        base={"arch": "TINY", "data": "LARGE_IMAGES", "out": Path("out")},
        binding={
            "arch": ({}, "mobilenet-v2"),
            "data": ({}, "digits"),
            "epochs": ({}, 9),
            "batch_size": ({}, 8),
            "learning_rate": ({}, 0.1),
            "optimizer": ({}, "adamw"),
            "weight_decay": ({}, 0.0),
            "label_smoothing": ({}, 0.0),
            "ema_decay": ({}, 0.5),
            "augment": ({}, "resized-crop"),
            "flip": ({}, False),
            "balanced": ({}, True),
            "min_crop_area": ({}, 0.5),
            "stored_pixels": ({}, 33),
            "erasing": ({}, 0.1),
            "resolution": ({}, 40),
            "init_weights": ({}, Path("weights.safetensors")),
            "seed": ({}, 1),
            "precision": ({}, "fp32"),
        },
        free={
            **{"out": Path("elsewhere"), "skip_bad": True, "follow_links": True, "dry_run": True},
            **{"threads": 2, "loader_workers": 1, "device": "cpu"},
            "cache_dir": Path("elsewhere"),
        },
    ),
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the words in capitals above stand for; the working directory is empty else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    save_weights(module_of(TINY), tmp_path / "weights.safetensors")
    for name, side in (("images", 4), ("large", 40)):
        plant(tmp_path / name, {f"train/{i}": 4 for i in range(5)}, size=(side + 2, side))
    return {
        "TINY": str(tmp_path / "tiny.json"),
        "IMAGES": str(tmp_path / "images"),
        "LARGE_IMAGES": str(tmp_path / "large"),
    }


def _values(given: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Any]:
    return {k: places.get(cast(str, v), v) if isinstance(v, str) else v for k, v in given.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_row_22_every_flag_binds_or_may_change(name: str) -> None:
    command = COMMANDS[name]
    flags = {field.name for field in fields(command.settings)}
    assert flags == set(command.binding) | set(command.free) | (RECORDED & flags)
    assert not set(command.binding) & set(command.free)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        (name, flag)
        for name, command in COMMANDS.items()
        for flag, change in command.binding.items()
        if change is not MEASURED
    ],
)
def test_row_22_what_binds_is_among_the_conditions(
    name: str, flag: str, places: dict[str, Any]
) -> None:
    command = COMMANDS[name]
    others, value = command.binding[flag]
    if flag == "pareto":
        others = {**others, "strategy": "nsga2"}
    if flag == "init_weights":
        others = {**others, "arch": "TINY"}
    command = replace(command, base=_values(command.base, places))
    before = _values(others, places)
    assert command.conditions(before) != command.conditions({**before, flag: value})


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_row_22_budget_and_concurrency_are_not(name: str, places: dict[str, Any]) -> None:
    command = COMMANDS[name]
    command = replace(command, base=_values(command.base, places))
    before = command.conditions({})
    tried = {flag: value for flag, value in command.free.items() if value is not None}
    assert len(tried) >= 7
    for flag, value in tried.items():
        assert command.conditions({flag: value}) == before, flag
