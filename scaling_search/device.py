"""The device at hand: what it is, the memory it has free, and what fits into that."""

from dataclasses import dataclass
from typing import Self

from nas.cli import format_bytes, plural
from nas.costs.latency import device_name
from nas.ram import available_memory
from nas.training.recipe import Recipe

MARGIN = 1.1
"""Free memory over counted memory where a network fits: counting does not see everything."""
RECIPE = Recipe.full(1)
"""The training whose memory is counted: that of `nas.train`."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where networks are measured and are to be trained."""

    kind: str
    """`cpu` or `cuda`."""
    name: str
    """What the hardware calls itself."""
    memory: int | None
    """Bytes that are free: of the GPU, or what this process can have of the machine's or its
    container's. None: the system does not say."""
    threads: int
    """CPU threads of a measurement."""
    precision: str
    """What `nas.train` computes in on this device: `fp32`, `bf16` or `fp16`."""
    torch: str
    """PyTorch's version."""

    @classmethod
    def at_hand(cls, kind: str = "auto", *, threads: int | None = None) -> Self:
        """This machine's device.

        Args:
            kind: `auto`, `cpu` or `cuda`; auto takes the GPU where there is one.
            threads: None: as many as torch takes.

        Raises:
            TrainingError: `cuda` is asked for where there is none.
        """
        import torch

        from nas.training.parts import choose_device, definite_precision

        device = choose_device(kind)
        return cls(
            kind=device.type,
            name=device_name(device.type),
            memory=free_memory(device.type),
            threads=torch.get_num_threads() if threads is None else threads,
            precision=definite_precision(RECIPE.precision, device),
            torch=torch.__version__,
        )

    def fits(self, count: int) -> bool | None:
        """Whether so many bytes fit, with a margin; None: the free memory is not known."""
        return None if self.memory is None else MARGIN * count <= self.memory

    def describe(self) -> str:
        """Name, memory, threads and version, for people."""
        threads = f" · {plural(self.threads, 'thread')}"
        free = "free memory unknown" if self.memory is None else f"{format_bytes(self.memory)} free"
        return f"{self.name}{threads if self.kind == 'cpu' else ''} · {free} · torch {self.torch}"


def free_memory(kind: str) -> int | None:
    """Bytes free on the GPU, or to be had by this process; None: the system does not say."""
    if kind == "cpu":
        return available_memory()
    import torch

    torch.cuda.empty_cache()  # what this process only keeps is free as well
    return torch.cuda.mem_get_info()[0]
