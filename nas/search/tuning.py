"""A task made ready for this machine: the engine of its trainings, and how many at a time.

The engine is the run folder's if one was begun there, else what the flags name, else what a short
probe finds fastest (`nas.training.probe`). A cluster's machines are not this one: nothing is probed
for them, and they compute as by default.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import UserError
from nas.cores import limit_threads
from nas.costs.metrics import METRICS, typical
from nas.folder import begun_engine
from nas.ram import available_memory
from nas.search.task import Task
from nas.training.engine import DEFAULT, Choice, Engine, choose
from nas.training.recipe import MemoryFormat, Precision
from nas.workers import Workers
from search_spaces.builder import AnyNetwork

if TYPE_CHECKING:
    from nas.training.proxy import ProxyTraining


def tuned(
    task: Task,
    workers: Workers,
    networks: Sequence[AnyNetwork],
    *,
    run_dir: Path,
    precision: Precision,
    memory_format: MemoryFormat | None,
) -> tuple[Task, Workers]:
    """The task with its engine, and no more workers than memory holds.

    Args:
        task: As loaded.
        workers: As the flags have them.
        networks: Some that trials will train.
        run_dir: What is recorded there counts.
        precision: Of the flags; `auto`: not given.
        memory_format: Of the flags; None: not given.

    Raises:
        ValueError: Flags and record contradict each other, or this device cannot do as they say.
    """
    training = task.training
    if training is None:
        return task, workers
    limit_threads(workers.threads)
    recorded = begun_engine(run_dir)
    if recorded is not None:
        choice = _gone_on(recorded, training, workers, run_dir, precision, memory_format)
    else:
        choice = _chosen(training, workers, typical(networks), precision, memory_format)
    training = replace(training, engine=choice.engine)
    known = recorded is not None and recorded.source != "default"
    line = choice.describe() + (", as in its trials before" if known else "")
    task = replace(task, evaluator=training, training=training, engine=choice, engine_line=line)
    return task, _held(workers, training, networks)


def _gone_on(
    recorded: Choice,
    training: "ProxyTraining",
    workers: Workers,
    run_dir: Path,
    precision: Precision,
    memory_format: MemoryFormat | None,
) -> Choice:
    """What a folder has, made definite for this device where it is from before there was a record.

    Raises:
        UserError: The flags say otherwise, or the device cannot do that.
    """
    from nas.training.parts import TrainingError, choose_device, definite_precision

    engine = recorded.engine
    if not workers.elsewhere:
        try:
            definite = definite_precision(engine.precision, choose_device(training.device))
        except TrainingError as error:
            raise UserError(
                f"The trials of {run_dir} were trained in {engine.precision}, which this device "
                "does not have. Go on where they began, or choose a new --run-dir."
            ) from error
        engine = replace(engine, precision=definite)
    for flag, asked, used in (
        ("--precision", precision if precision != "auto" else None, engine.precision),
        ("--memory-format", memory_format, engine.memory_format),
    ):
        if asked not in (None, used):
            raise UserError(
                f"The trials of {run_dir} were trained with `{flag} {used}`, and others would not "
                f"compare; got {asked}. Leave the flag out, or choose a new --run-dir."
            )
    return replace(recorded, engine=engine)


def _chosen(
    training: "ProxyTraining",
    workers: Workers,
    network: AnyNetwork,
    precision: Precision,
    memory_format: MemoryFormat | None,
) -> Choice:
    """By the flags where they leave nothing open, else by a probe.

    Raises:
        TrainingError: The device does not have the precision.
    """
    from nas.training.parts import choose_device
    from nas.training.probe import engines, measure

    source = "default" if precision == "auto" and memory_format is None else "flags"
    if workers.elsewhere:
        memory_format = memory_format or DEFAULT.memory_format
        engine = Engine(precision=precision, memory_format=memory_format)
        return Choice(engine=engine, source=source)
    device = choose_device(training.device)
    candidates = engines(device, precision, memory_format)
    if len(candidates) == 1:
        return Choice(engine=candidates[0], source=source)
    train, recipe = training.data.train, training.recipe(1)
    return choose(measure(network, train, recipe, candidates, device=device))


def _held(workers: Workers, training: "ProxyTraining", networks: Sequence[AnyNetwork]) -> Workers:
    """As many workers as memory holds, where their number is left to us."""
    free = available_memory()
    if not workers.is_auto or workers.gpus_per_trial or free is None:
        return workers
    from nas.training.memory import training_bytes
    from nas.training.parts import autocast_dtype, choose_device

    recipe = training.recipe(1)
    try:
        needed = training_bytes(
            max(networks, key=METRICS["activations"]),
            batch_size=recipe.batch(len(training.data.train)),
            recipe=recipe,
            dtype=autocast_dtype(recipe, choose_device(training.device)),
        )
    except UserError:  # a user's network that cannot be counted
        return workers
    return workers.held_by(free, needed)
