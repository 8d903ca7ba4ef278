"""Runs the jobs of a study: in this process, or on workers of Ray Tune."""

from nas.cores import limit_threads
from nas.interrupts import held_back
from nas.trials.evaluate import Evaluator, stages
from nas.trials.record import RecordError
from nas.trials.study import Study
from nas.trials.trial import Job
from nas.workers import Workers, check_gpus

CHEAP_SECONDS = 0.1
"""An evaluator faster than this gains nothing from workers and stays in the process."""


def execute(study: Study, evaluator: Evaluator, workers: Workers, *, probe: bool = False) -> None:
    """Run jobs until the study has none left.

    Args:
        study: Asked and told.
        evaluator: Called as in `nas.trials.evaluate`; each worker gets it once.
        workers: How many jobs run at a time, and with what.
        probe: Whether the first job runs in the process, to see if the evaluator is so cheap
            that the others should too.

    Raises:
        UserError: The resources are not there, too many trials fail, or the record cannot be
            written.
        KeyboardInterrupt: After the running jobs were marked as interrupted.
    """
    try:
        if workers.in_process or (probe and _is_cheap(study, evaluator, workers)):
            _execute_in_process(study, evaluator, workers)
        elif study.num_finished < study.num_trials:
            from nas.trials.ray_tune import execute_on_ray

            execute_on_ray(study, evaluator, workers)
    except RecordError:
        raise  # nothing can be written; the next start finds what was running
    except BaseException:
        study.interrupt()
        raise


def _is_cheap(study: Study, evaluator: Evaluator, workers: Workers) -> bool:
    """Whether workers gain nothing; by what was measured before, or else by a job run here."""
    if workers.gpus_per_trial > 0:
        return False
    limit_threads(workers.threads)
    while study.measured_seconds is None and (job := _ask(study)) is not None:
        run_job(study, job, evaluator, workers.limit(job.proposal.epochs))
    return (study.measured_seconds or 0.0) < CHEAP_SECONDS


def _execute_in_process(study: Study, evaluator: Evaluator, workers: Workers) -> None:
    if workers.gpus_per_trial > 0:
        import torch

        check_gpus(workers, torch.cuda.device_count(), "this process")
    limit_threads(workers.threads)
    while (job := _ask(study)) is not None:
        run_job(study, job, evaluator, workers.limit(job.proposal.epochs))


def run_job(study: Study, job: Job, evaluator: Evaluator, limit: float | None = None) -> None:
    """Measure a job's network, and tell the study; at every rung it may stop it.

    After `limit` seconds the job fails, if it can be interrupted.
    """
    proposal = job.proposal
    outcomes = stages(
        evaluator,
        proposal.architecture,
        epochs=proposal.epochs,
        seed=proposal.seed,
        rungs=job.rungs,
        limit=limit,
        half_batch=job.retries.half_batch,
    )
    for outcome in outcomes:
        with held_back():
            if outcome.ends(proposal.epochs) or study.report(job, outcome):
                study.tell(job, outcome)
                return


def _ask(study: Study) -> Job | None:
    with held_back():
        return study.ask()
