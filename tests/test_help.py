"""The help of the commands: what a stranger reads first is short."""

from dataclasses import fields
from typing import Any

import pytest

from nas import proxy, run, train
from scaling_search import family, grid, validate


@pytest.mark.parametrize(
    "settings",
    [command.Settings for command in (run, proxy, grid, validate, family, train)],
)
def test_most_flags_of_a_command_are_in_sections(settings: Any) -> None:
    names = [field.name for field in fields(settings)]
    sections = [vars(one).get("SECTIONS", {}) for one in settings.__mro__]
    told = [name for section in sections for names in section.values() for name in names]
    assert len(set(told)) == len(told)
    assert set(told) < set(names)
    assert len(names) - len(told) <= 15
