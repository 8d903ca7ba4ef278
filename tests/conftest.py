"""Settings that every test runs under."""

from pathlib import Path

import hypothesis
import pytest
import torch

from nas.cores import num_cores
from nas.ram import available_memory
from nas.train import main as train
from tests.grid_evaluators import TINY
from tests.trainings import flags, write_digits, write_tiny
from tests.trees import plant

# Time per example says nothing on a shared machine.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


_WORKER_BYTES = 3 * 2**30
"""What one of pytest-xdist's processes takes at its peak, with what the tests start beside it."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` is: a process a core, as far as memory goes."""
    available = available_memory()
    fitting = num_cores() if available is None else available // _WORKER_BYTES
    return max(1, min(num_cores(), fitting))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test alike, whichever ran before it in this process: with torch's own random
    numbers from their start, and one thread, as more would only wait for each other."""
    torch.default_generator.manual_seed(0)
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


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """The images whose cache is tested; elsewhere, those of its module."""
    return plant(tmp_path / "pets", {"train/cat": 20, "train/dog": 30, "val/cat": 2, "val/dog": 2})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that the tests of `nas.train` train on."""
    return write_digits(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def arch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the network that they train."""
    return write_tiny(tmp_path_factory.mktemp("arch"))


@pytest.fixture(scope="module")
def finished(arch: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training of three epochs; elsewhere, of what its module says."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert train(flags(arch, data, out)) == 0
    return out
