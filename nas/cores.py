"""How many CPU cores there are to use, and how many this process takes."""

import os
import sys


def num_cores() -> int:
    """Cores that this process may use; containers and taskset leave fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(threads: int) -> None:
    """Give this process `threads` CPU threads: oversubscribed cores are ten times slower."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
