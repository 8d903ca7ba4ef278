"""Timings that others disturb: taken in turn, and told as medians with their spread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Clock = Literal["wall", "cpu"]
Timed = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: a ratio or a number, and what is asked of it."""

    what: str
    value: float
    low: float
    """First quartile, or the least of a few."""
    high: float
    unit: str = ""
    target: str = ""
    """In words; empty: none."""
    detail: str = ""
    """What was measured, n included."""

    def cells(self) -> dict[str, str]:
        """For the table."""
        number = f"**{_short(self.value)}{self.unit}**"
        spread = f"{_short(self.low)}–{_short(self.high)}" if self.low != self.high else ""
        return {
            "measured": self.what,
            "value": number,
            "spread": spread,
            "target": self.target,
            "how": self.detail,
        }


def in_turn(
    runs: Mapping[str, Timed], rounds: int, *, clock: Clock = "wall", warm: int = 1
) -> dict[str, np.ndarray]:
    """Seconds of each run, `(rounds,)`, one of each a round, so that what else the machine does
    falls on all alike; `warm` rounds before are not counted."""
    timings = {name: (lambda run=run: seconds_of(run, clock)) for name, run in runs.items()}
    return timings_in_turn(timings, rounds, warm=warm)


def timings_in_turn(
    timings: Mapping[str, Callable[[], float]], rounds: int, *, warm: int = 1
) -> dict[str, np.ndarray]:
    """As `in_turn`, of runs that return their own seconds, from another process for instance."""
    seconds: dict[str, list[float]] = {name: [] for name in timings}
    for number in range(warm + rounds):
        for name, timing in timings.items():
            found = timing()
            if number >= warm:
                seconds[name].append(found)
    return {name: np.array(values) for name, values in seconds.items()}


def seconds_of(run: Timed, clock: Clock) -> float:
    """Of one run."""
    now = time.perf_counter if clock == "wall" else time.process_time
    start = now()
    run()
    return now() - start


def ratio_row(
    what: str, slow: np.ndarray, fast: np.ndarray, *, target: str = "", detail: str = ""
) -> Row:
    """How many times the speed of `slow` `fast` has, by the rounds' own ratios."""
    low, middle, high = np.quantile(slow / fast, [0.25, 0.5, 0.75])
    return Row(what=what, value=middle, low=low, high=high, target=target, detail=detail)


def number_row(
    what: str, values: np.ndarray, *, unit: str = "", target: str = "", detail: str = ""
) -> Row:
    """Median and quartiles of repeated measurements."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Row(what=what, value=middle, low=low, high=high, unit=unit, target=target, detail=detail)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
