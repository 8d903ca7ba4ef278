"""Evaluators whose proxies are good or bad for a known reason, for the tests of `nas.proxy`.

Settings come from the environment: PROXY_CALLS (a file that takes a line for every call),
PROXY_STOP (the number of calls after which Ctrl-C is pressed) and PROXY_FAILS (a digest that
raises).
"""

import os
import random
from pathlib import Path

from search_spaces.architecture import Architecture
from search_spaces.cost import count
from search_spaces.spaces import Choice
from tests.searching import SmallSpace


def quality(architecture: Architecture) -> float:
    """In [0, 1]: which blocks have large kernels, the first ones count most; no word on cost."""
    return sum((s.block.kernel == 5) / 2**i for i, s in enumerate(architecture.stages, start=1))


def ranking(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Ranks rightly at any number of epochs, with little noise."""
    return _noted(0.4 + 0.3 * quality(architecture), 0.01, architecture, epochs, seed)


def noisy(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Long trainings rank; up to 4 epochs the noise exceeds the spread of networks."""
    noise = 0.15 if epochs <= 4 else 0.005
    return _noted(0.4 + 0.2 * quality(architecture), noise, architecture, epochs, seed)


def misleading(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Up to 4 epochs the order is the reverse of what it becomes."""
    sign = -1 if epochs <= 4 else 1
    return _noted(0.5 + 0.2 * sign * quality(architecture), 0.005, architecture, epochs, seed)


def costly(architecture: Architecture, *, epochs: int, seed: int) -> float:
    """Nothing but multiply-adds matters."""
    return _noted(count(architecture).macs / 1e8, 0.0, architecture, epochs, seed)


class _TwoNetworks(SmallSpace):
    name = "two"

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        return {"width": (8,), "kernel": (3, 5)}


def two_networks(**_: object) -> SmallSpace:
    """For `--space tests.proxy_evaluators:two_networks`: too few to rank."""
    return _TwoNetworks()


def calls(file: Path) -> list[str]:
    """What was called: digest, epochs and seed."""
    return file.read_text().splitlines() if file.exists() else []


def _noted(
    accuracy: float, noise: float, architecture: Architecture, epochs: int, seed: int
) -> float:
    if architecture.digest == os.environ.get("PROXY_FAILS"):
        raise RuntimeError("this network cannot be trained")
    name = f"{architecture.digest} {epochs} {seed}"
    if file := os.environ.get("PROXY_CALLS"):
        with Path(file).open("a") as stream:
            stream.write(f"{name}\n")
        stop = os.environ.get("PROXY_STOP")
        if stop is not None and len(calls(Path(file))) == int(stop):
            raise KeyboardInterrupt
    return min(1.0, max(0.0, accuracy + random.Random(name).gauss(0, noise)))
