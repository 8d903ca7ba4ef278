"""The cost that `--cost` names: one that arithmetic gives, or one that is measured here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.costs.metrics import METRICS, Metric

if TYPE_CHECKING:
    from nas.workers import Workers

CostName = Literal["macs", "params", "activations", "latency", "memory"]


def load_metric(
    name: str,
    *,
    run_dir: Path,
    workers: "Workers",
    latency_batch: int = 1,
    batch_size: int = 128,
    writes: bool = True,
) -> Metric:
    """The metric of a name.

    Args:
        name: A key of `METRICS`, `latency` or `memory`.
        run_dir: Whose latency.json remembers latencies.
        workers: Where trials run; latency is measured on the same device.
        latency_batch: Images of an inference.
        batch_size: Images of a training step, for its memory.
        writes: Whether latencies are written down.

    Raises:
        UserError: Latencies of the folder were measured under other conditions, or there is no
            such device.
    """
    if name == "latency":
        from nas.costs.latency import Latency

        return Latency(
            file=run_dir / "latency.json",
            device="cuda" if workers.gpus_per_trial else "cpu",
            batch_size=latency_batch,
            threads=workers.threads,
            writes=writes,
        )
    if name == "memory":
        from nas.costs.memory import Memory

        return Memory(batch_size=batch_size)
    return METRICS[name]


def cost_conditions(metric: Metric) -> dict[str, Any]:
    """What of a cost must not change when a run goes on."""
    measured = {metric.name: dict(metric.conditions)} if metric.conditions else {}
    return {"cost": metric.name, **measured}
