"""How many CPU cores there are to use, and how many this process takes."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def num_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use; containers and taskset leave fewer than there are.

    A share of a core counts as one.

    Args:
        root: Where `proc` and `sys` are.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = (_quota(version, folder) for version, folder in control_groups(root, "cpu"))
    return max(1, math.ceil(min([cores, *(quota for quota in quotas if quota is not None)])))


def limit_threads(threads: int) -> None:
    """Give this process `threads` CPU threads: oversubscribed cores are ten times slower."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Version (1 or 2) and folder of every control group that may limit this process, from its own
    up to the root.

    Args:
        root: Where `proc` and `sys` are.
        controller: What is limited: `cpu`, `memory`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if number == "0":
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        # A container sees its own group at the mount itself, and may be told the host's path.
        parts = path.strip("/").split("/")
        for length in range(len(parts), -1, -1):
            yield version, mount.joinpath(*parts[:length])


def _quota(version: int, folder: Path) -> float | None:
    """Cores' worth of time that a group may take; None: no limit."""
    try:
        if version == 2:
            quota, period = map(int, (folder / "cpu.max").read_text(encoding="ascii").split())
        else:
            quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
            period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or `max`: no limit
        return None
    return quota / period if quota > 0 and period > 0 else None
