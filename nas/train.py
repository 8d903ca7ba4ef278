"""`python -m nas.train`: train one network on a data set, for keeps.

Writes `model.safetensors`, `model.json` (architecture, classes, preprocessing, metrics) and
`history.csv` to one folder, and a checkpoint after every epoch: the same command goes on where it
stopped, and ends with the weights of a training that was never stopped.
"""

import gc
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from nas import cli
from nas.folder import RunFolder
from nas.models.by_class import by_class, weakest
from nas.models.saved import CARD
from nas.models.trained import (
    CLASSES,
    WEIGHTS,
    Metrics,
    export_command,
    finished_training,
    report,
    split_metrics,
    write_model,
)
from nas.ram import lack_of_memory
from nas.training import checkpoint
from nas.training.job import HISTORY, Job, Trained, plan, refuse_changes, train
from nas.training.options import Settings, prepare
from nas.training.score import DivergedError
from nas.untrusted import csv_text

MAX_LOST = 2
"""How often a training goes on after one of its loader processes died."""
_NO_SHARED_MEMORY = "unable to allocate shared memory"
"""Words of torch's, in an error of no type of its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    args = sys.argv[1:] if argv is None else list(argv)
    return cli.main(
        lambda settings: run(settings, shlex.join(["python", "-m", "nas.train", *args])),
        Settings,
        args,
        prog="python -m nas.train",
        description="Train a network on a data set; resumes where it stopped.",
    )


def run(settings: Settings, command: str) -> int:
    """Train as `settings` say.

    Args:
        settings: What to train.
        command: The command line that was given; printed as the one to resume with.

    Returns:
        The exit status: 0, or 1 if the training diverged.

    Raises:
        ValueError: Something the user can put right.
    """
    try:
        if settings.dry_run:
            _show(settings)
        else:
            _run(settings, command)
    except DivergedError as error:
        print(
            f"error: the training diverged, {error}. Lower --learning-rate "
            f"({settings.learning_rate:g}), with another --out.",
            file=sys.stderr,
        )
        return 1
    return 0


def _show(settings: Settings) -> None:
    """What the same command would do without `--dry-run`, or refuse."""
    RunFolder(settings.out, "nas.train", "--out").check()
    job = prepare(settings)
    if not _is_finished(job, settings.out):
        with _lack_of_memory(job):
            plan(job, settings.out)
    print("dry run: nothing was trained or written")


def _run(settings: Settings, command: str) -> None:
    with RunFolder(settings.out, "nas.train", "--out") as folder:
        job = prepare(settings)
        if _is_finished(job, settings.out):
            return
        try:
            with _lack_of_memory(job):
                _finish(job, _train(job, folder), folder)
        except KeyboardInterrupt:
            begun = (settings.out / checkpoint.NAME).exists()
            saved = "finished epochs are saved" if begun else "no epoch was finished"
            print(f"\n^C      {saved}. Resume with: {command}")
            raise


def _lack_of_memory(job: Job) -> AbstractContextManager[None]:
    batch = job.recipe.batch(len(job.data.train))
    return lack_of_memory(
        f"Lower --batch-size ({batch}), with another --out where a training has begun, for that "
        "is another; finished epochs are kept."
    )


def _is_finished(job: Job, out: Path) -> bool:
    """Whether the folder holds this training to its end, which is then shown.

    Raises:
        UserError: It holds another.
    """
    finished = finished_training(out)
    if finished is None:
        return False
    refuse_changes(job, finished.conditions, out)
    print(f"done    {out} holds this training, finished; nothing was repeated")
    report(out, finished.metrics)
    print(f"next    {export_command(out, job.architecture)}")
    return True


def _train(job: Job, folder: RunFolder) -> Trained:
    """Train; an epoch whose loader process is killed starts again, a few times."""
    lost = 0
    while True:
        try:
            return train(job, folder)
        except RuntimeError as error:
            if _NO_SHARED_MEMORY in str(error):
                raise cli.UserError(
                    "The memory that loader processes share with this one (/dev/shm) is full. Use "
                    "fewer --loader-workers, or give a container more, as `docker run --shm-size "
                    "8g` does. The same command goes on."
                ) from error
            if not str(error).startswith("DataLoader worker (pid"):  # torch has no type for it
                raise
            lost += 1
            if lost > MAX_LOST:
                raise cli.UserError(
                    f"A loader process died {lost} times: {error} Memory may be short: use fewer "
                    "--loader-workers. The same command goes on."
                ) from error
            print(f"note    a loader process died, and its epoch starts again: {error}")
        gc.collect()  # ends the others of its loader, of which new ones would inherit what is left


def _finish(job: Job, trained: Trained, folder: RunFolder) -> None:
    """Evaluate the last weights and write the model."""
    data, out = job.data, folder.path
    metrics: Metrics = {"train_loss": trained.history[-1]["loss"]}
    classes = None
    for name, split in (("validation", data.validation), ("test", data.test)):
        found = None if split is None else job.answers(trained.network, split)
        metrics |= split_metrics(name, split, found)
        if split is not None and found is not None:
            classes = by_class(split.labels, found, data.classes)  # at last of test, if there is
    if classes is not None:
        folder.write(CLASSES, csv_text(classes))
    write_model(
        folder, trained.network, classes=data.classes, conditions=job.conditions, metrics=metrics
    )
    report(out, metrics)
    if classes is not None and (weak := weakest(classes)):
        print(f"weakest {weak}")
    files = [WEIGHTS, CARD, HISTORY, *([] if classes is None else [CLASSES])]
    print(f"wrote   {out}/{{{','.join(files)}}}")
    print(f"next    {export_command(out, job.architecture)}")


if __name__ == "__main__":
    sys.exit(main())
