"""Runs the jobs of a study on Ray Tune; only this and `nas.trials.ray_session` know Ray.

Tune places trials on workers and GPUs. What to try, what came out and what is tried again stay with
the study, which Tune asks and tells through a searcher.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.cores import limit_threads
from nas.interrupts import held_back
from nas.trials import limits, ray_session
from nas.trials.evaluate import Evaluator, HalvingEvaluator, Outcome, stages
from nas.trials.losses import Losses
from nas.trials.ray_session import RaySession
from nas.trials.study import Study
from nas.trials.trial import Job
from nas.workers import Workers
from search_spaces.builder import network_from_json

_CHECK_SECONDS = 3.0
"""How often to look if there still is a machine that can run a trial."""

_TUNE_SETTINGS = {
    # Ctrl-C must reach us: Tune's own handler makes `fit` return as if the search were complete.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # no GPU asked, no GPU seen
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output engine ignores `verbose=0`
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean to the user
    # Nobody reads what Tune writes of a trial (JSON, CSV, TensorBoard with four fsyncs) and of them
    # all every ten seconds: the study has its own record, and Tune's folder is deleted.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    # Ray learns of a lost machine later (15 s) than of a lost connection to a worker on it. It is
    # to wait until then: by default it calls the worker unavailable before.
    "RAY_timeout_ms_task_wait_for_death_info": "60000",
}
"""Read by Ray from the environment."""


def execute_on_ray(study: Study, evaluator: Evaluator, workers: Workers) -> None:
    """Run jobs until the study has none left; as `nas.trials.execution.execute`."""
    os.environ.update(_TUNE_SETTINGS)
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in our record
    folder = tempfile.TemporaryDirectory(prefix="ray-tune-", ignore_cleanup_errors=True)
    with held_back() as hand_over, folder as storage:
        session = ray_session.start(workers)
        ray_session.let_tune_survive_losses()
        bridge = _Bridge(study, evaluator, session, hand_over)
        tuner = tune.Tuner(
            _trainable(evaluator, workers),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(bridge),
                num_samples=-1,
                max_concurrent_trials=workers.count,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[_callback(bridge)],
                stop=_stopper(bridge),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if bridge.failure is not None:
        raise bridge.failure
    if study.num_running:
        raise RuntimeError("Ray Tune returned while jobs were running.")


class _Bridge:
    """What Tune's events mean to a study of ours, which keeps the record itself."""

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        session: RaySession,
        hand_over: Callable[[], None],
    ) -> None:
        self.study, self.hand_over, self._session = study, hand_over, session
        self._can_halve = isinstance(evaluator, HalvingEvaluator)
        self._next_check = 0.0
        self._jobs: dict[str, Job] = {}
        self._stopped: set[str] = set()
        self._started: dict[str, float] = {}
        self._losses = Losses()
        self.failure: Exception | None = None
        """The first error of the study. Tune would wrap it in pages of its own traceback."""

    def ask(self, trial_id: str) -> Job | None:
        """The study's next job, as this trial of Tune's."""
        job = self._guarded(self.study.ask)
        if job is not None:
            self._jobs[trial_id] = job
        return job

    def limit(self, job: Job) -> float | None:
        """Seconds that it may take."""
        return self._session.workers.limit(job.proposal.epochs)

    def begin(self, trial_id: str) -> None:
        """A worker has the job."""
        self._started[trial_id] = time.monotonic()

    def report(self, trial_id: str, outcome: Outcome) -> bool:
        """Take the outcome at a rung; whether the trial is to stop there."""
        job = self._jobs[trial_id]
        if self._guarded(lambda: self.study.report(job, outcome)):
            self._stopped.add(trial_id)
        return trial_id in self._stopped

    def end(self, trial_id: str, outcome: Outcome) -> None:
        """Take the last outcome, if it is one: Tune also ends trials between two rungs, when it
        gives up."""
        job = self._jobs.get(trial_id)
        if job and (trial_id in self._stopped or outcome.ends(job.proposal.epochs)):
            self._tell(trial_id, outcome)

    def lose(self, trial_id: str, error_file: str | None) -> None:
        """The process of a trial died."""
        if (job := self._jobs.get(trial_id)) is not None:
            now = time.monotonic()
            seconds = now - self._started.get(trial_id, now)
            halved = job.retries.half_batch and self._can_halve
            # Tune's own `Trial.get_error` looks where this file is copied to later.
            file = Path(error_file or "")
            error = file.read_text(encoding="utf-8") if file.is_file() else ""
            outcome = self._losses.outcome(job.slot, error, seconds, self.limit(job))
            self._tell(trial_id, replace(outcome, half_batch=halved))

    def is_over(self) -> bool:
        """Whether to stop: something failed, or no machine is left that can run a trial."""
        if self.failure is None and time.monotonic() > self._next_check:
            self._next_check = time.monotonic() + _CHECK_SECONDS
            self._guarded(self._session.check)
        return self.failure is not None

    def _tell(self, trial_id: str, outcome: Outcome) -> None:
        if self.failure is None:  # else Tune is stopping what still runs
            job = self._jobs.pop(trial_id)
            self._guarded(lambda: self.study.tell(job, outcome))

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """What the call returns; None if it, or one before, failed."""
        if self.failure is not None:
            return None
        try:
            return call()
        except Exception as error:
            self.failure = error
            return None


