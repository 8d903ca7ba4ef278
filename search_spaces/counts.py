"""What is known of networks untrained, as rows of numbers: what a search compares thousands by."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields

import numpy as np

from search_spaces.architecture import Architecture, Unit, units
from search_spaces.capacity import Capacity, unit_capacity
from search_spaces.cost import Cost, unit_cost

COUNTS = tuple(field.name for kind in (Cost, Capacity) for field in fields(kind))
"""The columns: `params`, `macs`, `activations`, `channels`, `log_fan_in`."""
Row = tuple[float, ...]


def row_of(part: Iterable[Unit]) -> Row:
    """The `COUNTS` of a part of a network."""
    part = list(part)
    cost = sum(map(unit_cost, part), Cost())
    return *astuple(cost), *astuple(sum(map(unit_capacity, part), Capacity()))


def counts(networks: Iterable[Architecture]) -> np.ndarray:
    """The `COUNTS` of each, (networks, 5)."""
    return np.array([row_of(units(network)) for network in networks])


class KnownBlocks:
    """The `COUNTS` of what was seen before at one place of a network, by what they depend on."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {}
        self._rows = np.empty((0, len(COUNTS)))

    def new(self, keys: Sequence[Hashable]) -> dict[Hashable, int]:
        """The keys not seen before, and where each stands in `keys`, for one."""
        known = self._places
        return {key: i for i, key in enumerate(keys) if key not in known}

    def learn(self, rows: Mapping[Hashable, Row]) -> None:
        """The counts of what is new."""
        self._places |= zip(rows, range(len(self._rows), len(self._rows) + len(rows)), strict=True)
        self._rows = np.concatenate([self._rows, np.array(list(rows.values()))])

    def __getitem__(self, keys: Sequence[Hashable]) -> np.ndarray:
        """(keys, 5)"""
        return self._rows[[self._places[key] for key in keys]]
