"""A search made definite: space, cost and target, what binds the run, and how long it takes."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from nas.cli import UserError, format_number, plural
from nas.cores import num_cores
from nas.costs.metrics import MACS, Metric
from nas.costs.named import cost_conditions, load_metric
from nas.costs.objective import Objective, ParetoObjective, RewardObjective
from nas.costs.reward import DEFAULT_W, Reward
from nas.folder import RunFolder
from nas.search.outlook import estimate, left_of
from nas.search.space import load_space, some_networks
from search_spaces.spaces import FactorizedSpace, Space, default_target_macs

if TYPE_CHECKING:
    from nas.run import Settings
    from nas.search.finalists import Selection
    from nas.search.task import Task
    from nas.supernet.job import SupernetJob
    from nas.trials.halving import Halving
    from nas.workers import Workers

PARETO_STRATEGIES = ("nsga2", "guided")
"""Those of ours that optimise accuracy and cost at once."""

_FAR = 2.0
"""Times that T is beyond the costs of a sample when it is called far from them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings, made definite by what they name."""

    settings: "Settings"
    task: "Task"
    space: Space
    space_macs: float
    """Multiply-adds that the space lies around."""
    objective: Objective
    target: float
    """T, in the unit of the cost."""
    workers: "Workers"
    shared: "SupernetJob | None" = None
    """The training of the weights that all trials share, where they do."""

    @property
    def metric(self) -> Metric:
        return self.objective.metric

    @property
    def halving(self) -> "Halving | None":
        """When trials are stopped early, if they are."""
        from nas.trials.halving import Halving

        settings = self.settings
        if not settings.halving:
            return None
        return Halving(min_epochs=settings.min_epochs, reduction=settings.reduction)

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when the run goes on."""
        settings, metric = self.settings, self.metric
        conditions = {
            "space": settings.space,
            "choices": f"{crc32(repr(self.space.choices).encode()):08x}",
            "resolution": self.task.resolution,
            "num_classes": self.task.num_classes,
            "target_macs": self.space_macs,
            **cost_conditions(metric),
            "pareto": settings.pareto,
            "strategy": settings.strategy,
            "epochs": settings.epochs,
            "halving": [settings.min_epochs, settings.reduction] if settings.halving else False,
            "seed": settings.seed,
            **self.task.conditions,
        }
        if self.shared is not None:
            conditions |= {"evaluator": "supernet", "supernet": self.shared.conditions}
        if not settings.pareto:
            conditions |= {"w": settings.w, "hard": settings.hard}
            if metric.name != "macs":
                conditions["target_cost"] = self.target
        return conditions

    @property
    def selection(self) -> "Selection":
        """How the baseline is chosen."""
        from nas.search.finalists import BestReward, WithinBudget

        if not isinstance(self.objective, ParetoObjective):
            return BestReward()
        is_given = self.settings.target is not None
        return WithinBudget(objective=self.objective, target=self.target, is_given=is_given)

    def describe(self) -> list[str]:
        """What is about to happen, and how long it takes: lines for terminal and report."""
        settings, space = self.settings, self.space
        width = f"base width {space.base_width:g} · " if isinstance(space, FactorizedSpace) else ""
        halving = f" ({self.halving.describe(settings.epochs)})" if self.halving else ""
        trial = (
            f"x {plural(settings.epochs, 'epoch')}{halving}"
            if self.shared is None
            else "of its weights"
        )
        return [
            *self.task.describe(),
            f"space   {space.name} · {len(space.choices)} choices · {width}"
            f"{self.task.resolution} px",
            self._target_line(),
            *self._far_target(),
            *self._disturbed_latency(),
            *(() if self.shared is None else self.shared.describe()),
            *self._outlook(
                f"plan    {plural(settings.trials, 'trial')} {trial} by {settings.strategy}, "
                f"{self.workers.describe()}"
            ),
        ]

    def _outlook(self, plan: str) -> list[str]:
        """The plan, and the time that it takes; where some is done, what is left and its time."""
        left = left_of(self, RunFolder(self.settings.run_dir))
        if left.nothing:
            return [plan, f"left    {left.describe()}"]
        time = estimate(self, left)
        if not left.begun:
            return [plan, f"time    {time}", *self._idle_cores()]
        return [plan, f"left    {left.describe()} · {time}", *self._idle_cores()]

    def _target_line(self) -> str:
        target = f"T = {format_number(self.target)} {self.metric.describe()}"
        if not isinstance(self.objective, RewardObjective):
            return f"target  front of accuracy against cost; the baseline is picked at {target}"
        reward = self.objective.reward
        formula = f"accuracy x (cost / T)^{reward.w:g}"
        if reward.hard:
            formula = "accuracy up to T, accuracy x T / cost above"
        return f"target  {target} · reward: {formula}"

    def _far_target(self) -> Iterator[str]:
        """A note where the T that was asked for is far from what any network costs."""
        settings, metric = self.settings, self.metric
        if settings.target is None:
            return
        networks = sorted(some_networks(self.space), key=MACS)
        low, high = sorted(metric(networks[end]) for end in (0, -1))  # a latency is measured
        if not low / _FAR <= self.target <= high * _FAR:
            flag = "--target-flops" if metric.name == "macs" else "--target-cost"
            other = (
                "" if metric.name == "macs" else ", or a --target-flops whose networks cost that"
            )
            yield (
                f"note    T is far from what networks of this space cost, some "
                f"{metric.format(low)} to {metric.format(high)}: none will come near it. Choose "
                f"{flag} there{other}"
            )

    def _idle_cores(self) -> Iterator[str]:
        workers, cores = self.workers, num_cores()
        alone = workers.in_process and not workers.gpus_per_trial
        timed = self.metric.name == "latency"  # which trainings beside it would make longer
        if alone and self.task.training and cores > 1 and not timed:
            yield (
                f"hint    1 of {cores} cores is used: --workers auto runs as many trials at a time "
                "as they and memory hold"
            )

    def _disturbed_latency(self) -> Iterator[str]:
        if self.metric.name == "latency" and not self.workers.in_process:
            yield (
                "note    latency is measured while other trials run on this machine, and is less "
                "certain for it; --workers 1 measures in peace"
            )


