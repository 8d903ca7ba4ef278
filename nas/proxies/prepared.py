"""The flags of `nas.proxy` made definite by what they name: networks, settings, what is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from nas.cli import format_duration, format_number, plural
from nas.costs.reward import Reward
from nas.folder import RunFolder
from nas.proxies.plan import Series, Setting, plan_series
from nas.search.session import about, estimate, seconds_of_starts
from nas.search.space import load_space
from nas.trials.progress import ended_slots, measured_keys
from nas.trials.runner import study_name
from search_spaces.spaces import Space, default_target_macs

if TYPE_CHECKING:
    from nas.proxy import Settings
    from nas.search.task import Task
    from nas.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Settings, made definite by what they name."""

    settings: "Settings"
    task: "Task"
    space: Space
    proxy: Setting
    series: tuple[Series, ...]
    """The proxy, the long trainings, the variants."""
    notices: tuple[str, ...]
    workers: "Workers"

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when the run goes on; all that may is in what a trial is."""
        return {
            "space": self.settings.space,
            "choices": f"{crc32(repr(self.space.choices).encode()):08x}",
            "resolution": self.task.resolution,
            "num_classes": self.task.num_classes,
            "target_macs": self.proxy.target_macs,
            "seed": self.settings.seed,
            **self.task.conditions,
        }

    def describe(self) -> list[str]:
        """What is about to happen, and how long it takes."""
        return _plan_lines(self)


def prepare(settings: "Settings") -> Prepared:
    """Load what the settings name.

    Raises:
        ValueError: They contradict one another, or what they name cannot be used.
    """
    workers = settings.where()
    task = settings.load_task(
        workers,
        run_dir=settings.run_dir,
        resolution=settings.resolution,
        num_classes=settings.num_classes,
    )
    target = settings.target_flops
    if target is None:
        target = default_target_macs(task.resolution, task.num_classes)
    Reward(target, settings.w, settings.hard)  # refuses an exponent before hours are spent

    def make_space(setting: Setting) -> Space:
        return load_space(
            settings.space,
            resolution=setting.resolution,
            num_classes=task.num_classes,
            target_macs=setting.target_macs,
        )

    proxy = Setting(epochs=settings.epochs, resolution=task.resolution, target_macs=target)
    series, notices = plan_series(
        make_space,
        proxy,
        variants=settings.variants,
        long_epochs=settings.epochs_of_long,
        networks=settings.architectures,
        seeds=settings.seeds,
        long_seeds=settings.long_seeds,
        seed=settings.seed,
    )
    networks = [network for s in series for network in s.networks]
    task, workers = settings.tune(task, workers, networks, run_dir=settings.run_dir)
    return Prepared(
        settings=settings,
        task=task,
        space=make_space(proxy),
        proxy=proxy,
        series=tuple(series),
        notices=tuple(notices),
        workers=workers,
    )


def _plan_lines(prepared: Prepared) -> list[str]:
    task, workers = prepared.task, prepared.workers
    networks = prepared.series[0].networks
    macs = sorted(prepared.series[0].macs)
    lines = [
        *task.describe(),
        f"space   {prepared.space.name} · {plural(len(networks), 'network')} of "
        f"{format_number(macs[0])} to {format_number(macs[-1])} multiply-adds, spread over the "
        "space",
        *(f"note    {notice}" for notice in prepared.notices),
    ]
    numbers, left = [len(series.proposals) for series in prepared.series], _left(prepared)
    lines += [
        f"trial   {series.name}: {series.setting.label} · {plural(number, 'trial')}"
        for series, number in zip(prepared.series, numbers, strict=True)
    ]
    lines.append(f"plan    {plural(len(prepared.series), 'setting')}, {workers.describe()}")
    return [*lines, _outlook(prepared, numbers, left)]


def _outlook(prepared: Prepared, numbers: Sequence[int], left: Sequence[int]) -> str:
    """The time that the trials take; where some are done, what is left and its time."""
    if not any(left):
        return "left    nothing"
    task, workers = prepared.task, prepared.workers
    seconds: float | None = seconds_of_starts(workers, sum(map(bool, left)))
    parts, trials = [], []
    for series, number in zip(prepared.series, left, strict=True):
        if number == 0:
            continue
        own = estimate(task, workers, [(series.typical, number * series.setting.epochs)])
        seconds = None if seconds is None or own is None else seconds + own
        parts += [] if own is None else [f"{series.name} {format_duration(own)}"]
        trials.append(f"{number} of {series.name}")
    time = about(seconds) + (f" ({', '.join(parts)})" if parts else "")
    return (
        f"time    {time}"
        if list(left) == list(numbers)
        else f"left    {', '.join(trials)} · {time}"
    )


def _left(prepared: Prepared) -> list[int]:
    """Trials of every series that the run folder does not have yet."""
    database = RunFolder(prepared.settings.run_dir).database
    known = measured_keys(database)
    left = []
    for series in prepared.series:
        proposals = series.proposals
        ended = ended_slots(database, study_name(series.name, proposals))
        fresh = {p.key for slot, p in enumerate(proposals) if slot not in ended} - known
        left.append(len(fresh))
        known |= fresh
    return left
