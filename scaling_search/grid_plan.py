"""A grid made definite: the networks to train, in what order, at what price."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nas.cli import UserError, format_duration, plural
from nas.costs.metrics import Metric, typical
from nas.costs.named import cost_conditions
from nas.search.session import about, estimate, seconds_of_starts
from scaling_search.candidates import Candidate, candidates_table, find_candidates, spread
from scaling_search.options import FINEST, with_classes
from scaling_search.pixel_steps import suggesting_steps
from scaling_search.resolvable import resolvability
from scaling_search.solve import is_arithmetic
from scaling_search.triples import Grid
from search_spaces.builder import AnyNetwork
from search_spaces.rounding import Rounding

if TYPE_CHECKING:
    from nas.search.task import Task
    from nas.trials.trial import MeasurementKey
    from nas.workers import Workers
    from scaling_search.grid import Settings
    from scaling_search.race import Run, Schedule

_LEGEND = (
    "        nominal: alpha*beta^2*gamma^2; measured: cost over the base's; shares of depth/width/",
    "        resolution in the added multiply-adds; also: further triples of the same network",
)
"""Of the table of candidates."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings, made definite by what they name."""

    settings: "Settings"
    task: "Task"
    base: AnyNetwork
    """The baseline, with the task's resolution and classes."""
    metric: Metric
    rounding: Rounding
    found: int
    """Networks of the grid, before some are left out."""
    candidates: tuple[Candidate, ...]
    known: "frozenset[MeasurementKey]"
    """What the run folder holds already: it takes no time."""
    remarks: tuple[str, ...]
    """What was changed, and what the grid cannot resolve."""
    workers: "Workers"
    seconds: float | None
    """Of one training of the typical candidate on one worker, estimated; None: no telling."""
    started: float
    """When the command began, by `time.monotonic`."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when the run goes on."""
        settings = self.settings
        return {
            "baseline": self.base.digest,
            **cost_conditions(self.metric),
            "step": settings.step,
            "tolerance": settings.tolerance,
            "ratio": settings.ratio,
            "bounds": [settings.max_alpha, settings.max_beta, settings.max_gamma],
            "select": settings.select,
            "candidates": settings.candidates,
            "rounding": asdict(self.rounding),
            "epochs": settings.epochs,
            "seed": settings.seed,
            **self.task.conditions,
        }

    @property
    def schedule(self) -> "Schedule":
        """A fresh race, or all trainings.

        Raises:
            ScalingError: The budget is too small.
        """
        from scaling_search.race import FullGrid, Race, default_budget

        settings = self.settings
        shared: dict[str, Any] = {
            "candidates": self.candidates,
            "seeds": settings.seeds,
            "target": settings.ratio,
            "seed": settings.seed,
        }
        if settings.full:
            return FullGrid(**shared)
        number, seeds = len(self.candidates), settings.seeds
        budget = min(settings.trials or default_budget(number, seeds), number * seeds)
        return Race(**shared, budget=budget, at_once=self.workers.count)

    def describe(self) -> list[str]:
        """The plan, for the terminal."""
        settings, base, metric = self.settings, self.base, self.metric
        triples = sum(len(c.triples) for c in self.candidates)
        ratios = [c.ratio for c in self.candidates]
        left_out = self.found - len(self.candidates)
        lines = [
            *self.task.describe(),
            f"base    {base.name} · {base.resolution} px · {metric.format(metric(base))} · digest "
            f"{base.digest}",
            f"cost    {metric.describe()}",
            f"grid    {triples} triples near x{settings.ratio:g} ({settings.select}) make "
            f"{len(self.candidates)} networks, measured x{min(ratios):.2f} to x{max(ratios):.2f}"
            + (f"; {left_out} more between them are left out (--candidates)" if left_out else ""),
            candidates_table(self.candidates),
            *_LEGEND,
            *(f"note    {remark}" for remark in self.remarks),
        ]
        low, high = (settings.ratio * (1 + s * settings.tolerance) for s in (-1, 1))
        if outside := sum(not low <= ratio <= high for ratio in ratios):
            lines.append(
                f"note    {outside} of {len(ratios)} networks really cost more or less than the "
                "tolerance allows; the fit corrects for it. --select measured needs no correction"
            )
        number = len(self.candidates)
        if self.schedule.budget == number < number * settings.seeds and settings.trials is None:
            lines.append(
                f"note    {number} of {number * settings.seeds} trainings train no network twice: "
                "noise only shows in what the fit leaves. "
                f"--trials {2 * number} trains the likeliest again"
            )
        return [*lines, self._budget_line()]

    def _budget_line(self) -> str:
        settings, number = self.settings, len(self.candidates)
        every, schedule = number * settings.seeds, self.schedule
        budget = schedule.budget
        kind = "all" if settings.full else f"a race of at most {budget} of"
        time_needed = self._seconds_of(budget, schedule.rounds)
        hours = "" if settings.hours is None else f", within {settings.hours:g} h"
        return (
            f"plan    {kind} {every} trainings ({number} networks x "
            f"{plural(settings.seeds, 'seed')}) of {plural(settings.epochs, 'epoch')}{hours}, "
            f"{self.workers.describe()} · {about(time_needed)}"
        )

    def _seconds_of(self, trainings: int, rounds: int) -> float | None:
        """Of so many typical trainings in so many rounds; None: no telling."""
        if self.seconds is None:
            return None
        starts = seconds_of_starts(self.workers, rounds)
        return starts + self.seconds * trainings / self.workers.count

    def is_known(self, run: "Run") -> bool:
        """Whether a training of the schedule is in the run folder."""
        candidate, seed = run
        key = candidate.architecture.digest, self.settings.epochs, self.settings.seed + seed
        return key in self.known

    def check_hours(self) -> None:
        """Refuse hours that do not suffice for what is left of the first round.

        Raises:
            UserError: They do not, as far as can be told.
        """
        hours = self.settings.hours
        left = sum(not self.is_known((candidate, 0)) for candidate in self.candidates)
        needed = self._seconds_of(left, rounds=int(left > 0))
        if hours is not None and needed is not None and needed > hours * 3600:
            have_none = " that have none yet" if left < len(self.candidates) else ""
            raise UserError(
                f"`--hours {hours:g}` does not suffice for one training of each of the {left} "
                f"networks{have_none}, about {format_duration(needed)}. Raise it, or take fewer "
                "`--candidates`, `--epochs` or `--max-images`."
            )

    def affordable(self, slowest: float | None) -> int | None:
        """How many trainings there is time for now, of `slowest` seconds each; None: no limit."""
        if self.settings.hours is None:
            return None
        left = self.settings.hours * 3600 - (time.monotonic() - self.started)
        left -= seconds_of_starts(self.workers, 1)  # a round's
        seconds = self.seconds if slowest is None else slowest
        if seconds is None:  # one round of the workers tells
            return self.workers.count if left > 0 else 0
        return max(0, int(left / max(seconds, 1e-6))) * self.workers.count