def _searcher(bridge: _Bridge) -> Any:
    from ray.tune.search import Searcher

    class StudySearcher(Searcher):
        """Asks and tells the study."""

        def suggest(self, trial_id: str) -> Any:
            if (job := bridge.ask(trial_id)) is None:
                # A lost job may come back, so the end is only when nothing runs any more.
                waits = bridge.study.num_running and bridge.failure is None
                return None if waits else Searcher.FINISHED
            return {
                "architecture": job.proposal.architecture.to_json(),
                "epochs": job.proposal.epochs,
                "seed": job.proposal.seed,
                "rungs": list(job.rungs),
                "limit": bridge.limit(job),
                "half_batch": job.retries.half_batch,
            }

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            if not error and result and "outcome" in result:
                bridge.end(trial_id, result["outcome"])

        def save(self, checkpoint_path: str) -> None:
            """Tune's own checkpoint has nothing to keep: the study is on disk."""

        def restore(self, checkpoint_path: str) -> None:
            raise NotImplementedError("A study resumes from its record, not through Ray Tune.")

        def __deepcopy__(self, _: Any) -> "StudySearcher":
            return self

        def __reduce__(self) -> Any:
            return str, ()  # Tune pickles its searcher for a restore that we do not use

    return StudySearcher()


def _callback(bridge: _Bridge) -> Any:
    from ray.tune import Callback

    class Events(Callback):
        """Passes on what happens to trials."""

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            bridge.hand_over()  # raised anywhere else, Tune and Ray make other errors of it

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            bridge.begin(trial.trial_id)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            bridge.lose(trial.trial_id, trial.error_file)

        def __reduce__(self) -> Any:
            return str, ()

    return Events()


def _stopper(bridge: _Bridge) -> Any:
    from ray.tune.stopper import Stopper

    class AtRungs(Stopper):
        """Stops trials at rungs, and all of them when there is no going on."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return not result["done"] and bridge.report(trial_id, result["outcome"])

        def stop_all(self) -> bool:
            return bridge.is_over()

        def __reduce__(self) -> Any:
            return str, ()

    return AtRungs()


def _trainable(evaluator: Evaluator, workers: Workers) -> Any:
    """What a worker runs, and with what."""
    from ray import tune

    trainable = tune.with_parameters(
        _worker(),
        evaluator=evaluator,
        threads=workers.threads,
        cwd=os.getcwd(),
        grace=limits.GRACE_SECONDS,
    )
    return tune.with_resources(trainable, {"cpu": workers.threads, "gpu": workers.gpus_per_trial})


def _worker() -> Any:
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
            self._spent = 0.0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            self._outcomes = None  # a training that was stopped at a rung ends here
            self._spent = 0.0
            return True

        def step(self) -> dict[str, Any]:
            import torch

            torch.set_num_threads(self._threads)
            limit = self.config["limit"]
            if self._outcomes is None:
                self._outcomes = self._begin(limit)
            with limits.ends_process(None if limit is None else limit - self._spent + self._grace):
                outcome = next(self._outcomes)
            self._spent = outcome.seconds
            return {"outcome": outcome, "done": outcome.ends(self.config["epochs"])}

        def _begin(self, limit: float | None) -> Iterator[Outcome]:
            return stages(
                self._evaluator,
                network_from_json(self.config["architecture"]),
                epochs=self.config["epochs"],
                seed=self.config["seed"],
                rungs=self.config["rungs"],
                limit=limit,
                half_batch=self.config["half_batch"],
            )

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

    return Worker
