"""`python -m nas.doctor`: is this machine fit for a search, and are these images?

A line for each thing: whether it is fine, what was found, and what to do if it is not. The exit
status is 0 where everything works, notes included, and 1 where something does not.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nas import cli
from nas.machine import (
    Check,
    check_cores,
    check_cuda,
    check_disk,
    check_memory,
    check_packages,
    check_torch,
)
from nas.ram import available_memory


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of `nas.doctor`."""

    data: str | None = None
    """Images to look at, as every command takes them; each is decoded once, tests included."""
    run_dir: Path = Path("runs")
    """The folder that results are to be written to."""
    ray_address: str | None = None
    """A Ray cluster that is to be used."""
    follow_links: bool = False
    """Follow symbolic links out of the folder of `--data`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    return cli.main(
        run,
        Settings,
        argv,
        prog="python -m nas.doctor",
        description="Tell if this machine, and the images of --data, are fit for a search.",
    )


def run(settings: Settings) -> int:
    """Check, print, and judge; the exit status."""
    found: list[Check] = []
    for name, check in _checks(settings):
        try:
            checks = list(check())
        except Exception as error:  # a doctor must not die of the disease
            checks = [Check(name, "FAIL", f"{type(error).__name__}: {error}", (_UNEXPECTED,))]
        for one in checks:
            print(one, flush=True)
        found += checks
    failed = [check.name for check in found if check.status == "FAIL"]
    notes = sum(check.status == "note" for check in found)
    noted = f", {notes} with a note" if notes else ""
    if failed:
        print(f"verdict NOT fit: {', '.join(dict.fromkeys(failed))} of {len(found)} checks{noted}")
        return 1
    print(f"verdict fit: {len(found)} checks passed{noted}")
    return 0


_UNEXPECTED = "This check itself failed, which no check should: please report it."


def _checks(settings: Settings) -> Iterator[tuple[str, Callable[[], Iterator[Check]]]]:
    yield "python", check_packages
    yield "torch", check_torch
    yield "cuda", check_cuda
    yield "cores", check_cores
    yield "memory", check_memory
    yield "disk", lambda: check_disk(settings.run_dir)
    yield "ray", lambda: check_ray(settings.ray_address)
    yield "leftover", check_leftovers
    if settings.data is not None:
        data = settings.data
        yield "data", lambda: check_data(data, follow_links=settings.follow_links)


def check_ray(address: str | None) -> Iterator[Check]:
    """Ray's version, whether it asks for a token, and whether the cluster answers."""
    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError:
        yield Check("ray", "FAIL", "not installed", ("pip install 'ray[tune]>=2.60'",))
        return
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode == "token":
        yield Check("ray", "ok", f"{found}, token authentication")
    else:
        remedy = "unset RAY_AUTH_MODE: who reaches Ray's ports can run code as you"
        yield Check("ray", "note", f"{found}, RAY_AUTH_MODE={mode}", (remedy,))
    if address is None:
        if elsewhere := os.environ.get("RAY_ADDRESS"):
            remedy = f"Commands here do not follow it; --ray-address {elsewhere} does."
            yield Check("ray", "note", "RAY_ADDRESS is set", (remedy,))
        return
    from nas.workers import workers_for

    try:
        workers_for(1, 0.0, address, None)
    except cli.UserError as error:
        yield Check("ray", "FAIL", str(error), ("Check the address, and firewalls between.",))
        return
    if mode == "token" and not _has_token():
        remedy = "Copy the cluster's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN."
        yield Check("ray", "FAIL", f"{address} answers, but there is no token for it", (remedy,))
    else:
        yield Check("ray", "ok", f"{address} answers")


def check_leftovers() -> Iterator[Check]:
    """Ray processes of commands that were killed."""
    from nas.trials.leftovers import describe_leftovers

    if lines := describe_leftovers():
        yield Check("leftover", "note", "Ray processes of a command that was killed", tuple(lines))
    else:
        yield Check("leftover", "ok", "no processes of commands that were killed")


def _has_token() -> bool:
    places = (os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or any(p and Path(p).is_file() for p in places)


def check_data(source: str, *, follow_links: bool = False) -> Iterator[Check]:
    """All that is wrong with the images of a `--data` value, every split of it."""
    from nas.data.dataset import MAX_NATIVE_SIZE, native_size, open_source, uneven
    from nas.data.images import DataError
    from nas.data.scan import scan

    try:
        seen = scan(open_source(source, follow_links=follow_links), others=True)
        problems = (*seen.layout, *seen.bad)
        size = 0 if problems else native_size(source, follow_links=follow_links)
    except DataError as error:
        yield Check("data", "FAIL", "cannot be used", tuple(str(error).splitlines()))
        return
    for notice in seen.notices:
        yield Check("data", "note", notice)
    if problems:
        files = cli.plural(len(seen.bad), "file")
        remedy = (f"Repair or remove {files}, or run the commands with --skip-bad.",)
        yield Check("data", "FAIL", seen.summary(), (*problems, *(remedy if seen.bad else ())))
        return
    if words := uneven(seen.parts["train"].labels, seen.source.classes):
        yield Check("data", "note", words)
    if seen.parts.keys() == {"train"}:
        yield Check(
            "data", "note", "no val/ or test/: nas.train could not tell how good its network is"
        )
    size = min(size, MAX_NATIVE_SIZE)
    needed = sum(len(part.labels) for part in seen.parts.values()) * 3 * size**2
    found = f"{seen.summary()} · {cli.format_bytes(needed)} in memory at {size} px"
    if needed <= (available_memory() or needed):
        yield Check("data", "ok", found)
    else:
        yield Check("data", "FAIL", found, ("Choose a lower --resolution, or use fewer images.",))


if __name__ == "__main__":
    sys.exit(main())
