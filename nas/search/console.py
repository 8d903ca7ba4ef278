"""What a run prints: one line a trial with the best so far and the time left."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from nas.cli import format_duration, format_number
from nas.search.study import Result, Study


class TrialLines:
    """Prints a line for every trial of a study that ends.

    Args:
        label: What the value is called, `reward` or `accuracy`.
        describe: What a trial is called, from its labels; empty: nothing but its number.
    """

    def __init__(
        self,
        label: str,
        describe: Callable[[Mapping[str, Any]], str] = lambda labels: "",
    ) -> None:
        self._label, self._describe = label, describe
        self._start = time.monotonic()
        self._best, self._finished, self._failed = -math.inf, 0, 0
        self._total = self._measured = 0

    def follow(self, study: Study) -> None:
        """Take over where `study` stands."""
        self._total = study.num_trials - study.num_finished
        self._best = max((result.value for result in study.completed), default=-math.inf)
        self._failed = study.num_finished - len(list(study.completed))

    def __call__(self, result: Result) -> None:
        self._finished += 1
        self._measured += not result.outcome.reused_from  # what is reused tells nothing of pace
        pace = (time.monotonic() - self._start) / max(1, self._measured)
        left = format_duration(pace * (self._total - self._finished))
        number = f"#{result.job.number}".rjust(5)
        if name := self._describe(result.job.proposal.labels):
            number += f"  {name}"
        if result.value is None:
            self._failed += 1
            reason = result.outcome.reason
            words = (result.outcome.detail.strip().splitlines() or [""])[-1]
            print(f"{number}  FAILED {reason}: {words[:100]} ({self._failed} so far)", flush=True)
            return
        best = result.value > self._best
        self._best = max(self._best, result.value)
        accuracy = f"acc {result.outcome.accuracy:.3f}"
        value = f"  {self._label} {result.value:.4f}" if self._label != "accuracy" else ""
        cost = f"{format_number(result.macs):>7}"
        note = f" (= {result.outcome.reused_from})" if result.outcome.reused_from else ""
        mark = "  * best" if best else ""
        seconds = f"{result.outcome.seconds:.1f} s"
        print(f"{number}  {accuracy}  {cost}{value}  {seconds}{note}  eta {left}{mark}", flush=True)
