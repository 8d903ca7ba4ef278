"""What `nas.doctor` looks at in the machine: packages, torch, GPUs, cores, memory, disk."""

import os
import platform
import shutil
import sqlite3
import tempfile
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from nas.cores import num_cores
from nas.ram import available_memory
from nas.untrusted import printable

Status = Literal["ok", "note", "FAIL"]

_DISTRIBUTION = "efficientnet-search"
_GB = 1e9
_LITTLE_MEMORY, _NO_MEMORY = 4 * _GB, 1 * _GB
_LITTLE_DISK, _NO_DISK = 2 * _GB, 0.1 * _GB
_FULL = 0.95  # Ray stops working on a disk that is fuller


@dataclass(frozen=True)
class Check:
    """What was found out about one thing."""

    name: str
    status: Status
    found: str
    """What there is."""
    remedies: tuple[str, ...] = ()
    """What to do, a line each; for a problem at least one."""

    def __str__(self) -> str:
        lines = [f"{self.status:<5}{self.name:<9}{printable(self.found)}"]
        return "\n".join([*lines, *(f"{'':14}{printable(line)}" for line in self.remedies)])


def check_packages() -> Iterator[Check]:
    """Every dependency, of a version that is allowed."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    versions, wrong, absent = [], [], []
    for requirement in map(Requirement, _requirements()):
        marker = requirement.marker
        extra = "onnx" if marker and not marker.evaluate({"extra": ""}) else ""
        if marker and not marker.evaluate({"extra": extra}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            (absent if extra else wrong).append(str(requirement).split(";")[0])
            continue
        versions.append(f"{requirement.name} {installed}")
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(str(requirement).split(";")[0])
    if wrong:
        remedy = f"pip install {' '.join(repr(name) for name in wrong)}"
        yield Check("packages", "FAIL", f"missing or too old: {', '.join(wrong)}", (remedy,))
    elif absent:
        remedy = f"Only nas.export to ONNX needs them: pip install '{_DISTRIBUTION}[onnx]'"
        yield Check("packages", "note", f"without {', '.join(absent)}", (remedy,))
    if not wrong:
        yield Check("packages", "ok", ", ".join(versions))


def _requirements() -> list[str]:
    """What the project needs, installed or run from its folder."""
    try:
        return metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        file = Path(__file__).parents[1] / "pyproject.toml"
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extra = [f"{name}; extra == 'onnx'" for name in project["optional-dependencies"]["onnx"]]
        return [*project["dependencies"], *extra]


def check_torch() -> Iterator[Check]:
    """Whether torch loads and computes, forward and back."""
    try:
        import torch
        import torchvision  # its compiled part must fit torch's
    except Exception as error:
        remedy = "Install torch and torchvision anew, together: https://pytorch.org/get-started"
        yield Check("torch", "FAIL", f"cannot be loaded: {error}", (remedy,))
        return
    found = f"{torch.__version__}, torchvision {torchvision.__version__}"
    yield Check("torch", *_computes(torch.device("cpu"), found))


def _computes(device: object, found: str) -> tuple[Status, str, tuple[str, ...]]:
    import torch
    from torch.nn.functional import conv2d

    images = torch.ones(2, 3, 8, 8, device=device)  # type: ignore[call-overload]
    kernels = torch.ones(4, 3, 3, 3, device=images.device, requires_grad=True)
    sums = conv2d(images, kernels)
    sums.sum().backward()
    right = bool((sums == 27).all()) and kernels.grad is not None and kernels.grad[0, 0, 0, 0] == 72
    if right:
        return "ok", f"{found}, computes", ()
    return "FAIL", f"{found}, computes wrongly", ("Install torch anew, or change the device.",)


def check_cuda() -> Iterator[Check]:
    """Every GPU that torch sees, with a small computation; a note where there is none."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    reasons = tuple(str(warning.message) for warning in caught)
    if not available:
        if shutil.which("nvidia-smi") is None:
            yield Check("cuda", "note", "no GPU: trials train on the CPU", reasons)
        else:
            built = torch.version.cuda or "none: this torch is for CPUs"
            remedy = "Install a torch for this driver's CUDA: https://pytorch.org/get-started"
            found = f"nvidia-smi is there, but torch (CUDA {built}) sees no GPU"
            yield Check("cuda", "FAIL", found, (*reasons, remedy))
        return
    for i in range(torch.cuda.device_count()):
        device = torch.device("cuda", i)
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        found = f"{i}: {name}, {free / _GB:.1f} of {total / _GB:.1f} GB free"
        yield Check("cuda", *_computes(device, found))


def check_cores() -> Iterator[Check]:
    """Cores to use, and whether the environment asks for more threads than that."""
    cores, asked = num_cores(), os.environ.get("OMP_NUM_THREADS", "")
    found = f"{cores} of the machine's {os.cpu_count()} cores to use"
    if asked.isdecimal() and int(asked) > cores:
        remedy = f"OMP_NUM_THREADS={asked} asks for more, which is many times slower: unset it"
        yield Check("cores", "note", found, (remedy,))
    else:
        yield Check("cores", "ok", found)


def check_memory() -> Iterator[Check]:
    """Memory to be had, limits of containers included."""
    free = available_memory()
    if free is None:
        yield Check("memory", "note", "the system does not say how much there is")
        return
    found = f"{free / _GB:.1f} GB available"
    if free >= _LITTLE_MEMORY:
        yield Check("memory", "ok", found)
    else:
        remedy = "A worker takes about 1 GB, and the images beside: end other work, fewer --workers"
        yield Check("memory", "note" if free >= _NO_MEMORY else "FAIL", found, (remedy,))


def check_disk(folder: Path) -> Iterator[Check]:
    """Whether results can be written to `folder`, and a study be kept there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as inside:
            mode = _journal_mode(Path(inside) / "study.db")
    except (OSError, sqlite3.Error) as error:
        remedy = "Make it writable, or choose another --run-dir."
        yield Check("disk", "FAIL", f"{place} cannot be written: {error}", (remedy,))
        return
    free = shutil.disk_usage(place).free
    found = f"{place}: {free / _GB:.1f} GB free"
    if free < _LITTLE_DISK:
        remedy = "Free some space, or choose another --run-dir."
        yield Check("disk", "note" if free >= _NO_DISK else "FAIL", found, (remedy,))
    elif mode != "wal":
        remedy = "SQLite's WAL is refused here, as on network folders: choose a local --run-dir."
        yield Check("disk", "FAIL", found, (remedy,))
    else:
        yield Check("disk", "ok", f"{found}, keeps a study")
    temporary = Path(tempfile.gettempdir())
    usage = shutil.disk_usage(temporary)
    if (usage.total - usage.free) / max(1, usage.total) > _FULL:
        found = f"{temporary} is {1 - usage.free / usage.total:.0%} full"
        yield Check("disk", "note", found, ("Ray wants 5 % free there: name another TMPDIR.",))


def _journal_mode(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        connection.execute("CREATE TABLE trial (number)")
        connection.commit()
    finally:
        connection.close()
    return str(mode)
