"""Settings that every test runs under."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors on few cores: more threads only wait for each other."""
    torch.set_num_threads(1)
