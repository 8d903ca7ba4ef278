"""Runs the jobs of a study on Ray Tune; the one module that knows Ray.

Tune places trials on workers and GPUs. What to try, what came out and what is tried again stay with
the study, which Tune asks and tells through a searcher.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nas.cli import UserError
from nas.cores import limit_threads
from nas.interrupts import held_back
from nas.search import limits
from nas.search.evaluate import Evaluator, Outcome, stages, timed_out
from nas.search.study import Study
from nas.search.trial import Job
from nas.search.workers import Workers, check_gpus
from search_spaces.builder import network_from_json

_CHECK_SECONDS = 5.0
"""How often to look if there still is a machine that can run a trial."""
_OUT_OF_MEMORY = "running low on memory"
"""Words of Ray's that tell a worker which it killed for the memory of its node."""


def execute_on_ray(study: Study, evaluator: Evaluator, workers: Workers) -> None:
    """Run jobs until the study has none left; as `nas.search.execution.execute`."""
    # Ctrl-C must reach us: Tune's own handler makes `fit` return as if the search were complete.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"  # no GPU asked, no GPU seen
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the other output engine ignores `verbose=0`
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths mean what they mean to the user
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in our record
    with held_back() as hand_over, _ray(workers) as storage:
        resources = {"cpu": workers.threads, "gpu": workers.gpus_per_trial}
        trainable = tune.with_parameters(
            _trainable(),
            evaluator=evaluator,
            threads=workers.threads,
            cwd=os.getcwd(),
            grace=limits.GRACE_SECONDS,
        )
        bridge = _bridge(study, workers, hand_over)
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=bridge.searcher,
                num_samples=-1,
                max_concurrent_trials=workers.count,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=str(storage),
                verbose=0,
                callbacks=[bridge.callback],
                stop=bridge.stopper,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if bridge.failure:
        raise bridge.failure[0]
    if study.num_running:
        raise RuntimeError("Ray Tune returned while jobs were running.")


class _ray:
    """A Ray session of our own, or one on the cluster that the user named; never another.

    It stays up for the next study of this process and ends with the process; the folder for Ray
    Tune's own files goes when the study ends.
    """

    _current: Workers | None = None

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._folder = tempfile.TemporaryDirectory(prefix="ray-tune-", ignore_cleanup_errors=True)

    def __enter__(self) -> Path:
        import ray

        if not ray.is_initialized() or _ray._current != self._workers:
            ray.shutdown()
            with _signal_handlers_kept():
                self._start()
            _ray._current = self._workers
        try:
            check_nodes(self._workers)
        except BaseException:
            ray.shutdown()
            raise
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _start(self) -> None:
        import ray

        workers = self._workers
        is_own = workers.ray_address is None
        ray.init(
            # "local" starts a session of our own, whatever RAY_ADDRESS says.
            address="local" if is_own else workers.ray_address,
            num_cpus=workers.count * workers.threads if is_own else None,
            include_dashboard=False if is_own else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_import_paths())}},
        )


def check_nodes(workers: Workers) -> None:
    """Ray waits without a word for a resource that no machine of its has; we do not.

    Raises:
        UserError: No machine that is there now can run a job.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = ([node.get(kind, 0) for node in nodes] for kind in ("CPU", "GPU"))
    check_gpus(workers, max(gpus, default=0), "Ray")
    both = zip(cpus, gpus, strict=True)
    if not any(cpu >= workers.threads and gpu >= workers.gpus_per_trial for cpu, gpu in both):
        asked = f"{workers.threads} CPUs"
        if workers.gpus_per_trial:
            asked += f" and {workers.gpus_per_trial:g} GPU of one machine"
        raise UserError(
            f"A trial asks for {asked}, but Ray's largest machine has {max(cpus, default=0):g} "
            "CPUs. Use more --workers, for each then asks for fewer, or add a machine. What is "
            "finished is kept, and the same command goes on."
        )


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put back ours after Ray took Ctrl-C and SIGTERM of the process that starts it; on SIGTERM
    its own would end the process by SIGABRT, three seconds later."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _import_paths() -> list[str]:
    """Where this process imports from, for the user's evaluator in a worker."""
    paths = [str(Path(path or ".").resolve()) for path in ("", *sys.path)]
    return [path for path in dict.fromkeys(paths) if Path(path).is_dir()]


