"""`python -m nas.run`: search a baseline network on the user's images."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from nas.cli import (
    OptionalNumber,
    UserError,
    command_line,
    format_duration,
    format_number,
)
from nas.cli import (
    main as cli_main,
)
from nas.search.options import CARRIED_OVER, TrialOptions
from search_spaces.cost import count
from search_spaces.spaces import SPACES, FactorizedSpace, Space, default_target_macs, sample

if TYPE_CHECKING:
    from nas.search.baseline import SearchResult
    from nas.search.record import RunFolder
    from nas.search.reward import Reward
    from nas.search.task import Task
    from nas.search.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of `nas.run`."""

    run_dir: Path = Path("runs/search")
    """Where the record is kept; the same command on the same folder resumes."""
    space: str = "mnasnet"
    """`mnasnet`, `efficientnet` (MBConv only), or my_module:function of your own."""
    trials: int = 50
    """Networks to try. More may be asked of a folder later."""
    finalists: int = 3
    """Best networks to train longer with several seeds, beside the best of random search and
    stock EfficientNet-B0; 0: none, and no comparison."""
    finalist_epochs: int | None = None
    """Epochs of these trainings; by default three times `--epochs`."""
    finalist_seeds: int = 3
    """Seeds of these trainings."""
    strategy: str = "tpe"
    """`random`, `tpe`, or my_module:factory, a function of a seed that gives an Optuna sampler."""
    target_flops: OptionalNumber = None
    """T of the reward, in multiply-adds (conv + linear); by default 400M at 224 px, in proportion
    to the pixels."""
    w: float = -0.07
    """Exponent of the reward ACC * (MACs / T)^w."""
    hard: bool = False
    """MnasNet's hard variant: no reward for being below T, exponent -1 above."""
    resolution: int | None = None
    """Side of the images in px; by default their own, at most 224."""
    num_classes: int | None = None
    """Classes, for an `--evaluator`; images tell theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("trials", "finalist_epochs", "finalist_seeds", "num_classes")
        if self.finalists < 0:
            raise UserError(f"`--finalists` must not be negative, but got {self.finalists}.")

    @property
    def epochs_of_finalists(self) -> int:
        return self.finalist_epochs or 3 * self.epochs


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Settings, made definite by what they name."""

    settings: Settings
    task: "Task"
    space: Space
    reward: "Reward"
    workers: "Workers"

    @property
    def conditions(self) -> dict[str, Any]:
        """What must not change when the run goes on."""
        return {
            "command": "nas.run",
            "space": self.settings.space,
            "choices": f"{crc32(repr(self.space.choices).encode()):08x}",
            "resolution": self.task.resolution,
            "num_classes": self.task.num_classes,
            "target_macs": self.reward.target_macs,
            "w": self.settings.w,
            "hard": self.settings.hard,
            "strategy": self.settings.strategy,
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
            **self.task.conditions,
        }


def run(settings: Settings) -> int:
    """Search as `settings` say; the exit status."""
    from nas.search.record import RunFolder

    if settings.dry_run:
        _print_plan(_prepare(settings))
        return 0
    with RunFolder(settings.run_dir) as folder:  # before the images: a busy folder ends it here
        prepared = _prepare(settings)
        plan = _print_plan(prepared)
        folder.bind(prepared.conditions, asdict(settings))
        try:
            result = _search(prepared, folder.database)
        except KeyboardInterrupt:
            print(f"\n^C      saved. Resume with: {command_line('nas.run', settings)}")
            raise
        finally:
            _write_trials(folder)
        _write(folder, result, prepared.reward, plan)
        _summarize(prepared, result)
    return 0


def _prepare(settings: Settings) -> Prepared:
    from nas.search.reward import Reward
    from nas.search.strategies import load_strategy

    load_strategy(settings.strategy)
    workers = settings.where()
    task = settings.load_task(
        workers, resolution=settings.resolution, num_classes=settings.num_classes
    )
    target = settings.target_flops
    if target is None:
        target = default_target_macs(task.resolution, task.num_classes)
    reward = Reward(target, settings.w, settings.hard)  # refuses a target that no space can meet
    return Prepared(
        settings=settings,
        task=task,
        space=_load_space(settings.space, task, target),
        reward=reward,
        workers=workers,
    )


def _load_space(name: str, task: "Task", target: float) -> Space:
    from nas.search.evaluate import load_object

    if name not in SPACES and ":" not in name:
        raise UserError(
            f"`--space` must be one of {', '.join(SPACES)}, or my_module:function; got {name!r}."
        )
    factory = SPACES.get(name) or load_object(name, "--space")
    return factory(resolution=task.resolution, num_classes=task.num_classes, target_macs=target)


