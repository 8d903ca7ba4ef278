"""A validation made definite: which networks are trained, what binds them, how long it takes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.cli import UserError, plural
from nas.costs.metrics import Metric
from nas.costs.named import cost_conditions
from nas.folder import warn_of_changes
from nas.search.session import about, estimate
from scaling_search.compound import Coefficients
from scaling_search.constants import read_constants
from scaling_search.contest import Contestant, Level, find_level, networks
from scaling_search.options import FINEST, with_classes
from scaling_search.pixel_steps import suggesting_steps
from scaling_search.validate_report import level_table
from search_spaces.builder import AnyNetwork

if TYPE_CHECKING:
    from nas.search.task import Task
    from nas.workers import Workers
    from scaling_search.validate import Settings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings, made definite by what they name."""

    settings: "Settings"
    task: "Task"
    base: AnyNetwork
    """The baseline, with the task's resolution and classes."""
    fitted: Coefficients
    metric: Metric
    levels: tuple[Level, ...]
    remarks: tuple[str, ...]
    """What was changed of the baseline."""
    native: int | None
    """Side of the images as they come, in px; None without images."""
    workers: "Workers"

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change; which networks are compared may, for each is trained alike."""
        return {
            "baseline": self.base.digest,
            **cost_conditions(self.metric),
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
            **self.task.conditions,
        }

    @property
    def anchor(self) -> Contestant:
        """The base itself, where the lines of all rules begin."""
        return Contestant(
            rules=("base",),
            architecture=self.base,
            coefficients=self.fitted,
            phi=0.0,
            cost=self.metric(self.base),
        )

    @property
    def networks(self) -> dict[str, AnyNetwork]:
        """All that is trained, by digest."""
        return networks(self.base, self.levels)

    def describe(self) -> list[str]:
        """The plan, for terminal and report."""
        settings, metric, base = self.settings, self.metric, self.base
        lines = [
            *self.task.describe(),
            f"base    {base.name} · {base.resolution} px · {metric.format(metric(base))} · digest "
            f"{base.digest}",
            f"cost    {metric.describe()}",
            f"fitted  {self.fitted} · {settings.constants or 'as given'}",
            *(f"note    {remark}" for remark in self.remarks),
            *self._doubts(),
        ]
        for level in self.levels:
            lines += self._level_lines(level)
        number = settings.epochs * settings.seeds
        trainings = ((network, number) for network in self.networks.values())
        seconds = estimate(self.task, self.workers, trainings, studies=1)
        return [
            *lines,
            f"plan    {len(self.networks)} networks x {plural(settings.seeds, 'seed')} x "
            f"{plural(settings.epochs, 'epoch')}, {self.workers.describe()} · {about(seconds)}",
        ]

    def _doubts(self) -> Iterable[str]:
        """What speaks against the constants before any trial."""
        if self.settings.constants is None:
            return
        constants = read_constants(self.settings.constants)
        fitted_on = constants.baseline
        if fitted_on is not None and fitted_on.digest != self.base.digest:
            yield (
                f"WARNING the constants were fitted to {fitted_on.name!r} (digest "
                f"{fitted_on.digest}), not to {self.base.name!r} (digest {self.base.digest}): what "
                "comes out says nothing of their fit"
            )
        if not constants.resolved:
            yield (
                f"note    the trials of these constants resolved nothing (source: "
                f"{constants.source}); they are validated all the same"
            )

    def _level_lines(self, level: Level) -> Iterable[str]:
        metric = self.metric
        yield f"target  phi {level.phi:g}: x{2**level.phi:.4g} = {metric.format(level.target)}"
        yield from level_table(level, metric).splitlines()
        for rule, why in level.missing.items():
            yield f"note    {rule} is left out: {why}"
        if any(map(level.is_marked, level.contestants)):
            yield (
                "note    * more than 5 % off the target, nearer there is no network; a costlier "
                "one has an edge, which the verdict takes into account"
            )
        finest = max(level.contestants, key=lambda c: c.architecture.resolution)
        if self.native is not None and self.native < finest.architecture.resolution:
            yield (
                f"note    {finest.label} is at {finest.architecture.resolution} px, but the images "
                f"have {self.native}: it sees enlarged ones, with nothing more to see"
            )


def prepare(settings: "Settings") -> Plan:
    """Load what the settings name.

    Raises:
        ValueError: The settings contradict one another, or what they name cannot be used.
    """
    workers, base = settings.where(), settings.load_base()
    fitted, phis = _coefficients(settings), sorted(set(settings.phi))
    metric, rounding = settings.metric(workers), settings.rounding(base)

    def levels() -> tuple[Level, ...]:
        with suggesting_steps(base, rounding.resolution_divisor):
            return tuple(find_level(base, fitted, phi, metric, rounding) for phi in phis)

    finest, trained = math.ceil(FINEST * base.resolution * 2 ** (phis[-1] / 2)), None
    if not metric.conditions:  # arithmetic, so it is known, or refused, before images are read
        trained = levels()
        finest = max(n.resolution for n in networks(base, trained).values())
    task, native = settings.load_scaling_task(base, finest, workers)
    base, remarks = with_classes(base, task.num_classes)
    if trained is None or remarks:  # another classifier costs something else
        trained = levels()
    compared = list(networks(base, trained).values())
    task, workers = settings.tune(task, workers, compared, run_dir=settings.run_dir)
    return Plan(
        settings=settings,
        task=task,
        base=base,
        fitted=fitted,
        metric=metric,
        levels=trained,
        remarks=remarks,
        native=native,
        workers=workers,
    )


def _coefficients(settings: "Settings") -> Coefficients:
    """From the one source that was given."""
    numbers = {f"--{name}": getattr(settings, name) for name in ("alpha", "beta", "gamma")}
    given = [flag for flag, value in numbers.items() if value is not None]
    if (settings.constants is not None) == bool(given) or 0 < len(given) < len(numbers):
        constants = [] if settings.constants is None else ["--constants"]
        raise UserError(
            "The constants to validate come from --constants FILE, or from --alpha, --beta and "
            f"--gamma together; got {' and '.join(constants + given) or 'none of them'}."
        )
    if settings.constants is not None:
        warn_of_changes(settings.constants)
        return read_constants(settings.constants).coefficients
    return Coefficients(*numbers.values())