def _trainable() -> Any:
    from ray import tune

    class Worker(tune.Trainable):
        """Measures one network a trial, a rung a step; the process stays warm between trials."""

        def setup(
            self,
            config: dict[str, Any],
            evaluator: Any = None,
            threads: int = 1,
            cwd: str = ".",
            grace: float = 0.0,
        ) -> None:
            if Path(cwd).is_dir():  # not so on another machine
                os.chdir(cwd)
            limit_threads(threads)
            self._evaluator, self._threads, self._grace = evaluator, threads, grace
            self._outcomes: Iterator[Outcome] | None = None

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            self._outcomes = None  # a training that was stopped at a rung ends here
            return True

        def step(self) -> dict[str, Any]:
            import torch

            torch.set_num_threads(self._threads)
            limit = self.config["limit"]
            if self._outcomes is None:
                self._outcomes = stages(
                    self._evaluator,
                    network_from_json(self.config["architecture"]),
                    epochs=self.config["epochs"],
                    seed=self.config["seed"],
                    rungs=self.config["rungs"],
                    limit=limit,
                )
            with limits.ends_process(None if limit is None else limit + self._grace):
                outcome = next(self._outcomes)
            return {"outcome": outcome, "done": outcome.ends(self.config["epochs"])}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

    return Worker


def _loss(file: str | None, seconds: float, limit: float | None) -> Outcome:
    """What became of a trial whose process died after so many seconds; `file` is Ray's word."""
    # Tune's own `Trial.get_error` looks where this file is copied to later.
    error = Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else ""
    detail = f"The worker process died: {error}"
    if limit is not None and seconds > limit + limits.GRACE_SECONDS:
        return timed_out(limit, detail)  # a worker that does not listen ends itself
    if _OUT_OF_MEMORY in error:
        remedy = "The machine ran low on memory. Use fewer --workers, or a smaller --batch-size."
        return Outcome(reason="oom", detail=f"{detail.rstrip()}\n{remedy}", killed=True)
    return Outcome(reason="worker-lost", detail=detail)


class _Bridge(NamedTuple):
    """What Tune is given so that it asks and tells a study of ours."""

    searcher: Any
    callback: Any
    stopper: Any
    failure: list[Exception]
    """The first error of the study. Tune would wrap it in pages of its own traceback."""


def _bridge(study: Study, workers: Workers, hand_over: Callable[[], None]) -> _Bridge:
    """A Tune searcher and callback that ask and tell our study, which keeps the record itself."""
    from ray.tune import Callback
    from ray.tune.search import Searcher
    from ray.tune.stopper import Stopper

    jobs: dict[str, Job] = {}
    stopped: set[str] = set()
    started: dict[str, float] = {}
    failure: list[Exception] = []

    def ask() -> Job | None:
        try:
            return None if failure else study.ask()
        except Exception as error:
            failure.append(error)
            return None

    def tell(trial_id: str, outcome: Outcome) -> None:
        if failure:  # Tune is stopping what still runs
            return
        try:
            study.tell(jobs.pop(trial_id), outcome)
        except Exception as error:
            failure.append(error)

    def report(trial_id: str, outcome: Outcome) -> bool:
        try:
            return not failure and study.report(jobs[trial_id], outcome)
        except Exception as error:
            failure.append(error)
            return False

    class StudySearcher(Searcher):
        def suggest(self, trial_id: str) -> Any:
            if (job := ask()) is None:
                # A lost job may come back, so the end is only when nothing runs any more.
                return None if study.num_running and not failure else Searcher.FINISHED
            jobs[trial_id] = job
            return {
                "architecture": job.proposal.architecture.to_json(),
                "epochs": job.proposal.epochs,
                "seed": job.proposal.seed,
                "rungs": list(job.rungs),
                "limit": workers.limit(job.proposal.epochs),
            }

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            if error or not result or "outcome" not in result or trial_id not in jobs:
                return
            # Tune also ends trials between two rungs, when it gives up.
            if trial_id in stopped or result["outcome"].ends(jobs[trial_id].proposal.epochs):
                tell(trial_id, result["outcome"])

        def save(self, checkpoint_path: str) -> None:
            """Tune's own checkpoint has nothing to keep: the study is on disk."""

        def restore(self, checkpoint_path: str) -> None:
            raise NotImplementedError("A study resumes from its record, not through Ray Tune.")

        def __deepcopy__(self, _: Any) -> "StudySearcher":
            return self

        def __reduce__(self) -> Any:
            return str, ()  # Tune pickles its searcher for a restore that we do not use

    class Events(Callback):
        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            hand_over()  # raised anywhere else, Tune and Ray make other errors of it

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            started[trial.trial_id] = time.monotonic()

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            now = time.monotonic()
            seconds = now - started.get(trial.trial_id, now)
            tell(trial.trial_id, _loss(trial.error_file, seconds, trial.config["limit"]))

        def __reduce__(self) -> Any:
            return str, ()

    class AtRungs(Stopper):
        _next_check = 0.0

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            if not result["done"] and report(trial_id, result["outcome"]):
                stopped.add(trial_id)
            return trial_id in stopped

        def stop_all(self) -> bool:
            if not failure and time.monotonic() > self._next_check:
                self._next_check = time.monotonic() + _CHECK_SECONDS
                try:
                    check_nodes(workers)  # one may have gone
                except UserError as error:
                    failure.append(error)
            return bool(failure)

        def __reduce__(self) -> Any:
            return str, ()

    return _Bridge(StudySearcher(), Events(), AtRungs(), failure)
