"""Memory and cores to be had, as the machine and the limits of containers tell."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.cli import UserError
from nas.cores import num_cores
from nas.ram import available_memory, is_out_of_memory, lack_of_memory

V1 = "4:memory:/jobs/mine\n1:cpu:/\n0::/\n"
V2 = "0::/jobs/mine\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 4,000 KiB available and no control groups."""
    write(tmp_path / "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def group_v1(folder: Path, limit: int, used: int, cached: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used}\n")
    write(folder / "memory.stat", f"inactive_file 7\ntotal_inactive_file {cached}\n")


def group_v2(folder: Path, limit: int | str, used: int, cached: int = 0) -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {cached}\n")


def test_here() -> None:
    available = available_memory()
    assert available is not None
    assert available > 2**20


def test_the_machine_alone(root: Path) -> None:
    assert available_memory(root) == 4000 * 1024


@pytest.mark.parametrize(("limit", "left"), [(9_000_000, 4000 * 1024), (3_000_000, 2_100_000)])
def test_a_group_of_version_2(root: Path, limit: int, left: int) -> None:
    write(root / "proc/self/cgroup", V2)
    group_v2(root / "sys/fs/cgroup/jobs/mine", limit, used=1_000_000, cached=100_000)
    assert available_memory(root) == left


def test_a_group_without_a_limit_below_one_with(root: Path) -> None:
    write(root / "proc/self/cgroup", V2)
    group_v2(root / "sys/fs/cgroup/jobs/mine", "max", used=10)
    group_v2(root / "sys/fs/cgroup/jobs", 500_000, used=300_000)
    assert available_memory(root) == 200_000


def test_a_group_of_version_1(root: Path) -> None:
    write(root / "proc/self/cgroup", V1)
    group_v1(root / "sys/fs/cgroup/memory/jobs/mine", 800_000, used=600_000, cached=50_000)
    assert available_memory(root) == 250_000


def test_a_container_that_is_told_the_hosts_path(root: Path) -> None:
    write(root / "proc/self/cgroup", V1)
    group_v1(root / "sys/fs/cgroup/memory", 800_000, used=900_000)
    assert available_memory(root) == 0


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (V2, {"jobs/mine/cpu.max": "200000 100000\n", "jobs/cpu.max": "max 100000\n"}, 2),
        (V2, {"jobs/cpu.max": "150000 100000\n"}, 2),
        (V2, {"jobs/mine/cpu.max": "max 100000\n"}, 64),
        (V2, {"jobs/mine/cpu.max": "10000 100000\n"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (V2, {"jobs/mine/cpu.max": "what\n"}, 64),
    ],
)
def test_cores_that_a_group_leaves(
    groups: str, files: dict[str, str], cores: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    write(root / "proc/self/cgroup", groups)
    for name, text in files.items():
        write(root / "sys/fs/cgroup" / name, text)
    assert num_cores(root) == cores


def test_broken_files_bind_nothing(root: Path) -> None:
    write(root / "proc/self/cgroup", "what\n" + V2)
    write(root / "sys/fs/cgroup/jobs/mine/memory.max", "500\n")
    assert available_memory(root) == 4000 * 1024


def test_where_nothing_is_told_the_whole_memory_bounds(tmp_path: Path) -> None:
    available, here = available_memory(tmp_path), available_memory()
    assert available is not None
    assert here is not None
    assert available >= here


_FAULTS = """
import resource, sys
import numpy as np
from nas.ram import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

np.ones(2**26, np.uint8)
before = faults()
for _ in range(5):
    np.ones(2**26, np.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's allocator")
def test_freed_memory_is_kept_for_the_next_use() -> None:
    """Five times 64 MiB: 16,384 pages of 4 KiB each, unless they are large ones."""
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    faults = [
        int(subprocess.check_output([sys.executable, "-c", _FAULTS, how], env=environment))
        for how in ("as it is", "kept")
    ]
    assert faults[0] > 50 * (1 + faults[1])


def test_a_lack_of_memory_has_a_remedy() -> None:
    words = r"There is not enough memory \(.*can't allocate memory.*\)\. Lower it\."
    with pytest.raises(UserError, match=words), lack_of_memory("Lower it."):
        torch.empty(10**15)
    with pytest.raises(UserError, match=r"memory \(MemoryError\)\."), lack_of_memory("Lower it."):
        raise MemoryError
    no_memory, no_file = (OSError(n, os.strerror(n)) for n in (errno.ENOMEM, errno.ENOENT))
    with pytest.raises(UserError, match="Cannot allocate memory"), lack_of_memory("Lower it."):
        raise no_memory  # as where no process can be made
    for other in (RuntimeError("my own"), no_file):
        with pytest.raises(type(other)) as caught, lack_of_memory("Lower it."):
            raise other
        assert caught.value is other


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA driver error: out of memory",
    ],
)
def test_a_gpu_s_libraries_run_out_of_memory_too(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))
    assert not is_out_of_memory(ValueError(words))
