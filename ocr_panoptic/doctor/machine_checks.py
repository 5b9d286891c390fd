"""Checks of the machine: threads, shared memory, disks, limits, data."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .facts import Facts
from .finding import INFO, OK, PROBLEM, Finding
from .machine import Disk

__all__ = ["MACHINE_CHECKS", "gibibytes"]

_GIBIBYTE = 2**30
# Two batches of 16 images of 800x1333 with their masks, on their way from the workers.
_LITTLE_SHARED = 2 * _GIBIBYTE
# What a container gets by default is 64 MiB: training ends with "bus error".
_TOO_LITTLE_SHARED = _GIBIBYTE // 4
# A checkpoint of R-50 with its optimizer takes 0.4 GiB, and one is written every 5000 iterations.
_LITTLE_DISK = 25 * _GIBIBYTE
_TOO_LITTLE_DISK = _GIBIBYTE
_FEW_FILES = 1024


def gibibytes(number: int | None) -> str:
    """Return a number of bytes for people, in GiB or in MiB."""
    if number is None:
        return "unknown"
    if number < _GIBIBYTE:
        return f"{number / 2**20:.0f} MiB"
    return f"{number / _GIBIBYTE:.1f} GiB" if number < 10 * _GIBIBYTE else f"{number >> 30} GiB"


def check_system(facts: Facts) -> Iterator[Finding]:
    """The operating system."""
    if facts.machine.platform == "linux":
        yield Finding("system", OK, facts.machine.system)
        return
    found = f"{facts.machine.system}: this project and the pinned Detectron2 are tested on Linux"
    windows = facts.machine.platform == "win32"
    cure = "use Linux under WSL, as Detectron2 does not support Windows" if windows else ""
    yield Finding("system", PROBLEM if windows else INFO, found, cure)


def check_threads(facts: Facts) -> Iterator[Finding]:
    """How many threads compute, and how many cores there are for them."""
    usable = facts.machine.usable_cores
    advised = f"export OMP_NUM_THREADS={max(1, int(usable))}"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = facts.environment.get(name)
        if value and not value.replace(",", "").isdigit():
            found = f"{name} is {value!r}, which is no number of threads and is ignored"
            yield Finding("threads", INFO, found, advised)
            return
    threads = facts.found("torch").get("threads")
    if threads is None:
        return  # told by the check of the imports
    found = f"torch computes with {threads} thread(s) on {usable:g} usable core(s)"
    if threads > max(1, usable):
        why = "they wait for each other; with several processes each has as many"
        yield Finding("threads", INFO, f"{found}: {why}", advised)
    elif threads == 1 and usable >= 2 and not facts.found("torch-cuda").get("available"):
        yield Finding("threads", INFO, f"{found}: the others are idle", advised)
    else:
        yield Finding("threads", OK, found)


def check_affinity(facts: Facts) -> Iterator[Finding]:
    """Settings that bind threads to cores, and with them all workers of a data loader."""
    for name in ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PROC_BIND"):
        value = facts.environment.get(name, "")
        if value and value.lower() not in ("false", "disabled", "none"):
            found = f"{name} is {value!r}: workers of the data loader may share one core"
            yield Finding("affinity", INFO, found, f"unset {name}")


def check_shared_memory(facts: Facts) -> Iterator[Finding]:
    """/dev/shm, through which the workers of a data loader hand on their images."""
    free, size = facts.machine.shared_memory_free, facts.machine.shared_memory
    if free is None:
        return  # not Linux
    found = f"/dev/shm has {gibibytes(free)} free of {gibibytes(size)}"
    cure = "in a container: docker run --shm-size=8g (or --ipc=host); else: "
    cure += "mount -o remount,size=8g /dev/shm; or train with DATALOADER.NUM_WORKERS 0"
    if free < _TOO_LITTLE_SHARED:
        found += ": workers of the data loader end with 'bus error'"
        yield Finding("shared-memory", PROBLEM, found, cure)
    elif free < _LITTLE_SHARED:
        found += ", little for batches of large images"
        yield Finding("shared-memory", INFO, found, cure)
    else:
        yield Finding("shared-memory", OK, f"{found}, for the workers of the data loader")


def check_disks(facts: Facts) -> Iterator[Finding]:
    """The folders that are written to."""
    machine = facts.machine
    yield _disk("disk-output", "output folder", machine.output, "OUTPUT_DIR of a run")
    if machine.cache.writable:
        yield Finding(
            "disk-cache",
            OK if machine.cache.free >= _TOO_LITTLE_DISK else INFO,
            f"{machine.cache.path}, for downloads: {gibibytes(machine.cache.free)} free",
        )
    else:
        found = f"{machine.cache.path} cannot be written to: downloads go to a temporary folder"
        yield Finding("disk-cache", INFO, found, "export FVCORE_CACHE=/a/folder/of/yours")
    if machine.temporary is None:
        found = "no folder for temporary files can be written to"
        yield Finding("disk-temporary", PROBLEM, found, "export TMPDIR=/a/folder/with/space")


def _disk(name: str, what: str, disk: Disk, setting: str) -> Finding:
    found = f"{what} {disk.path}"
    if not disk.writable:
        return Finding(name, PROBLEM, f"{found} cannot be written to", f"set {setting} to another")
    found += f": {gibibytes(disk.free)} free"
    if disk.free < _TOO_LITTLE_DISK:
        return Finding(
            name, PROBLEM, f"{found}, a few checkpoints fill it", f"set {setting} to another disk"
        )
    if disk.free < _LITTLE_DISK:
        found += "; a checkpoint of R-50 takes 0.4 GiB, and a 3x schedule writes 54"
        return Finding(name, INFO, found, "set SOLVER.CHECKPOINT_PERIOD higher, or make room")
    return Finding(name, OK, found)


def check_open_files(facts: Facts) -> Iterator[Finding]:
    """How many files may be open; workers of a data loader hand on each tensor as one."""
    limit = facts.machine.open_files
    # RLIM_INFINITY is negative.
    if limit is not None and 0 <= limit < _FEW_FILES:
        found = f"{limit} files may be open at once: workers of the data loader may fail with "
        found += "'received 0 items of ancdata' or 'too many open files'"
        yield Finding("open-files", INFO, found, "ulimit -n 4096")


def check_host(facts: Facts) -> Iterator[Finding]:
    """Whether processes find each other by the machine's name."""
    if not facts.machine.host_resolves:
        found = "this machine's own name has no address: processes on several machines may wait "
        found += "for each other for ever"
        cure = "add the name to /etc/hosts; on one machine: export GLOO_SOCKET_IFNAME=lo"
        yield Finding("host-name", INFO, found, cure)


def check_datasets(facts: Facts) -> Iterator[Finding]:
    """Where data sets are looked for, and which are there."""
    value = facts.environment.get("DETECTRON2_DATASETS")
    where = (
        f"DETECTRON2_DATASETS is {value}" if value else "DETECTRON2_DATASETS is not set: ./datasets"
    )
    if facts.datasets:
        yield Finding("datasets", OK, f"{where}; there: {', '.join(facts.datasets)}")
        return
    missing = value and not os.path.isdir(os.path.expanduser(value))
    found = f"{where}, {'which is no folder' if missing else 'without COCO and Shapes'}"
    cure = "export DETECTRON2_DATASETS=/your/data (datasets/README.md says what is in it); data of "
    cure += "your own need none"
    yield Finding("datasets", INFO, found, cure)


MACHINE_CHECKS = (
    check_system,
    check_threads,
    check_affinity,
    check_shared_memory,
    check_disks,
    check_open_files,
    check_host,
    check_datasets,
)
"""Each takes :class:`.facts.Facts` and yields :class:`.finding.Finding`."""
