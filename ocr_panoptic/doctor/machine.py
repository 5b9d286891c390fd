"""What the machine is: processors, memory, disks, limits. The standard library tells, and Linux."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Disk", "Machine", "examine_machine"]

# Of the many features of a CPU, those that matrix products are faster with.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 bf16",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "bf16",
}
_NVIDIA_SMI_SECONDS = 30


@dataclass(frozen=True)
class Disk:
    """A folder's disk.

    Attributes:
        path: of the folder, whether or not it is there yet.
        free: bytes for this user.
        writable: whether a file could be made in it, or in the folder that it will be made in.
    """

    path: str
    free: int
    writable: bool


@dataclass(frozen=True)
class Machine:
    """What :func:`examine_machine` found; None where the system does not tell.

    Attributes:
        system: name and version of the operating system.
        platform: ``sys.platform``.
        cpu: its name.
        features: of the CPU, as far as they matter here.
        cores: of the machine.
        usable_cores: those that this process may keep busy: lent to it, and of the quota of its
            container; not always a whole number.
        memory: bytes, those of its container where they are limited.
        memory_available: bytes.
        shared_memory: bytes of ``/dev/shm``.
        shared_memory_free: bytes of it.
        output: where runs are written.
        cache: where Detectron2 keeps what it downloads.
        temporary: where temporary files go; None if there is no usable folder.
        open_files: that this process may have at once.
        host_resolves: whether the machine's own name has an address.
        nvidia: name, driver and memory of each NVIDIA GPU, as the driver's own tool says it.
    """

    system: str
    platform: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    usable_cores: float
    memory: int | None
    memory_available: int | None
    shared_memory: int | None
    shared_memory_free: int | None
    output: Disk
    cache: Disk
    temporary: Disk | None
    open_files: int | None
    host_resolves: bool
    nvidia: tuple[str, ...]


def examine_machine(output: str | os.PathLike[str]) -> Machine:
    """Return what this machine is.

    Args:
        output: folder that runs are going to be written to; it is not made.
    """
    information = _fields(Path("/proc/cpuinfo"))
    flags = information.get("flags", information.get("Features", "")).split()
    memory = _fields(Path("/proc/meminfo"))
    shared = Path("/dev/shm")
    usage = shutil.disk_usage(shared) if shared.is_dir() else None
    cache = os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")
    return Machine(
        system=platform.platform(terse=True),
        platform=sys.platform,
        cpu=information.get("model name") or platform.processor() or platform.machine(),
        features=tuple(name for flag, name in _FEATURES.items() if flag in flags),
        cores=os.cpu_count() or 1,
        usable_cores=_usable_cores(),
        memory=_smallest(_kibibytes(memory.get("MemTotal")), _container_limit("memory.max")),
        memory_available=_kibibytes(memory.get("MemAvailable")),
        shared_memory=usage and usage.total,
        shared_memory_free=usage and usage.free,
        output=_disk(output),
        cache=_disk(os.path.expanduser(cache)),
        temporary=_temporary(),
        open_files=_open_files(),
        host_resolves=_host_resolves(),
        nvidia=_nvidia(),
    )


def _fields(path: Path) -> dict[str, str]:
    """Return the first ``name: value`` of each name in a file of Linux, empty elsewhere."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), value.strip())
    return fields


def _kibibytes(text: str | None) -> int | None:
    match = re.match(r"(\d+) kB", text or "")
    return int(match[1]) * 1024 if match else None


def _smallest(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _container_file(name: str) -> str:
    with contextlib.suppress(OSError):
        return Path("/sys/fs/cgroup", name).read_text().strip()
    return ""


def _container_limit(name: str) -> int | None:
    text = _container_file(name)
    return int(text) if text.isdigit() else None


def _usable_cores() -> float:
    # As parallel.available_cpus, which needs OpenCV.
    lent = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _quota()
    return lent if quota is None or not period else min(lent, round(quota / period, 1))


def _quota() -> tuple[int | None, int | None]:
    """Return microseconds of CPU time in each period of a container, of either kind of cgroup."""
    words = _container_file("cpu.max").split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]), int(words[1])
    limits = [_container_limit(f"cpu/cpu.cfs_{what}_us") for what in ("quota", "period")]
    return limits[0], limits[1]


def _disk(path: str | os.PathLike[str]) -> Disk:
    """Look at a folder, or at where it would be made; nothing is left in it."""
    there = Path(path).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        # Permissions alone do not tell, of root or of a read-only disk.
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    return Disk(os.fspath(path), shutil.disk_usage(there).free, writable)


def _temporary() -> Disk | None:
    try:
        return _disk(tempfile.gettempdir())
    except FileNotFoundError:
        return None


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:
        return None  # Windows
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _host_resolves() -> bool:
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return False
    return True


def _nvidia() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query: Sequence[str] = [
        *(program, "--query-gpu=name,driver_version,memory.total"),
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode:
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
