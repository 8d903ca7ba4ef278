"""Golden numbers of `tests/golden`."""

import json
from pathlib import Path
from typing import Any


def golden(name: str) -> Any:
    """The JSON value of ``tests/golden/{name}.json``."""
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
