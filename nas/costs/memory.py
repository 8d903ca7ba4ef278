"""Memory as a cost: the peak of a training step, counted without running anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.cli import UserError, format_bytes
from search_spaces.builder import AnyNetwork


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory of training in bytes; a `nas.costs.metrics.Metric`.

    See `nas.training.memory` for what is counted.
    """

    batch_size: int = 128
    """Images of a training step."""
    _known: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the batch.

        Raises:
            UserError: It is too small for a training step.
        """
        if self.batch_size < 2:
            raise UserError(
                f"Memory is that of a training step, and batch norm needs two images; got a batch "
                f"of {self.batch_size}."
            )

    @property
    def name(self) -> str:
        return "memory"

    @property
    def unit(self) -> str:
        return "bytes"

    @property
    def conditions(self) -> Mapping[str, Any]:
        import torch

        return {"batch_size": self.batch_size, "torch": torch.__version__}

    def __call__(self, architecture: AnyNetwork) -> float:
        """Bytes at the peak of a training step; counted at the first call for a network.

        Raises:
            UserError: The network does not run without data.
        """
        from nas.training.memory import training_bytes

        if architecture.digest not in self._known:
            peak = training_bytes(architecture, batch_size=self.batch_size)
            self._known[architecture.digest] = float(peak)
        return self._known[architecture.digest]

    def format(self, value: float) -> str:
        return format_bytes(value)

    def describe(self) -> str:
        return (
            f"bytes at the peak of a training step (batch {self.batch_size}, float32; tensors only)"
        )
