"""Settings that every test runs under."""

from pathlib import Path

import hypothesis
import pytest
import torch

from tests.grid_evaluators import TINY

# Time per example says nothing on a shared machine.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors on few cores: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """The file of the network that the grid's tests scale."""
    file = tmp_path / "tiny.json"
    file.write_text(TINY.to_json())
    return file


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file where the evaluator notes its calls."""
    file = tmp_path / "calls"
    file.touch()
    monkeypatch.setenv("GRID_CALLS", str(file))
    return file
