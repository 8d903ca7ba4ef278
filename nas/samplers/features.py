"""Networks as rows of numbers: what the surrogate model reads."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from operator import getitem
from typing import Any

import numpy as np

from nas.samplers.history import Choices

Array = np.ndarray
Costs = Callable[[Sequence[Mapping[str, Any]]], Array]
"""Choices of n networks -> their costs, (n, costs), each positive and known without measuring."""

_SAMPLE = 500
_LEAST_SPREAD = 1e-3
"""Of the logarithm of a cost: one that hardly varies must not be scaled up to rounding errors."""
_REMEMBERED = 100_000
"""Networks whose costs are kept; about 50 MB."""


class Networks:
    """Columns of numbers, one row a network."""

    def __init__(self, columns: Mapping[str, Array], num_choices: int, costs: Array) -> None:
        self._columns, self.num_choices = columns, num_choices
        self.costs = costs
        """As known, (networks, costs)."""

    def __len__(self) -> int:
        return len(self._columns["constant"])

    def __contains__(self, columns: object) -> bool:
        return columns in self._columns

    def __getitem__(self, columns: str) -> Array:
        """(networks, width)"""
        return self._columns[columns]


class Features:
    """Turns index vectors into `Networks`.

    - `one-hot`: a column an option; `options`: the same, centred.
    - `levels`: a choice among numbers is one column, the rank of the option; others stay one-hot.
    - `decisions`: means of the levels over the choices whose names end alike after the last dot
      (`block1.kernel`, `block2.kernel`, ...), for what a decision does wherever it is taken.
    - `costs`: logarithms of the known costs.

    All but `one-hot` are centred and scaled by a uniform draw from the space.
    """

    def __init__(self, choices: Choices, costs: Costs | None) -> None:
        """
        Raises:
            ValueError: `costs` gives no costs: another shape, or what is not positive and finite.
        """
        self._names, sizes = choices.names, choices.sizes
        self._options = [tuple(d.choices) for d in choices.distributions.values()]
        self._costs = costs
        self._known: dict[bytes, tuple[float, ...]] = {}
        self._offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
        self._width = sum(sizes)
        self._shares = np.repeat(1 / np.array(sizes), sizes)
        self._levels, self._decisions = self._layout()
        if costs is not None:
            rng = np.random.default_rng(0)
            sampled = np.stack([rng.integers(size, size=_SAMPLE) for size in sizes], axis=1)
            logs = np.log(self.costs(sampled))
            self._cost_mean = logs.mean(0)
            self._cost_scale = np.maximum(logs.std(0), _LEAST_SPREAD)
            low, high = np.quantile(logs[:, 0], [0.01, 0.99])
            self.log_cost_range = float(low), float(high)
            """Of the logarithm of the first cost, for nearly all of the space."""

    def __call__(self, indices: Array) -> Networks:
        """
        Args:
            indices: (networks, choices).

        Raises:
            ValueError: As `costs`.
        """
        onehot = np.zeros((len(indices), self._width))
        onehot[np.arange(len(indices))[:, None], indices + self._offsets] = 1
        centred = onehot - self._shares
        levels = centred @ self._levels
        columns = {
            "constant": np.ones((len(indices), 1)),
            "one-hot": onehot,
            "options": centred / np.sqrt(max(1e-9, (self._shares * (1 - self._shares)).sum())),
            "levels": levels / np.sqrt(len(self._names)),
        }
        if self._decisions.shape[1]:
            columns["decisions"] = levels @ self._decisions
        costs = self.costs(indices)
        if self._costs is not None:
            columns["costs"] = (np.log(costs) - self._cost_mean) / self._cost_scale
        return Networks(columns, len(self._names), costs)

    def costs(self, indices: Array) -> Array:
        """The known costs, (networks, costs); none: no columns.

        Raises:
            ValueError: They are no costs.
        """
        if self._costs is None:
            return np.ones((len(indices), 0))
        rows = np.ascontiguousarray(indices, np.int32)
        keys = [row.tobytes() for row in rows]
        if len(self._known) + len(keys) > _REMEMBERED:
            self._known.clear()
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        if new:
            values = self._computed(np.stack(list(new.values())))
            self._known |= zip(new, map(tuple, values.tolist()), strict=True)
        return np.array([self._known[key] for key in keys])

    def _computed(self, rows: Array) -> Array:
        assert self._costs is not None
        networks = [
            dict(zip(self._names, map(getitem, self._options, row), strict=True))
            for row in rows.tolist()
        ]
        values = np.asarray(self._costs(networks), float)
        if values.ndim != 2 or len(values) != len(rows) or not values.shape[1]:
            raise ValueError(
                f"`costs` must give an array (networks, costs), with a row for each of {len(rows)} "
                f"networks, but gave the shape {values.shape}."
            )
        known = next(iter(self._known.values()), values[0])
        if values.shape[1] != len(known):
            raise ValueError(
                f"`costs` must give as many costs whenever it is asked, but gave {len(known)}, "
                f"then {values.shape[1]}."
            )
        wrong = ~(np.isfinite(values) & (values > 0)).all(1)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(
                f"`costs` must be positive and finite, but are {values[first].tolist()} for "
                f"{networks[first]}. Shift or clip them."
            )
        return values

    def _layout(self) -> tuple[Array, Array]:
        """Matrices: centred one-hot -> levels, and levels -> decisions."""
        columns: list[Array] = []
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for name, options, offset in zip(self._names, self._options, self._offsets, strict=True):
            decision = name.rpartition(".")[2]
            if all(isinstance(option, Real) for option in options):
                ranks = np.argsort(np.argsort(np.array(options, float))).astype(float)
                column = np.zeros(self._width)
                column[offset : offset + len(options)] = ranks / (ranks.std() or 1)
                groups[decision, "number"].append(len(columns))
                columns.append(column)
                continue
            for option in range(len(options)):
                column = np.zeros(self._width)
                column[offset + option] = 1 / np.sqrt(max(1e-9, 1 - 1 / len(options)))
                groups[decision, repr(options[option])].append(len(columns))
                columns.append(column)
        shared = [members for members in groups.values() if len(members) > 1]
        decisions = np.zeros((len(columns), len(shared)))
        for i, members in enumerate(shared):
            decisions[members, i] = 1 / np.sqrt(len(members) * len(shared))
        return np.stack(columns, axis=1), decisions
