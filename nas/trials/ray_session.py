"""A Ray session of our own, or one on the cluster that the user named; never another.

Only this and `nas.trials.ray_tune` know Ray.
"""

import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nas.cli import GOES_ON, UserError, plural
from nas.trials.leftovers import describe_leftovers, leave_mark
from nas.workers import Workers, check_gpus


class RaySession:
    """What `start` began; it stays up for the next study of this process, and ends with it."""

    def __init__(self, workers: Workers, raylet: Path | None) -> None:
        self.workers = workers
        self._raylet = raylet
        """Socket of the process of Ray's on this machine that serves us."""

    def check(self) -> None:
        """Ray waits without a word for what it has not; we do not.

        Raises:
            UserError: No machine that is there now can run a job, or Ray's own process on this one
                has died.
        """
        if self._raylet is not None and not _answers(self._raylet):
            # A moment later Ray finds out too, and ends this process without a word.
            raise UserError(
                "Ray's own process on this machine (raylet) has died, as one does that the system "
                f"ends for want of memory. {GOES_ON}"
            )
        check_nodes(self.workers)


_current: list[RaySession] = []
"""The one session that a process has with Ray, as Ray itself keeps it; empty before."""


def start(workers: Workers) -> RaySession:
    """Start Ray for these workers, or join the cluster that they name; at once if that is done.

    Raises:
        UserError: Nothing there can run a job.
    """
    import ray

    if not (_current and ray.is_initialized() and _current[0].workers == workers):
        close()
        for line in describe_leftovers():
            print(f"note    {line}", flush=True)
        with _signal_handlers_kept():
            _current.append(RaySession(workers, _init(workers)))
    try:
        _current[0].check()
    except BaseException:
        close()
        raise
    return _current[0]


def let_tune_survive_losses() -> None:
    """Let Tune take a worker that was killed for memory, or with its node, for one that died.

    Tune 2.60 ends with an error over one that was training, as Ray's errors then are no
    `RayActorError`: "Caught unexpected exception". A tuple of kinds serves its tests as well.
    """
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

    for name in ("ray.air.execution._internal.actor_manager", "ray.tune.execution.tune_controller"):
        with suppress(ImportError):  # in another version it may be elsewhere, or right
            module: Any = importlib.import_module(name)
            if getattr(module, "RayActorError", None) is RayActorError:
                module.RayActorError = (RayActorError, OutOfMemoryError, NodeDiedError)
    trial: Any = importlib.import_module("ray.tune.experiment").Trial
    ask = getattr(trial, "_get_default_result_or_future", None)
    if ask is None or hasattr(ask, "survives"):
        return

    def first_result(self: Any) -> Any:
        """None where the worker was killed before it had told one, as if it had died itself."""
        try:
            return ask(self)
        except (OutOfMemoryError, NodeDiedError):
            self._default_result_or_future = None
            return None

    first_result.survives = True  # pyright: ignore[reportFunctionMemberAccess]
    trial._get_default_result_or_future = first_result


def close() -> None:
    """End what `start` began, if anything."""
    import ray

    _current.clear()
    ray.shutdown()


def check_nodes(workers: Workers) -> None:
    """Refuse what no machine of the Ray that runs has.

    Raises:
        UserError: No machine that is there now can run a job.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = ([node.get(kind, 0) for node in nodes] for kind in ("CPU", "GPU"))
    check_gpus(workers, max(gpus, default=0), "Ray")
    both = zip(cpus, gpus, strict=True)
    if not any(cpu >= workers.threads and gpu >= workers.gpus_per_trial for cpu, gpu in both):
        asked = plural(workers.threads, "CPU")
        if workers.gpus_per_trial:
            asked += f" and {workers.gpus_per_trial:g} GPU of one machine"
        raise UserError(
            f"A trial asks for {asked}, but Ray's largest machine has "
            f"{plural(int(max(cpus, default=0)), 'CPU')}. Use more --workers, for each then asks "
            f"for fewer, or add a machine. {GOES_ON}"
        )


def _init(workers: Workers) -> Path | None:
    """Start or join Ray; the socket of its process on this machine."""
    import ray

    is_own = workers.ray_address is None
    context = ray.init(
        # "local" starts a session of our own, whatever RAY_ADDRESS says.
        address="local" if is_own else workers.ray_address,
        num_cpus=workers.count * workers.threads if is_own else None,
        include_dashboard=False if is_own else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_import_paths())}},
    )
    places = getattr(context, "address_info", {})  # a client of ray:// has none
    if is_own:
        leave_mark(Path(places["session_dir"]))
    raylet = places.get("raylet_socket_name")
    return Path(raylet) if raylet else None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # such as a busy one
            return True
    return True


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put back ours after Ray took Ctrl-C and SIGTERM of the process that starts it; on SIGTERM
    its own would end the process by SIGABRT, three seconds later."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _import_paths() -> list[str]:
    """Where this process imports from, for the user's evaluator in a worker."""
    paths = [str(Path(path or ".").resolve()) for path in ("", *sys.path)]
    return [path for path in dict.fromkeys(paths) if Path(path).is_dir()]
