"""`python -m nas.run`: search a baseline network on the user's images."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nas.cli import OptionalNumber, Sections, UserError, command_line
from nas.cli import main as cli_main
from nas.cores import limit_threads
from nas.costs.reward import DEFAULT_W
from nas.search.options import CARRIED_OVER, TrialOptions
from nas.search.session import run_session
from nas.untrusted import csv_text

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.search.baseline import SearchResult
    from nas.search.plan import Plan
    from nas.supernet.evaluator import SupernetAccuracy
    from nas.trials.evaluate import Evaluator
    from nas.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Settings(TrialOptions):
    """Flags of `nas.run`."""

    SECTIONS: ClassVar[Sections] = {
        "reward": ("cost", "target_cost", "w", "hard", "pareto", "latency_batch"),
        "search": (
            "space",
            "strategy",
            "halving",
            "min_epochs",
            "reduction",
            "supernet_epochs",
            "supernet_drawn",
        ),
        "finalist": ("finalists", "finalist_epochs", "finalist_seeds"),
    }

    run_dir: Path = Path("runs/search")
    """Where the record is kept; the same command on the same folder resumes."""
    evaluator: str | None = None
    """`supernet`: the weights of all networks are trained once and shared, and trials take theirs
    from there. Or my_module:function, called as f(architecture, epochs=..., seed=...), that returns
    accuracy in [0, 1]; `--data` is not used then. By default every trial trains."""
    supernet_epochs: int = 60
    """Epochs of the one training of `--evaluator supernet`."""
    supernet_drawn: int = 2
    """Networks drawn at random for each of its steps, beside the largest and the smallest."""
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
    strategy: str = "guided"
    """`guided` (a model of accuracy, cost known), `random`, `tpe`, `nsga2`, `evolution`,
    `controller` (MnasNet's, PPO), or my_module:factory, a function of a seed that gives an Optuna
    sampler."""
    cost: Literal["macs", "params", "activations", "latency"] = "macs"
    """What a network costs, in the reward or on the front. `latency` is measured on the device
    that trials run on, and kept in latency.json of the run folder."""
    target_flops: OptionalNumber = None
    """T of the reward, in multiply-adds (conv + linear), that the space lies around; by default
    400M at 224 px, in proportion to the pixels. With `--pareto` the first command's makes the
    space, and a later command on the same folder picks the best network within another."""
    target_cost: OptionalNumber = None
    """T for another `--cost` than macs, in parameters, activations or ms; by default the median of
    the space."""
    w: float = DEFAULT_W
    """Exponent of the reward ACC * (cost / T)^w."""
    hard: bool = False
    """MnasNet's hard variant: no reward for being below T, exponent -1 above."""
    pareto: bool = False
    """No reward: search the front of accuracy against cost, with the strategies nsga2 and guided.
    The baseline is the most accurate network within the target."""
    halving: bool = False
    """Successive halving (ASHA): stop trials early that fall behind."""
    min_epochs: int = 1
    """Epochs before the first comparison of `--halving`."""
    reduction: int = 3
    """Of so many trials `--halving` lets one go on, to so many times the epochs."""
    latency_batch: int = 1
    """Images of an inference in `--cost latency`."""
    resolution: int | None = None
    """Side of the images in px; by default their own, at most 224."""
    num_classes: int | None = None
    """Classes, for an `--evaluator`; images tell theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive(
            *("trials", "finalist_epochs", "finalist_seeds", "num_classes"),
            *("min_epochs", "latency_batch", "supernet_epochs", "supernet_drawn"),
        )
        if self.finalists < 0:
            raise UserError(f"`--finalists` must not be negative, but got {self.finalists}.")
        if self.reduction < 2:
            raise UserError(f"`--reduction` must be at least 2, but got {self.reduction}.")

    @property
    def epochs_of_finalists(self) -> int:
        return self.finalist_epochs or 3 * self.epochs

    @property
    def shares_weights(self) -> bool:
        return self.evaluator == "supernet"

    @property
    def own_evaluator(self) -> str | None:
        return None if self.shares_weights else self.evaluator

    @property
    def epochs_of_trials(self) -> int:
        """Epochs that the weights of a trial were trained for."""
        return self.supernet_epochs if self.shares_weights else self.epochs

    @property
    def target(self) -> float | None:
        """T as the flags give it, in the unit of the cost."""
        return self.target_flops if self.cost == "macs" else self.target_cost


def run(settings: Settings) -> int:
    """Search as `settings` say; the exit status."""
    from nas.search.plan import prepare

    return run_session(
        "nas.run", settings, prepare=prepare, train=_search, conclude=_conclude, save=_write_trials
    )


def _search(plan: "Plan", folder: "RunFolder") -> "SearchResult":
    from nas.search.baseline import Fidelity, Trials, search
    from nas.trials.runner import TrialRunner

    settings, task = plan.settings, plan.task

    def runner(
        evaluator: "Evaluator", *, probe: bool, workers: "Workers | None" = None
    ) -> TrialRunner:
        where = workers or plan.workers
        return TrialRunner(
            folder.database,
            evaluator,
            plan.objective,
            where,
            probe=probe,
            describe=lambda labels: f"{labels['origin']:<8}" if "origin" in labels else "",
        )

    def announce(line: str) -> None:
        print(line, flush=True)

    trainings = runner(task.evaluator, probe=task.reference is not None)
    trials, shared = trainings, None
    if plan.shared is not None:
        limit_threads(plan.workers.threads)
        shared = plan.shared.train(folder.path / "supernet", announce)
        workers = plan.workers.limited_as(settings.epochs, settings.epochs_of_trials)
        # A trial may be too short for workers to gain.
        trials = runner(shared, probe=True, workers=workers)
    result = search(
        trials,
        plan.space,
        plan.objective,
        plan.selection,
        strategy=settings.strategy,
        trials=Trials(
            number=settings.trials,
            epochs=settings.epochs_of_trials,
            seed=settings.seed,
            halving=plan.halving,
        ),
        fidelity=Fidelity(
            finalists=settings.finalists,
            epochs=settings.epochs_of_finalists,
            seeds=settings.finalist_seeds,
        ),
        announce=announce,
        trainings=trainings,
    )
    if not (trainings.measured or trials.measured):
        print(f"done    {folder.path} holds this search, finished; nothing was repeated")
    if shared is not None:
        _write_shared_weights(shared, folder, result)
    return result


def _write_shared_weights(
    shared: "SupernetAccuracy", folder: "RunFolder", result: "SearchResult"
) -> None:
    """The baseline's part of the supernet, to be trained further."""
    from search_spaces.weights import weights_bytes

    path = folder.write("baseline.safetensors", weights_bytes(shared.network(result.baseline)))
    print(f"shared  {path} has the baseline's shared weights, for nas.train --init-weights")


def _write_trials(plan: "Plan", folder: "RunFolder") -> None:
    """The tables of the record as it stands, finished or not."""
    from nas.search.report import trials_frame
    from nas.trials.record import Record

    value = None if plan.settings.pareto else "reward"
    for study, file in (("search", "trials.csv"), ("random", "random.csv")):
        record = Record.open(folder.database, study)
        if record is not None:
            if trials := record.trials():
                folder.write(file, csv_text(trials_frame(trials, value)))
            record.close()


def _conclude(plan: "Plan", folder: "RunFolder", result: "SearchResult", lines: list[str]) -> None:
    """Write and print what came out."""
    _write(plan, folder, result, lines)
    _summarize(plan, result)


def _write(plan: "Plan", folder: "RunFolder", result: "SearchResult", lines: list[str]) -> None:
    from nas.search.markdown import markdown
    from nas.search.plot import pareto_plot
    from nas.search.report import finalists_frame, front_frame

    objective = plan.objective
    folder.write("baseline.json", result.baseline.to_json())
    if result.finalists:
        frame = finalists_frame(result.finalists, objective)
        folder.write("finalists.csv", csv_text(frame))
    for i, network in enumerate(result.finalists):
        name = f"{network.origin.replace(' ', '-').lower()}-{i}.json"
        folder.write(f"finalists/{name}", network.architecture.to_json())
    if plan.settings.pareto:
        folder.write("pareto.csv", csv_text(front_frame(result, objective)))
    folder.write("pareto.png", pareto_plot(result, plan.target, plan.metric))
    folder.write("report.md", markdown(result, lines, objective, plan.target))


def _summarize(plan: "Plan", result: "SearchResult") -> None:
    from nas.search.markdown import headline
    from nas.search.report import front_table, verdict

    settings, task = plan.settings, plan.task
    best = max((r.outcome.accuracy or 0.0 for r in result.search if not r.pruned), default=0.0)
    if task.training and best <= task.majority + 0.02:
        print(
            f"WARNING no trial is better than the largest class ({task.majority:.1%}): these "
            "networks have learnt nothing. Train longer (--epochs), or look at the data."
        )
    if settings.pareto:
        print(f"\n{front_table(result, plan.objective)}\n")
    print(f"best    {headline(result, plan.objective)}")
    for line in verdict(result, plan.objective, plan.target).splitlines():
        print(f"        {line}")
    folder = settings.run_dir
    tables = "trials.csv, pareto.csv" if settings.pareto else "trials.csv"
    print(f"wrote   {folder}/baseline.json, {tables}, report.md, pareto.png")
    if settings.pareto:
        flag = "--target-flops" if settings.cost == "macs" else "--target-cost"
        print(f"pick    the same command with another {flag} picks another baseline of the front")
    print(f"next    {_next_command(settings)}")


_FOR_THE_GRID = (*CARRIED_OVER, "epochs", "cost", "latency_batch")


def _next_command(settings: Settings) -> str:
    """The grid of the baseline, on the same images, with trainings of the same kind."""
    carried = replace(settings, evaluator=settings.own_evaluator)
    words = ["--baseline", f"{settings.run_dir}/baseline.json"]
    words += ["--run-dir", f"{settings.run_dir}/grid"]
    command = command_line("scaling_search.grid", carried, only=_FOR_THE_GRID)
    return f"{command} {shlex.join(words)}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    return cli_main(run, Settings, argv, prog="python -m nas.run", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