def _print_plan(prepared: Prepared) -> list[str]:
    """Print and return what is about to happen, and how long it takes."""
    from nas.cores import num_cores

    settings, task, workers = prepared.settings, prepared.task, prepared.workers
    space, reward = prepared.space, prepared.reward
    form = "hard" if reward.hard else f"w = {reward.w:g}"
    width = f"base width {space.base_width:g} · " if isinstance(space, FactorizedSpace) else ""
    lines = [
        *task.describe(),
        f"space   {space.name} · {len(space.choices)} choices · {width}{task.resolution} px",
        f"target  T = {format_number(reward.target_macs)} multiply-adds (conv + linear), {form}",
        f"plan    {settings.trials} trials x {settings.epochs} epochs by {settings.strategy}, "
        f"{workers.describe()} · {_estimate(prepared)}",
    ]
    cores = num_cores()
    if workers.in_process and task.training and not workers.gpus_per_trial and cores > 1:
        lines.append(
            f"hint    1 of {cores} cores is used: --workers {cores} runs that many trials at a time"
        )
    for line in lines:
        print(line, flush=True)
    return lines


def _estimate(prepared: Prepared) -> str:
    """Time for everything, from a few timed training steps of a typical network."""
    import random

    from nas.cores import limit_threads

    settings, workers = prepared.settings, prepared.workers
    limit_threads(workers.threads)
    rng = random.Random(settings.seed)
    networks = (prepared.space.decode(sample(prepared.space, rng)) for _ in range(9))
    typical = sorted(networks, key=lambda a: count(a).macs)[4]
    seconds = prepared.task.seconds_per_epoch(typical)
    if seconds is None:
        return "time known after the first trials"
    seconds *= 1.1  # validation and start of a trial
    proxies = seconds * settings.epochs * settings.trials / workers.count
    if settings.finalists == 0:
        return f"about {format_duration(proxies)}"
    searches = 1 if settings.strategy == "random" else 2
    jobs = settings.finalist_seeds * (searches * settings.finalists + 1)
    finals = seconds * settings.epochs_of_finalists * jobs / workers.count
    control = 0.0 if settings.strategy == "random" else proxies
    return (
        f"about {format_duration(proxies + control + finals)} (search {format_duration(proxies)}"
        f", random search {format_duration(control)}, finalists {format_duration(finals)})"
    )


def _search(prepared: Prepared, database: Path) -> "SearchResult":
    from nas.search.baseline import Fidelity, TrialRunner, search

    settings, task = prepared.settings, prepared.task
    runner = TrialRunner(
        database,
        task.evaluator,
        prepared.reward,
        prepared.workers,
        probe=task.reference is not None,
    )
    return search(
        runner,
        prepared.space,
        prepared.reward,
        strategy=settings.strategy,
        trials=settings.trials,
        epochs=settings.epochs,
        seed=settings.seed,
        fidelity=Fidelity(
            finalists=settings.finalists,
            epochs=settings.epochs_of_finalists,
            seeds=settings.finalist_seeds,
        ),
        announce=lambda line: print(line, flush=True),
    )


def _write_trials(folder: "RunFolder") -> None:
    """The tables of the record as it stands, finished or not."""
    from nas.search.record import Record
    from nas.search.report import trials_frame

    for study, file in (("search", "trials.csv"), ("random", "random.csv")):
        record = Record.open(folder.database, study)
        if record is not None:
            if trials := record.trials():
                folder.write(file, trials_frame(trials).to_csv(index=False))
            record.close()


def _write(folder: "RunFolder", result: "SearchResult", reward: "Reward", plan: list[str]) -> None:
    from nas.search.report import finalists_frame, markdown, pareto_plot

    folder.write("baseline.json", result.baseline.to_json())
    if result.finalists:
        folder.write("finalists.csv", finalists_frame(result.finalists).to_csv(index=False))
    for i, network in enumerate(result.finalists):
        name = f"{network.origin.replace(' ', '-').lower()}-{i}.json"
        folder.write(f"finalists/{name}", network.architecture.to_json())
    folder.write("pareto.png", pareto_plot(result, reward.target_macs))
    folder.write("report.md", markdown(result, plan))


def _summarize(prepared: Prepared, result: "SearchResult") -> None:
    from nas.search.report import verdict

    settings, task = prepared.settings, prepared.task
    best = max(
        (r.outcome.accuracy for r in result.search if r.outcome.accuracy is not None), default=0.0
    )
    if task.training and best <= task.majority + 0.02:
        print(
            f"WARNING no trial is better than the largest class ({task.majority:.1%}): these "
            "networks have learnt nothing. Train longer (--epochs), or look at the data."
        )
    cost = count(result.baseline)
    measured = next((n for n in result.finalists if n.architecture == result.baseline), None)
    accuracy = (
        f"accuracy {measured.accuracy:.3f} (mean of {len(measured.accuracies)} seeds)"
        if measured
        else "accuracy of one proxy trial only"
    )
    print(f"best    {result.baseline.name} · {accuracy}", end="")
    print(f" · {format_number(cost.macs)} multiply-adds · {format_number(cost.params)} params")
    for line in verdict(result).splitlines():
        print(f"        {line}")
    folder = settings.run_dir
    print(f"wrote   {folder}/baseline.json, trials.csv, report.md, pareto.png")
    following = command_line("scaling_search.grid", settings, only=CARRIED_OVER)
    print(f"next    {following} --baseline {shlex.quote(f'{folder}/baseline.json')}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(run, Settings, argv, prog="python -m nas.run", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