def prepare(settings: "Settings") -> Plan:
    """What the settings name, loaded and counted.

    Raises:
        ValueError: The flags contradict one another, or cannot be met.
    """
    started = time.monotonic()
    grid = _grid(settings)
    workers, base = settings.where(), settings.load_base()
    metric, rounding = settings.metric(workers), settings.rounding(base)
    gamma = settings.max_gamma or math.sqrt(settings.ratio * (1 + settings.tolerance))
    finest = math.ceil(base.resolution * gamma * (FINEST if metric.conditions else 1))
    found = None
    if not metric.conditions:  # counted, so it is known, or refused, before images are read
        found = _find(base, grid, rounding, metric)
        finest = max(finest, *(candidate.architecture.resolution for candidate in found))
    task, native = settings.load_scaling_task(base, finest, workers)
    base, remarks = with_classes(base, task.num_classes)
    if found is None or remarks:  # another classifier costs something else
        found = _find(base, grid, rounding, metric)
    candidates = spread(found, settings.candidates) if settings.candidates else found
    networks = [candidate.architecture for candidate in candidates]
    task, workers = settings.tune(task, workers, networks, run_dir=settings.run_dir)
    plan = Plan(
        settings=settings,
        task=task,
        base=base,
        metric=metric,
        rounding=rounding,
        found=len(found),
        candidates=candidates,
        known=_known(settings, base),
        remarks=(*remarks, *resolvability(base, grid, rounding), *_enlarged(candidates, native)),
        workers=workers,
        seconds=_seconds(task, typical(networks), settings.epochs, workers),
        started=started,
    )
    plan.check_hours()
    return plan


def _known(settings: "Settings", base: AnyNetwork) -> "frozenset[MeasurementKey]":
    """What need not be trained, as far as `--hours` wants to know it.

    Raises:
        ValueError: The record is damaged, or holds what it must not.
    """
    if settings.hours is None:
        return frozenset()
    from nas.folder import RunFolder
    from nas.trials.audit import check_record
    from nas.trials.progress import measured_keys

    database = RunFolder(settings.run_dir).database
    check_record(database, base)
    return frozenset(measured_keys(database))


def _find(
    base: AnyNetwork, grid: Grid, rounding: Rounding, metric: Metric
) -> tuple[Candidate, ...]:
    if not is_arithmetic(base, metric):
        print(f"search  {metric.name} of up to some 300 networks, one by one", flush=True)
    with suggesting_steps(base, rounding.resolution_divisor):
        return find_candidates(base, grid, rounding, metric)


def _grid(settings: "Settings") -> Grid:
    def bounds(highest: float | None) -> tuple[float, float] | None:
        return None if highest is None else (1.0, highest)

    return Grid(
        step=settings.step,
        alpha=bounds(settings.max_alpha),
        beta=bounds(settings.max_beta),
        gamma=bounds(settings.max_gamma),
        target=settings.ratio,
        tolerance=settings.tolerance,
        selection=settings.select,
    )


def _enlarged(candidates: Sequence[Candidate], native: int | None) -> list[str]:
    finest = max(candidate.architecture.resolution for candidate in candidates)
    if native is None or finest <= native:
        return []
    return [
        f"resolutions go up to {finest} px, but the images have {native}: the larger ones show "
        "nothing more. A smaller --resolution lets gamma buy real pixels"
    ]


def _seconds(task: "Task", network: AnyNetwork, epochs: int, workers: "Workers") -> float | None:
    """Of one training, from a few timed steps."""
    seconds = estimate(task, workers, [(network, epochs)])
    return None if seconds is None else seconds * workers.count
