"""`python -m nas.proxy`: find out whether short trainings rank networks as long ones do."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nas.cli import (
    OptionalNumber,
    Sections,
    UserError,
    command_line,
    format_number,
)
from nas.cli import main as cli_main
from nas.costs.reward import DEFAULT_W
from nas.search.options import CARRIED_OVER, TrialOptions
from nas.search.session import run_session
from nas.untrusted import csv_text

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.proxies.plan import Measurements, Setting
    from nas.proxies.prepared import Prepared
    from nas.proxies.verdict import Assessment


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of `nas.proxy`."""

    SECTIONS: ClassVar[Sections] = {
        "search": ("space", "target_flops", "w", "hard"),
    }

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


def run(settings: Settings) -> int:
    """Train, compare and judge as `settings` say; the exit status."""
    from nas.proxies.prepared import prepare

    return run_session(
        "nas.proxy",
        settings,
        prepare=prepare,
        train=_train,
        conclude=lambda prepared, folder, _, plan: _conclude(prepared, folder, plan),
        save=_write_trials,
        interrupted=_conclude,
    )


def _train(prepared: "Prepared", folder: "RunFolder") -> None:
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
    if not runner.measured:
        print(f"done    {folder.path} has these trials, finished; nothing was repeated")


def _measurements(prepared: "Prepared", folder: "RunFolder") -> "list[Measurements]":
    """What the folder has of every series, in their order."""
    from nas.proxies.plan import collect
    from nas.trials.attributes import known_measurements

    known = known_measurements(folder.database)
    return [collect(series, known) for series in prepared.series]


def _write_trials(prepared: "Prepared", folder: "RunFolder") -> None:
    from nas.proxies.report import trials_frame

    frame = trials_frame(_measurements(prepared, folder))
    folder.write("proxy.csv", csv_text(frame))


def _conclude(prepared: "Prepared", folder: "RunFolder", plan: list[str]) -> None:
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


def _next_command(prepared: "Prepared", proxy: "Assessment", best: "Assessment | None") -> str:
    """The search with the best fit setting; without one, this command with what may make it fit."""
    from nas.proxies.report import wants_networks

    settings = prepared.settings
    if best is None and wants_networks(proxy):
        return command_line(
            "nas.proxy", replace(settings, architectures=2 * settings.architectures)
        )
    if best is None:
        minutes = settings.trial_minutes  # of a trial of so many epochs
        minutes = None if minutes is None else 2 * minutes
        longer = replace(settings, epochs=2 * settings.epochs, long_epochs=None)
        return command_line("nas.proxy", replace(longer, trial_minutes=minutes))
    setting = best.series.setting
    changed = replace(settings, epochs=setting.epochs, long_epochs=None)
    if setting.resolution != prepared.proxy.resolution:
        changed = replace(changed, resolution=setting.resolution)
    if setting.target_macs != prepared.proxy.target_macs:
        changed = replace(changed, target_flops=setting.target_macs)
    following = command_line("nas.run", changed, only=(*CARRIED_OVER, *_SHARED))
    return f"{following} --run-dir {shlex.quote(f'{settings.run_dir}/search')}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(run, Settings, argv, prog="python -m nas.proxy", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
