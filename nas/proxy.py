"""`python -m nas.proxy`: find out whether short trainings rank networks as long ones do."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from nas.cli import (
    OptionalNumber,
    UserError,
    command_line,
    format_duration,
    format_number,
    plural,
)
from nas.cli import main as cli_main
from nas.costs.reward import DEFAULT_W
from nas.search.options import CARRIED_OVER, TrialOptions
from nas.search.session import about, estimate, run_session
from nas.untrusted import csv_text
from search_spaces.spaces import Space, default_target_macs

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.proxies.plan import Measurements, Series, Setting
    from nas.proxies.verdict import Assessment
    from nas.search.task import Task
    from nas.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of `nas.proxy`."""

    run_dir: Path = Path("runs/proxy")
    """Where the record is kept; the same command on the same folder resumes, and another number of
    epochs, seeds or networks reuses what fits."""
    space: str = "mnasnet"
    """`mnasnet`, `efficientnet` (MBConv only), or my_module:function of your own."""
    architectures: int = 12
    """Networks to train, spread over the space."""
    seeds: int = 2
    """Trials of each network at the proxy setting and at its variants; at least 2."""
    long_epochs: int | None = None
    """Epochs of the trainings that tell the truth; by default four times `--epochs`."""
    long_seeds: int = 1
    """Long trainings of each network."""
    variants: tuple[str, ...] = ("epochs=0.5", "resolution=0.7", "width=0.7")
    """Cheaper settings to try too, as factors on the proxy's, such as epochs=0.5,width=0.7. Each of
    the default ones halves the cost; `--variants` alone: none."""
    target_flops: OptionalNumber = None
    """T of the reward, in multiply-adds (conv + linear); by default 400M at 224 px, in proportion
    to the pixels."""
    w: float = DEFAULT_W
    """Exponent of the reward ACC * (MACs / T)^w."""
    hard: bool = False
    """MnasNet's hard variant: no reward for being below T, exponent -1 above."""
    resolution: int | None = None
    """Side of the images in px; by default their own, at most 224."""
    num_classes: int | None = None
    """Classes, for an `--evaluator`; images tell theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("long_seeds", "num_classes")
        if self.target_flops is not None and not self.target_flops > 0:
            raise UserError(
                f"`--target-flops` must be positive, but got {format_number(self.target_flops)}."
            )
        if self.seeds < 2:
            raise UserError(f"`--seeds` must be at least 2 to see noise, but got {self.seeds}.")
        if self.architectures < 6:
            raise UserError(
                f"`--architectures` must be at least 6 to rank, but got {self.architectures}."
            )
        if self.epochs_of_long <= self.epochs:
            raise UserError(
                f"`--long-epochs` must be more than `--epochs` ({self.epochs}), but got "
                f"{self.long_epochs}."
            )

    @property
    def epochs_of_long(self) -> int:
        return 4 * self.epochs if self.long_epochs is None else self.long_epochs


_SHARED = ("space", "target_flops", "w", "hard", "resolution", "num_classes", "epochs")
"""Flags that `nas.run` has too, beside those that every command has."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Settings, made definite by what they name."""

    settings: Settings
    task: "Task"
    space: Space
    proxy: "Setting"
    series: "tuple[Series, ...]"
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


def run(settings: Settings) -> int:
    """Train, compare and judge as `settings` say; the exit status."""
    return run_session(
        "nas.proxy",
        settings,
        prepare=_prepare,
        train=_train,
        conclude=lambda prepared, folder, _, plan: _conclude(prepared, folder, plan),
        save=_write_trials,
        interrupted=_conclude,
    )


def _prepare(settings: Settings) -> Prepared:
    from nas.costs.reward import Reward
    from nas.proxies.plan import Setting, plan_series
    from nas.search.space import load_space

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
        f"{format_number(macs[0])} to {format_number(macs[-1])} multiply-adds, spread over the space",
        *(f"note    {notice}" for notice in prepared.notices),
    ]
    total = 0.0
    for series in prepared.series:
        trials, epochs = len(series.networks) * len(series.seeds), series.setting.epochs
        words = f"{series.setting.label} · {plural(trials, 'trial')}"
        seconds = estimate(task, workers, [(series.typical, trials * epochs)])
        if seconds is not None:
            total += seconds
            words += f" · about {format_duration(seconds)}"
        lines.append(f"trial   {series.name}: {words}")
    time = about(total or None)
    return [
        *lines,
        f"plan    {plural(len(prepared.series), 'setting')}, {workers.describe()} · {time}",
    ]


