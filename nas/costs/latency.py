"""Latency as a cost: the time that one inference takes on the device at hand.

As in MnasNet (Tan et al. 2019, section 3), the search then measures what users feel, not what
arithmetic says of it. A network is measured once; the file in the run folder is the memory, so a
search that is resumed sees the same costs.
"""

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveFloat, TypeAdapter

from nas.cli import UserError, plural
from nas.ram import is_out_of_memory
from search_spaces.builder import AnyNetwork
from search_spaces.files import atomic_write, differences

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

WARM_UP_RUNS = 5
"""Fewer, down to one, where they take `MAX_SECONDS`."""
MIN_RUNS = 20
ROUND = 10
"""Runs between two looks at whether the median is stable."""
STABLE = 0.02
"""Relative difference of the medians of both halves at which a measurement ends."""
MAX_SECONDS = 1.0
"""For a network; a slow one is measured at least `FEWEST_RUNS` times all the same."""
FEWEST_RUNS = 3


def stable_median(run: Callable[[], float]) -> float:
    """Median of the seconds that `run` returns, called until it is stable or time is up."""
    seconds: list[float] = []
    while True:
        seconds.append(run())
        if len(seconds) >= FEWEST_RUNS and sum(seconds) >= MAX_SECONDS:
            return statistics.median(seconds)
        if len(seconds) >= MIN_RUNS and len(seconds) % ROUND == 0:
            middle = len(seconds) // 2
            early, late = statistics.median(seconds[:middle]), statistics.median(seconds[middle:])
            if abs(early - late) <= STABLE * late:
                return statistics.median(seconds)


def warm_up(run: Callable[[], float]) -> float:
    """Run up to `WARM_UP_RUNS` times; the seconds of the first."""
    first = spent = run()
    for _ in range(WARM_UP_RUNS - 1):
        if spent >= MAX_SECONDS:
            break
        spent += run()
    return first


def measure_latency(
    architecture: AnyNetwork,
    *,
    device: "torch.device",
    batch_size: int,
    patience: float = math.inf,
) -> float:
    """Milliseconds of one inference: eval mode, float32, `batch_size` images, median of many.

    Infinity, if the first one takes more than `patience` seconds.

    Raises:
        UserError: The network does not fit into the device's memory.
    """
    import torch

    from nas.training.parts import build_network, give_memory_back

    shape = (batch_size, architecture.in_channels, architecture.resolution, architecture.resolution)
    try:
        network = build_network(architecture, seed=0).eval().to(device)
        images = torch.ones(shape, device=device)
        _load_libraries(device)
        with torch.inference_mode():

            def run() -> float:
                _wait_for(device)
                start = time.perf_counter()
                network(images)
                _wait_for(device)
                return time.perf_counter() - start

            return 1e3 * (stable_median(run) if warm_up(run) <= patience else math.inf)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{plural(batch_size, 'image')} of {architecture.resolution} px do not fit into the "
            f"memory of {device} beside the trainings. Lower --latency-batch."
        ) from error
    finally:
        give_memory_back(device)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Measured latency in ms, remembered per architecture; a `nas.costs.metrics.Metric`.

    It is measured in this process. Trainings on the same cores or GPU at the same time make it
    longer and less certain.
    """

    file: Path
    """The memory, JSON; it is read if it is there."""
    device: str = "cpu"
    """`cpu`, or `cuda` for the first GPU that this process sees."""
    batch_size: int = 1
    """Images of an inference."""
    threads: int = 1
    """CPU threads of an inference."""
    writes: bool = True
    """Whether `file` is written."""
    _known: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the memory.

        Raises:
            UserError: It was measured under other conditions, or is no memory of latencies.
        """
        if self.device != "cpu":
            _check_device(self.device)
        if self.file.exists():
            self._known.update(_read(self.file, self.conditions))

    @property
    def name(self) -> str:
        return "latency"

    @property
    def unit(self) -> str:
        return "ms"

    @property
    def conditions(self) -> Mapping[str, Any]:
        import torch

        return {
            "device": device_name(self.device),
            "torch": torch.__version__,
            "threads": self.threads,
            "batch_size": self.batch_size,
        }

    def __call__(self, architecture: AnyNetwork) -> float:
        """Milliseconds of an inference; measured at the first call for a network."""
        import torch

        if architecture.digest not in self._known:
            with cpu_threads(self.threads):
                value = measure_latency(
                    architecture, device=torch.device(self.device), batch_size=self.batch_size
                )
            self._known[architecture.digest] = float(f"{value:.5g}")
            if self.writes:
                content = {"conditions": dict(self.conditions), "ms": self._known}
                atomic_write(self.file, json.dumps(content, indent=1) + "\n")
        return self._known[architecture.digest]

    def format(self, value: float) -> str:
        return f"{value:.3g} ms"

    def describe(self) -> str:
        threads = f"{plural(self.threads, 'thread')}, "
        return (
            f"ms on {device_name(self.device)} ({threads if self.device == 'cpu' else ''}batch "
            f"{self.batch_size}, float32, median)"
        )


def device_name(device: str) -> str:
    """What the hardware calls itself."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _check_device(device: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"`--cost latency` measures on {device}, where the trials run, but the process that "
            "starts them sees no GPU. Run it on a machine with one, or use --gpus-per-trial 0."
        )


def _read(file: Path, conditions: Mapping[str, Any]) -> dict[str, float]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        old = dict(content["conditions"])
        known = TypeAdapter(dict[str, PositiveFloat]).validate_python(content["ms"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not readable ({error}); choose another --run-dir.") from error
    if changes := differences(old, dict(conditions)):
        raise UserError(
            f"{file} was measured under other conditions: {'; '.join(changes)}. Its latencies "
            "would not compare. Restore them, or choose a new --run-dir."
        )
    return known


@contextmanager
def cpu_threads(number: int) -> "Iterator[None]":
    """`number` CPU threads for torch for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_libraries(device: "torch.device") -> None:
    """Let CUDA load what it loads at the first convolution and product of a process, which takes
    seconds: no network's patience is for that."""
    if device.type == "cuda":
        import torch

        ones = torch.ones(8, 8, 8, 8, device=device)
        torch.matmul(torch.conv2d(ones, ones[..., :3, :3]), ones[0, 0, :6])
        torch.cuda.synchronize(device)


def _wait_for(device: "torch.device") -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
