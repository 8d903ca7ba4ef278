"""Where accuracy comes from: any callable ``f(architecture, *, epochs, seed) -> accuracy``.

Proxy training, a lookup table and the user's own function stand in the same place. One that can
tell of a training on the way has a method `stages`; the others are called once for every rung.
"""

import gc
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from nas.ram import is_out_of_memory
from nas.trials.limits import TrialTimeoutError, time_limit
from search_spaces.builder import AnyNetwork

Reason = Literal[
    "", "pruned", "nan", "oom", "timeout", "error", "worker-lost", "orphaned", "interrupted"
]

_KEPT = 20_000
"""Characters of an error that are kept of its beginning, and of its end."""


class Evaluator(Protocol):
    """Measures a network; deterministic for a given seed where that can be had.

    The network is an `Architecture`, or a `BuiltNetwork` where a user's own builder is scaled: an
    evaluator may be written for one of them.
    """

    def __call__(self, architecture: Any, *, epochs: int, seed: int) -> float:
        """Accuracy in [0, 1] after `epochs` of training from `seed`."""
        ...


@runtime_checkable
class StagedEvaluator(Protocol):
    """An evaluator that measures on the way, in one training."""

    def stages(
        self, architecture: Any, *, epochs: int, seed: int, rungs: Sequence[int]
    ) -> Iterator[float]:
        """Accuracy at each of the rungs of a training of `epochs`.

        Args:
            architecture: The network.
            epochs: Of the whole training: a schedule may depend on them.
            seed: Of the training.
            rungs: Rising numbers of epochs; the last is `epochs`, and its accuracy is what a
                call of the evaluator returns.
        """
        ...


@runtime_checkable
class HalvingEvaluator(Protocol):
    """An evaluator that can do with less memory."""

    def at_half_batch(self) -> Evaluator:
        """One that trains with half as many images a step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial ended."""

    accuracy: float | None = None
    """In [0, 1]; None if the trial failed. After fewer epochs if it was stopped early."""
    epochs: int = 0
    """To the last rung that was reached; of a trial that was not stopped, all of them."""
    seconds: float = 0.0
    """Wall-clock time, from a monotonic clock."""
    reason: Reason = ""
    """Why it failed, or `pruned` for one that was stopped early."""
    detail: str = ""
    """The error's own words, traceback included."""
    machine_lost: bool = False
    """Whether the machine was lost that it ran on."""
    half_batch: bool = False
    """Whether it trained with half the batch, after memory ran out in an attempt before."""
    reused_from: str = ""
    """Study and trial that had measured the same network, epochs and seed already."""

    @property
    def last_words(self) -> str:
        """The last line of `detail`: what a traceback comes to."""
        return (self.detail.strip().splitlines() or [""])[-1]

    def ends(self, epochs: int) -> bool:
        """Whether a trial of `epochs` is over with this, rather than at a rung on the way."""
        return bool(self.reason) or self.epochs >= epochs


def measure(evaluator: Evaluator, architecture: AnyNetwork, *, epochs: int, seed: int) -> Outcome:
    """Call the evaluator; failures come back as an `Outcome` with a reason."""
    return next(stages(evaluator, architecture, epochs=epochs, seed=seed, rungs=(epochs,)))


def stages(
    evaluator: Evaluator,
    architecture: AnyNetwork,
    *,
    epochs: int,
    seed: int,
    rungs: Sequence[int],
    limit: float | None = None,
    half_batch: bool = False,
) -> Iterator[Outcome]:
    """What comes out at each rung, the last of which is `epochs`; ends early with a failure.

    The trial may be dropped between two rungs. Seconds are those spent so far in the evaluator; a
    trial for which they reach `limit` fails. Half the batch is for evaluators that can have it;
    the others are called as they are.
    """
    half_batch = half_batch and isinstance(evaluator, HalvingEvaluator)
    accuracies = _accuracies(
        evaluator, architecture, epochs=epochs, seed=seed, rungs=rungs, half_batch=half_batch
    )
    seconds, reached = 0.0, 0
    for rung in rungs:
        start = time.monotonic()
        outcome = _stage(accuracies, limit, seconds)
        seconds += time.monotonic() - start
        reached = reached if outcome.reason else rung
        if outcome.reason == "oom":
            _free_memory()
        outcome = replace(outcome, epochs=reached, half_batch=half_batch)
        yield replace(outcome, seconds=round(seconds, 4))
        if outcome.reason:
            return


def _accuracies(
    evaluator: Evaluator,
    architecture: AnyNetwork,
    *,
    epochs: int,
    seed: int,
    rungs: Sequence[int],
    half_batch: bool,
) -> Iterator[float]:
    """A generator, so that all of it runs where failures are caught."""
    if half_batch and isinstance(evaluator, HalvingEvaluator):
        evaluator = evaluator.at_half_batch()
    if len(rungs) > 1 and isinstance(evaluator, StagedEvaluator):
        yield from evaluator.stages(architecture, epochs=epochs, seed=seed, rungs=rungs)
    else:
        for rung in rungs:
            yield evaluator(architecture, epochs=rung, seed=seed)


def _free_memory() -> None:
    """Give back what a failed training held, which else the next may lack."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _stage(accuracies: Iterator[float], limit: float | None, spent: float) -> Outcome:
    try:
        with _contained(), time_limit(None if limit is None else limit - spent):
            accuracy = float(next(accuracies))
    except TrialTimeoutError:
        return timed_out(limit or 0.0, traceback.format_exc(limit=-8))
    except StopIteration:
        message = "The evaluator's `stages` ended before its last rung."
        return Outcome(reason="error", detail=message)
    except (Exception, SystemExit) as error:  # `sys.exit(0)` would pass for a search that is done
        return Outcome(reason=_reason(error), detail=_both_ends(traceback.format_exc(limit=-8)))
    if math.isnan(accuracy):
        return Outcome(reason="nan", detail="The evaluator returned NaN.")
    if not 0 <= accuracy <= 1:
        message = f"An evaluator returns accuracy in [0, 1], but this one returned {accuracy}."
        return Outcome(reason="error", detail=message)
    return Outcome(accuracy=accuracy)


@contextmanager
def _contained() -> Iterator[None]:
    """Put the working directory back, which relative paths such as the run folder's mean; and end
    a fork that comes back, which would go on with the search beside us."""
    process = os.getpid()
    try:
        with chdir("."):
            yield
    finally:
        if os.getpid() != process:
            os._exit(1)


def timed_out(limit: float, where: str) -> Outcome:
    """A trial that took longer than `limit` seconds; `where` it was then."""
    rule = f"It took longer than {limit:.3g} s, the limit of a trial. Raise --trial-minutes."
    return Outcome(reason="timeout", detail=f"{where.rstrip()}\n{rule}".lstrip())


def _both_ends(text: str) -> str:
    """A message may hold a whole tensor in words; every one of them is kept in the record."""
    if len(text) <= 2 * _KEPT:
        return text
    return f"{text[:_KEPT]}\n[{len(text) - 2 * _KEPT:,} characters]\n{text[-_KEPT:]}"


def _reason(error: BaseException) -> Reason:
    if type(error).__name__ == "DivergedError":
        return "nan"
    if is_out_of_memory(error):
        return "oom"
    return "error"