def _train(prepared: Prepared, folder: "RunFolder") -> None:
    """Every series to its end; what a folder has measured is not trained again."""
    from nas.costs.objective import AccuracyObjective
    from nas.trials.runner import TrialRunner

    runner = TrialRunner(
        folder.database,
        prepared.task.evaluator,
        AccuracyObjective(),
        prepared.workers,
        probe=prepared.task.reference is not None,
        describe=lambda labels: f"network {labels['network'] + 1:>2}",
    )
    for series in prepared.series:
        print(f"trial   {series.name}: {series.setting.label}", flush=True)
        runner.run_all(series.name, series.proposals)


def _measurements(prepared: Prepared, folder: "RunFolder") -> "list[Measurements]":
    """What the folder has of every series, in their order."""
    from nas.proxies.plan import collect
    from nas.trials.attributes import known_measurements

    known = known_measurements(folder.database)
    return [collect(series, known) for series in prepared.series]


def _write_trials(prepared: Prepared, folder: "RunFolder") -> None:
    from nas.proxies.report import trials_frame

    frame = trials_frame(_measurements(prepared, folder))
    folder.write("proxy.csv", csv_text(frame))


def _conclude(prepared: Prepared, folder: "RunFolder", plan: list[str]) -> None:
    """Write and print what the trials so far say."""
    from nas.costs.reward import Reward
    from nas.proxies import report as proxy_report
    from nas.proxies.verdict import assess_all, gain_difference, recommended

    settings = prepared.settings

    def reward(accuracy: float, macs: float, setting: "Setting") -> float:
        return Reward(setting.target_macs, settings.w, settings.hard)(accuracy, int(macs))

    measurements = _measurements(prepared, folder)
    assessments = assess_all(
        measurements, reward=reward, majority=prepared.task.majority, seed=settings.seed
    )
    if not assessments:
        print("note    too few networks have both short and long trainings to judge the proxy")
        return
    proxy, best = assessments[0], recommended(assessments)
    difference = None
    if best not in (None, proxy):
        difference = gain_difference(best, proxy, measurements, seed=settings.seed)
    verdict = proxy_report.verdict_lines(proxy, settings.architectures, settings.long_seeds)
    verdict += proxy_report.choice_lines(proxy, best, difference)
    following = _next_command(prepared, proxy, best)
    report = proxy_report.markdown(plan, measurements, assessments, verdict, following)
    folder.write("proxy.md", report)
    folder.write("proxy.png", proxy_report.ranking_plot(measurements, assessments))
    print(f"\n{proxy_report.settings_table(assessments)}\n")
    print(f"verdict {verdict[0]}")
    for line in verdict[1:]:
        print(f"        {line}")
    print(f"wrote   {folder.path}/proxy.md, proxy.csv, proxy.png")
    print(f"next    {following}")


def _next_command(prepared: Prepared, proxy: "Assessment", best: "Assessment | None") -> str:
    """The search with the best fit setting; without one, this command with what may make it fit."""
    from nas.proxies.report import wants_networks

    settings = prepared.settings
    if best is None and wants_networks(proxy):
        return command_line(
            "nas.proxy", replace(settings, architectures=2 * settings.architectures)
        )
    if best is None:
        longer = replace(settings, epochs=2 * settings.epochs, long_epochs=None)
        return command_line("nas.proxy", longer)
    setting = best.series.setting
    changed = replace(settings, epochs=setting.epochs, long_epochs=None)
    if setting.resolution != prepared.proxy.resolution:
        changed = replace(changed, resolution=setting.resolution)
    if setting.target_macs != prepared.proxy.target_macs:
        changed = replace(changed, target_flops=setting.target_macs)
    return command_line("nas.run", changed, only=(*CARRIED_OVER, *_SHARED))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(run, Settings, argv, prog="python -m nas.proxy", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