def prepare(settings: "Settings") -> Plan:
    """Load what the settings name.

    Raises:
        ValueError: The settings contradict one another or the run folder, or what they name
            cannot be used.
    """
    _check_flags(settings)
    Reward(1.0, settings.w, settings.hard)  # refuses an exponent before anything is loaded
    workers = settings.where()
    task = settings.load_task(
        workers,
        run_dir=settings.run_dir,
        resolution=settings.resolution,
        num_classes=settings.num_classes,
    )
    space_macs = _space_macs(settings, task)
    space = load_space(
        settings.space,
        resolution=task.resolution,
        num_classes=task.num_classes,
        target_macs=space_macs,
    )
    task, workers = settings.tune(task, workers, some_networks(space), run_dir=settings.run_dir)
    metric = load_metric(
        settings.cost,
        run_dir=settings.run_dir,
        workers=workers,
        latency_batch=settings.latency_batch,
        writes=not settings.dry_run,
    )
    shared = None
    if settings.shares_weights:
        shared = _shared(settings, task, space)
        _ = shared.envelope  # refuses a space whose networks cannot share
    target = settings.target
    if target is None:
        target = space_macs if metric.name == "macs" else _typical_cost(space, metric)
    objective: Objective = ParetoObjective(metric)
    if not settings.pareto:
        objective = RewardObjective(Reward(target, settings.w, settings.hard), metric)
    return Plan(
        settings=settings,
        task=task,
        space=space,
        space_macs=space_macs,
        objective=objective,
        target=target,
        workers=workers,
        shared=shared,
    )


def _check_flags(settings: "Settings") -> None:
    from nas.search.strategies import STRATEGIES, load_strategy

    name = settings.strategy
    load_strategy(name)
    if settings.pareto and name in STRATEGIES and name not in PARETO_STRATEGIES:
        raise UserError(
            f"`--strategy {name}` optimises one number, the reward. For --pareto choose one of "
            f"{', '.join(PARETO_STRATEGIES)}, or leave --pareto out."
        )
    if settings.pareto and settings.halving:
        raise UserError(
            "`--halving` compares trials by one number, and `--pareto` has two. Leave one out."
        )
    if settings.shares_weights and settings.halving:
        raise UserError(
            "`--halving` stops trainings early, and the trials of `--evaluator supernet` train "
            "nothing. Leave one out."
        )
    if settings.pareto and (settings.hard or settings.w != DEFAULT_W):
        raise UserError("`--pareto` has no reward: leave out `--w` and `--hard`.")
    if settings.cost == "macs" and settings.target_cost is not None:
        raise UserError("`--cost macs` has its target in `--target-flops`, not `--target-cost`.")
    for flag in ("target_flops", "target_cost"):
        value = getattr(settings, flag)
        if value is not None and not value > 0:
            raise UserError(
                f"`--{flag.replace('_', '-')}` must be positive, but got {format_number(value)}."
            )


def _shared(settings: "Settings", task: "Task", space: Space) -> "SupernetJob":
    """The training of shared weights.

    Raises:
        ValueError: The space's networks cannot share any.
    """
    from nas.supernet.job import SupernetJob

    assert task.training is not None
    return SupernetJob(
        space=space,
        training=task.training,
        epochs=settings.supernet_epochs,
        drawn=settings.supernet_drawn,
        seed=settings.seed,
    )


def _space_macs(settings: "Settings", task: "Task") -> float:
    """Multiply-adds that the space lies around.

    A front's space stays what the first command made it, whatever target a later one picks at.
    """
    asked = settings.target_flops
    if settings.pareto and (asked is None or settings.cost == "macs"):
        try:
            config = (settings.run_dir / "config.json").read_text(encoding="utf-8")
            return float(json.loads(config)["conditions"]["target_macs"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a fresh folder, or one that `RunFolder.bind` refuses
    return default_target_macs(task.resolution, task.num_classes) if asked is None else asked


def _typical_cost(space: Space, metric: Metric) -> float:
    """The median, to two digits."""
    return float(f"{statistics.median(map(metric, some_networks(space))):.1e}")
