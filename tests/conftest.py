"""Settings that every test runs under."""

import hypothesis
import pytest
import torch

# Time per example says nothing on a shared machine.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors on few cores: more threads only wait for each other."""
    torch.set_num_threads(1)
