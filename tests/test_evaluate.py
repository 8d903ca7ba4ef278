"""Calling an evaluator: what counts as accuracy, and what becomes of everything else."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.cli import UserError, load_function
from nas.training.score import DivergedError
from nas.trials.evaluate import measure, stages
from search_spaces.architecture import Architecture
from tests.searching import accuracy, network

NETWORK = network(8)


def _outcome(answer: Any) -> Any:
    def evaluator(architecture: Architecture, *, epochs: int, seed: int) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return measure(evaluator, NETWORK, epochs=1, seed=0)


@pytest.mark.parametrize(
    "answer", [0.5, 0, 1, np.float32(0.5), torch.tensor(0.5)], ids=lambda a: type(a).__name__
)
def test_any_number_from_0_to_1_is_an_accuracy(answer: Any) -> None:
    outcome = _outcome(answer)
    assert outcome.accuracy == float(answer)
    assert (outcome.reason, outcome.detail) == ("", "")
    assert outcome.seconds >= 0


def test_the_evaluator_is_told_network_epochs_and_seed() -> None:
    seen = []

    def evaluator(architecture: Architecture, *, epochs: int, seed: int) -> float:
        seen.append((architecture, epochs, seed))
        return 0.5

    measure(evaluator, NETWORK, epochs=7, seed=3)
    assert seen == [(NETWORK, 7, 3)]


@pytest.mark.parametrize("answer", [math.nan, DivergedError("nan loss at step 31")])
def test_what_diverged_is_nan(answer: Any) -> None:
    outcome = _outcome(answer)
    assert (outcome.accuracy, outcome.reason) == (None, "nan")
    assert outcome.detail


@pytest.mark.parametrize("answer", [1.01, -0.1, math.inf, 93.5])
def test_a_number_that_is_no_accuracy_is_refused(answer: float) -> None:
    outcome = _outcome(answer)
    assert (outcome.accuracy, outcome.reason) == (None, "error")
    assert outcome.detail == (
        f"An evaluator returns accuracy in [0, 1], but this one returned {answer}."
    )


@pytest.mark.parametrize("answer", [None, "high", ValueError("my own words"), KeyError("x")])
def test_an_exception_comes_back_with_its_traceback(answer: Any) -> None:
    outcome = _outcome(answer)
    assert (outcome.accuracy, outcome.reason) == (None, "error")
    assert "Traceback" in outcome.detail


@pytest.mark.parametrize("answer", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_lack_of_memory_has_its_own_reason(answer: BaseException) -> None:
    assert _outcome(answer).reason == "oom"


def test_row_4_memory_that_torch_asks_of_the_machine_in_vain_has_it_too() -> None:
    def evaluator(architecture: Any, *, epochs: int, seed: int) -> float:
        return float(torch.empty(10**15)[0])

    outcome = measure(evaluator, NETWORK, epochs=1, seed=0)
    assert outcome.reason == "oom"


def test_who_wants_to_stop_is_let_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        _outcome(KeyboardInterrupt())


@pytest.mark.parametrize("status", [0, 3])
def test_an_evaluator_that_exits_failed(status: int) -> None:
    """Let through, the status 0 would be that of a command that did its work."""
    outcome = _outcome(SystemExit(status))
    assert (outcome.reason, outcome.last_words) == ("error", f"SystemExit: {status}")


def test_objects_are_found_by_name() -> None:
    assert load_function("tests.searching:accuracy", "--evaluator") is accuracy


@pytest.mark.parametrize("reference", ["module", ":f", "module:", ""])
def test_a_reference_has_two_parts(reference: str) -> None:
    with pytest.raises(UserError, match="`--x` must have the form my_module:function, but got"):
        load_function(reference, "--x")


def test_a_module_or_name_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="`--x no_such_module:f` does not import: No module named"):
        load_function("no_such_module:f", "--x")
    with pytest.raises(UserError, match=r"`--x`: module tests.searching has no 'no_such_name'"):
        load_function("tests.searching:no_such_name", "--x")


def test_the_working_directory_is_searched(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "in_the_working_directory.py").write_text("def f(): return 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_function("in_the_working_directory:f", "--x")() == 42


def test_an_error_inside_the_module_is_shown_as_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "with_a_mistake.py").write_text("import math\nmath.no_such_function\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="no_such_function"):
        load_function("with_a_mistake:f", "--x")


# On the way


class _Staged:
    """Gives these values in turn, whatever the rungs; exceptions are raised."""

    def __init__(self, *answers: Any) -> None:
        self._answers = answers

    def __call__(self, architecture: Architecture, *, epochs: int, seed: int) -> float:
        return 0.125

    def stages(self, architecture: Architecture, *, epochs: int, seed: int, rungs: Any) -> Any:
        for answer in self._answers:
            if isinstance(answer, BaseException):
                raise answer
            yield answer


def _stages(evaluator: Any, *rungs: int) -> list[Any]:
    return list(stages(evaluator, NETWORK, epochs=rungs[-1], seed=5, rungs=rungs))


def test_one_that_can_tell_on_the_way_trains_once() -> None:
    outcomes = _stages(_Staged(0.1, 0.3, 0.2), 1, 3, 6)
    assert [(o.accuracy, o.epochs, o.reason) for o in outcomes] == [
        (0.1, 1, ""),
        (0.3, 3, ""),
        (0.2, 6, ""),
    ]
    assert [o.ends(6) for o in outcomes] == [False, False, True]


def test_without_rungs_on_the_way_it_is_called() -> None:
    assert [o.accuracy for o in _stages(_Staged(), 6)] == [0.125]
    assert measure(_Staged(), NETWORK, epochs=6, seed=0).epochs == 6


def test_any_other_is_called_for_every_rung() -> None:
    seen = []

    def evaluator(architecture: Architecture, *, epochs: int, seed: int) -> float:
        seen.append((epochs, seed))
        return epochs / 10

    outcomes = _stages(evaluator, 1, 3, 6)
    assert [o.accuracy for o in outcomes] == [0.1, 0.3, 0.6]
    assert seen == [(1, 5), (3, 5), (6, 5)]


def test_calls_are_made_only_when_asked_for() -> None:
    seen = []

    def evaluator(architecture: Architecture, *, epochs: int, seed: int) -> float:
        seen.append(epochs)
        return 0.5

    next(stages(evaluator, NETWORK, epochs=6, seed=0, rungs=(1, 6)))
    assert seen == [1]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (math.nan, "nan"),
        (DivergedError("nan loss"), "nan"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (2.0, "error"),
        (ValueError("my own words"), "error"),
    ],
)
def test_a_failure_on_the_way_is_the_end(answer: Any, reason: str) -> None:
    first, last = _stages(_Staged(0.5, answer, 0.5), 1, 3, 6)
    assert (first.accuracy, first.reason) == (0.5, "")
    assert (last.accuracy, last.reason, last.epochs) == (None, reason, 1)
    assert last.ends(6)


def test_stages_that_end_too_early_are_an_error() -> None:
    *_, last = _stages(_Staged(0.5), 1, 3)
    assert (last.reason, last.detail) == (
        "error",
        "The evaluator's `stages` ended before its last rung.",
    )
