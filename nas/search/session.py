"""The frame of a command with trials: plan, lock, bind, train, save whatever comes, conclude."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nas.cli import UserError, command_line, format_duration
from nas.ram import is_out_of_memory
from nas.untrusted import csv_text
from search_spaces.builder import AnyNetwork

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.search.task import Task
    from nas.workers import Workers


class Plan(Protocol):
    """A command's settings, made definite by what they name."""

    @property
    def task(self) -> "Task":
        """What trials are measured on."""
        ...

    @property
    def conditions(self) -> Mapping[str, Any]:
        """What must not change when the run goes on; the command's name is added."""
        ...

    def describe(self) -> list[str]:
        """Lines of what is about to happen, and how long it takes."""
        ...


Settings = TypeVar("Settings")
PlanT = TypeVar("PlanT", bound=Plan)
Trained = TypeVar("Trained")


def save_trials(_: Plan, folder: "RunFolder") -> None:
    """trials.csv: every trial of every study of the folder, finished or not."""
    from nas.search.report import trials_frame
    from nas.trials.record import all_records

    if not folder.database.exists():
        return
    records = all_records(folder.database)
    trials = [(record.name, trial) for record in records for trial in record.trials()]
    frame = trials_frame((trial for _, trial in trials), "value")
    frame.insert(0, "study", [study for study, _ in trials])
    folder.write("trials.csv", csv_text(frame))
    for record in records:
        record.close()


def run_session(
    module: str,
    settings: Settings,
    *,
    prepare: Callable[[Settings], PlanT],
    train: Callable[[PlanT, "RunFolder"], Trained],
    conclude: Callable[[PlanT, "RunFolder", Trained, list[str]], None],
    save: Callable[[PlanT, "RunFolder"], None] = save_trials,
    interrupted: Callable[[PlanT, "RunFolder", list[str]], None] = lambda *_: None,
    base: Callable[[PlanT], AnyNetwork | None] = lambda _: None,
) -> int:
    """Run a command in its run folder, from where an earlier process stopped; the exit status.

    Args:
        module: The command, as `python -m` names it.
        settings: Its flags, a dataclass with `run_dir` and `dry_run`.
        prepare: Loads what the settings name.
        train: Runs the trials; what is finished is kept, however it ends.
        conclude: Writes and prints what came out, with the plan's lines for the report.
        save: Writes the tables of the record as it stands, also when `train` raises.
        interrupted: Writes and prints what the trials so far say, at Ctrl-C.
        base: The network that is scaled, if one is.

    Raises:
        ValueError: The settings cannot be used, the folder was started under other conditions, or
            its record is damaged.
        KeyboardInterrupt: Everything is saved, and the way to go on printed.
    """
    from nas.folder import RunFolder
    from nas.trials.audit import check_record

    flags: Any = settings
    if flags.dry_run:
        plan = prepare(settings)
        folder = RunFolder(flags.run_dir, module)
        check_record(folder.database, base(plan))
        folder.compare(_conditions(module, plan))
        _show(plan)
        return 0
    # Before the images: a busy folder ends it here.
    with RunFolder(flags.run_dir, module) as folder:
        plan = prepare(settings)
        check_record(folder.database, base(plan))
        folder.compare(_conditions(module, plan))
        lines = _show(plan)  # of what the folder has too, and so not before it was looked at
        folder.bind(_conditions(module, plan), asdict(flags), plan.task.engine)
        if plan.task.skipped:
            folder.write("skipped.txt", "\n".join(plan.task.skipped) + "\n")
        try:
            trained = train(plan, folder)
        except KeyboardInterrupt:
            interrupted(plan, folder, lines)
            print(f"\n^C      saved. Resume with: {command_line(module, settings)}")
            raise
        finally:
            _save(save, plan, folder, lines)
        conclude(plan, folder, trained, lines)
    return 0


def _conditions(module: str, plan: Plan) -> dict[str, Any]:
    return {"command": module, **plan.conditions}


def _save(
    save: Callable[[PlanT, "RunFolder"], None], plan: PlanT, folder: "RunFolder", lines: list[str]
) -> None:
    """Save, and say what failed; where saving fails after another error, that one is what the user
    has to know."""
    from nas.trials.failures import save_failures

    ended = sys.exc_info()[1]
    try:
        if not folder.database.exists():  # SQLite writes on, to a file that has no name any more
            raise UserError(
                f"{folder.database} was deleted while the command ran, and its trials with it. "
                "The same command starts again."
            )
        save(plan, folder)
        for line in save_failures(folder):
            print(line, flush=True)
            lines.append(line)
    except (OSError, ValueError):
        if ended is None:
            raise


def estimate(
    task: "Task",
    workers: "Workers",
    trainings: Iterable[tuple[AnyNetwork, int]],
    *,
    studies: int = 0,
) -> float | None:
    """Seconds for trainings of (network, epochs), from a few timed steps of each network.

    None where there is no telling, as with a user's evaluator, or a GPU's memory is short.

    Args:
        task: What is trained.
        workers: How many train at a time.
        trainings: Each network with its epochs in all.
        studies: For so many the start of the workers is counted.
    """
    total = seconds_of_starts(workers, studies)
    for architecture, epochs in trainings:
        seconds_of = timed(task, workers, architecture)
        if seconds_of is None:
            return None
        total += seconds_of(epochs) / workers.count
    return total


def timed(
    task: "Task", workers: "Workers", architecture: AnyNetwork
) -> Callable[[float], float] | None:
    """Seconds that a trial of so many epochs takes one worker, by `Task.seconds_of`; None as for
    `estimate`."""
    from nas.cores import limit_threads

    limit_threads(workers.threads)
    try:
        seconds_of = task.seconds_of(architecture)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise  # short of memory, a trial takes half the batch
        return None
    if seconds_of is None:
        return None
    return lambda epochs: workers.crowding * seconds_of(epochs)


_RAY_SECONDS, _WORKERS_SECONDS = 5.0, 6.0
"""What Ray takes to start, and what the workers of each study do: Python, torch, images. With cores
to spare; where others had as much work for the two cores, two workers began the first study after
23 s and each further one after 7 to 14 s (2026-11-21, digits)."""


def seconds_of_starts(workers: "Workers", studies: int) -> float:
    """Seconds that so many studies take before their first trials begin."""
    if workers.in_process or not studies:
        return 0.0
    return _RAY_SECONDS + _WORKERS_SECONDS * studies


def about(seconds: float | None) -> str:
    """An estimate for people."""
    if seconds is None:
        return "no estimate before the first trials"
    return f"about {format_duration(seconds)}"


def lasting(plan: Iterable[str]) -> list[str]:
    """The lines of a plan that a report keeps: a run that was interrupted ends with the report of
    one that was not."""
    return [line for line in plan if not line.startswith(("time ", "left ", "hint "))]


def _show(plan: Plan) -> list[str]:
    lines = plan.describe()
    for line in lines:
        print(line, flush=True)
    return lines
