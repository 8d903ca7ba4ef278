"""How many jobs run at a time, and with what."""

import math
import socket
from dataclasses import dataclass, replace
from typing import Literal

from nas.cli import UserError, plural
from nas.cores import num_cores

_CONNECT_SECONDS = 10
WORKER_BYTES = 10**9
"""What a worker takes beside a training: Python, torch, Ray, its images (as `nas.doctor` says)."""
_USABLE = 0.8
"""Share of the free memory that workers may plan with: Ray ends one when the machine's is short,
and counting a training does not see everything."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where jobs run."""

    count: int = 1
    """Jobs at a time."""
    gpus_per_trial: float = 0.0
    """GPUs of each job; fractions share one."""
    ray_address: str | None = None
    """An existing cluster, as `ray.init(address=...)` takes it; None: this machine."""
    seconds_per_epoch: float | None = None
    """Wall-clock limit of a job, for each epoch that it trains; None: as long as it takes."""
    why: str = ""
    """What `count` was counted from, where nobody named it."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"`--workers` must be at least 1, but got {self.count}.")
        if not self.gpus_per_trial >= 0 or (self.gpus_per_trial > 1 and self.gpus_per_trial % 1):
            raise UserError(
                "`--gpus-per-trial` must be a whole number, or a fraction below 1 to share a "
                f"GPU; got {self.gpus_per_trial:g}."
            )

    @property
    def in_process(self) -> bool:
        return self.count == 1 and self.ray_address is None

    @property
    def threads(self) -> int:
        """CPU threads of each job.

        Workers share the machine's cores. A single job in the process takes one thread: a small
        network gains a quarter from a second, and loses half of its speed, or nearly all of it,
        once other work wants that core (two cores, 32 px, 5 M multiply-adds; experiments/LOG.md).
        For the same reason `--workers auto` counts with one thread each; two such workers do 1.95
        times the trials of one on two free cores.
        """
        if self.in_process or (self.is_auto and not self.gpus_per_trial):
            return 1
        return max(1, num_cores() // self.count)

    @property
    def is_auto(self) -> bool:
        """Whether the number is ours to choose."""
        return bool(self.why)

    @property
    def elsewhere(self) -> bool:
        """Whether jobs run on machines that this one tells nothing about."""
        return self.ray_address is not None

    @property
    def crowding(self) -> float:
        """How many times as long a job takes as one that has a core for each of its threads."""
        if self.elsewhere or self.gpus_per_trial:
            return 1.0
        return max(1.0, self.count / num_cores())

    def limited_as(self, epochs: int, counted: int) -> "Workers":
        """For trials that count as `counted` epochs, and may take as long as those of `epochs`."""
        if self.seconds_per_epoch is None:
            return self
        return replace(self, seconds_per_epoch=self.seconds_per_epoch * epochs / counted)

    def held_by(self, free: int, training: int) -> "Workers":
        """So many of these as memory holds.

        Args:
            free: Bytes to be had.
            training: Bytes that the training of a large network takes.
        """
        each, usable = training + WORKER_BYTES, _USABLE * free
        count = min(self.count, max(1, int(usable / each)))
        why = (
            f"{self.why}; {each / 1e9:.1f} GB each of {usable / 1e9:.1f}, {_USABLE:.0%} of the free"
        )
        return replace(self, count=count, why=why)

    def limit(self, epochs: int) -> float | None:
        """Seconds that a job of so many epochs may take; None: as long as it takes."""
        return None if self.seconds_per_epoch is None else self.seconds_per_epoch * epochs

    def describe(self) -> str:
        """For people: `2 at a time (1 thread each) on Ray Tune`."""
        threads = plural(self.threads, "thread")
        kind = f"{self.gpus_per_trial:g} GPU" if self.gpus_per_trial else threads
        each = " each" if self.count > 1 else ""
        why = f" (auto: {self.why})" if self.is_auto else ""
        place = "in this process" if self.in_process else "on Ray Tune"
        is_crowd = self.crowding > 1 and not self.is_auto
        crowd = f", more than the {plural(num_cores(), 'core')}" if is_crowd else ""
        return f"{self.count} at a time ({kind}{each}) {place}{crowd}{why}"


def workers_for(
    count: int | Literal["auto"],
    gpus_per_trial: float | None,
    ray_address: str | None,
    evaluator: str | None,
    seconds_per_epoch: float | None = None,
) -> Workers:
    """Workers as the flags say; without word on GPUs one a trial, if there are any.

    A user's own evaluator gets GPUs on request only. Where the number is left to us (`auto`), with
    GPUs as many as they hold, else one for each core; what memory holds is for who knows the
    trainings (`Workers.held_by`).

    Raises:
        UserError: The flags break a rule, ask for GPUs that are not there, or no cluster answers.
    """
    if gpus_per_trial is None:
        gpus_per_trial = 0.0
        if evaluator is None:
            import torch

            gpus_per_trial = 1.0 if torch.cuda.is_available() else 0.0
    if ray_address is not None:
        if count == "auto":
            raise UserError(
                "`--workers auto` counts this machine's cores and GPUs, and trials run on the "
                "cluster of `--ray-address`. Name a number."
            )
        _check_answers(ray_address)
    why = ""
    if count == "auto":
        count, why = _as_many(gpus_per_trial)
    workers = Workers(
        count=count,
        gpus_per_trial=gpus_per_trial,
        ray_address=ray_address,
        seconds_per_epoch=seconds_per_epoch,
        why=why,
    )
    if gpus_per_trial > 0 and evaluator is None and ray_address is None:
        import torch

        check_gpus(workers, torch.cuda.device_count(), "PyTorch")
        _check_together(workers, torch.cuda.device_count())
    return workers


def _as_many(gpus_per_trial: float) -> tuple[int, str]:
    """Jobs that GPUs, or else cores, are enough for; and why."""
    if gpus_per_trial > 0:
        import torch

        return _held_by_gpus(gpus_per_trial, torch.cuda.device_count())
    cores = num_cores()
    return cores, plural(cores, "core")


def _held_by_gpus(gpus_per_trial: float, gpus: int) -> tuple[int, str]:
    if gpus_per_trial < 1:  # a trial's share is of one GPU
        return max(1, gpus * math.floor(1 / gpus_per_trial + 1e-9)), plural(gpus, "GPU")
    return max(1, math.floor(gpus / gpus_per_trial)), plural(gpus, "GPU")


def _check_together(workers: Workers, gpus: int) -> None:
    """Refuse more trials at a time than the GPUs hold: Ray would let the others wait, each already
    chosen without knowing how those before it ended.

    Raises:
        UserError: They are more.
    """
    together, _ = _held_by_gpus(workers.gpus_per_trial, gpus)
    if workers.count > together:
        share = math.floor(1000 / math.ceil(workers.count / gpus)) / 1000
        raise UserError(
            f"`--workers {workers.count}` with {workers.gpus_per_trial:g} GPU for each trial are "
            f"more than the {plural(gpus, 'GPU')} that PyTorch sees: only {together} "
            f"would run at a time. Use --workers {together}, or share a GPU with "
            f"`--gpus-per-trial {share:g}`."
        )


def check_gpus(workers: Workers, number: float, who: str) -> None:
    """Refuse what nobody can give.

    Raises:
        UserError: A job asks for more than the `number` of GPUs that `who` sees.
    """
    if workers.gpus_per_trial > number:
        raise UserError(
            f"`--gpus-per-trial {workers.gpus_per_trial:g}` is more than the {number:g} GPUs that "
            f"{who} sees. Lower it (0 trains on the CPU), or run where the GPUs are."
        )


def _check_answers(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself tries it for more than ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # `auto` and the like, which Ray resolves at once
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at `--ray-address {address}`: {error}. Start one with "
            "`ray start --head`, or leave the flag out to use this machine alone."
        ) from error
