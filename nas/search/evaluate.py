"""Where accuracy comes from: any callable ``f(architecture, *, epochs, seed) -> accuracy``.

Proxy training, a lookup table and the user's own function stand in the same place.
"""

import importlib
import math
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nas.cli import UserError
from search_spaces.architecture import Architecture

Reason = Literal["", "nan", "oom", "error", "worker-lost", "orphaned", "interrupted"]


class Evaluator(Protocol):
    """Measures a network; deterministic for a given seed where that can be had."""

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        """Accuracy in [0, 1] after `epochs` of training from `seed`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial ended."""

    accuracy: float | None = None
    """In [0, 1]; None if the trial failed."""
    seconds: float = 0.0
    """Wall-clock time, from a monotonic clock."""
    reason: Reason = ""
    """Why it failed."""
    detail: str = ""
    """The error's own words, traceback included."""
    reused_from: str = ""
    """Study and trial that had measured the same network, epochs and seed already."""


def measure(evaluator: Evaluator, architecture: Architecture, *, epochs: int, seed: int) -> Outcome:
    """Call the evaluator; failures come back as an `Outcome` with a reason."""
    start = time.monotonic()

    def outcome(**fields: Any) -> Outcome:
        return Outcome(seconds=round(time.monotonic() - start, 4), **fields)

    try:
        accuracy = float(evaluator(architecture, epochs=epochs, seed=seed))
    except Exception as error:
        return outcome(reason=_reason(error), detail=traceback.format_exc(limit=-8))
    if math.isnan(accuracy):
        return outcome(reason="nan", detail="The evaluator returned NaN.")
    if not 0 <= accuracy <= 1:
        message = f"An evaluator returns accuracy in [0, 1], but this one returned {accuracy}."
        return outcome(reason="error", detail=message)
    return outcome(accuracy=accuracy)


def load_object(reference: str, flag: str) -> Any:
    """The object that ``my_module:name`` names; the working directory is searched too.

    Raises:
        UserError: The reference has another form, or does not import.
    """
    module_name, _, attribute = reference.partition(":")
    if not (module_name and attribute):
        raise UserError(f"`{flag}` must have the form my_module:function, but got {reference!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"`{flag} {reference}` does not import: {error}.") from error
    if not hasattr(module, attribute):
        raise UserError(f"`{flag}`: module {module_name} has no {attribute!r}.")
    return getattr(module, attribute)


def _reason(error: Exception) -> Reason:
    name = type(error).__name__
    if name == "DivergedError":
        return "nan"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "oom"
    return "error"
