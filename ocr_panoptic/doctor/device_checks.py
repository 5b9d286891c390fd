"""Checks of GPUs, their driver, and what Detectron2 cannot do without one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .cures import cure_of_torch
from .facts import Facts, version_numbers
from .finding import INFO, OK, PROBLEM, Finding

__all__ = ["DEVICE_CHECKS", "describe_gpus"]

_GIBIBYTE = 2**30
# CUDA of a build of torch -> the oldest driver for Linux that runs it, of NVIDIA's release notes.
_DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}


def describe_gpus(facts: Facts) -> list[str]:
    """Return a line for each GPU that torch can use, or that the driver's own tool sees."""
    devices = facts.found("torch-cuda").get("devices") or []
    if not devices:
        return [f"{line} (not used by torch)" for line in facts.machine.nvidia]
    driver = _driver_version(facts)
    return [
        f"{device['name']}, {device['memory'] / _GIBIBYTE:.0f} GiB"
        + (f" ({device['free'] / _GIBIBYTE:.0f} free)" if device["free"] is not None else "")
        + f", compute capability {device['capability'][0]}.{device['capability'][1]}"
        + (", bf16" if device["capability"][0] >= 8 else "")
        + (f", driver {driver}" if driver else "")
        for device in devices
    ]


def _driver_version(facts: Facts) -> str:
    """Return the version of the driver, from the lines "name, version, memory"."""
    words = [line.split(", ") for line in facts.machine.nvidia]
    return words[0][1] if words and len(words[0]) > 1 else ""


def _driver_cuda(facts: Facts) -> tuple[int, int] | None:
    """Return the newest CUDA that the driver runs."""
    number = facts.found("cuda-driver").get("cuda")
    return (number // 1000, number % 1000 // 10) if number else None


def check_cuda(facts: Facts) -> Iterator[Finding]:
    """Whether torch can use the GPUs of this machine."""
    if not facts.ok("torch-cuda"):
        return  # told by the check of the imports
    torch, cuda = facts.found("torch"), facts.found("torch-cuda")
    driver = _driver_cuda(facts)
    has_gpu = bool(facts.machine.nvidia) or driver is not None
    if cuda["available"]:
        built = (torch["hip"] and f"ROCm {torch['hip']}") or f"CUDA {torch['cuda']}"
        yield Finding("cuda", OK, f"{len(cuda['devices'])} GPU(s), torch for {built}")
    elif facts.environment.get("CUDA_VISIBLE_DEVICES", None) in ("", "-1"):
        value = facts.environment["CUDA_VISIBLE_DEVICES"]
        found = f"CUDA_VISIBLE_DEVICES is {value!r}: torch is not to see a GPU"
        yield Finding("cuda", INFO, found, "unset CUDA_VISIBLE_DEVICES")
    elif not has_gpu:
        built = f"torch for CUDA {torch['cuda']}" if torch["cuda"] else "torch without CUDA"
        yield Finding("cuda", OK, f"no GPU and no driver of NVIDIA here; {built} uses the CPU")
    elif torch["cuda"] is None:
        found = f"torch {torch['version']} was built without CUDA, but there is a GPU"
        if facts.machine.nvidia:
            found += f": {facts.machine.nvidia[0]}"
        build = _build(facts, driver)
        cure = cure_of_torch(facts, build) if build else "update the driver of the GPU"
        yield Finding("cuda", PROBLEM, found, cure)
    else:
        yield from _unusable(facts, driver)


def _build(facts: Facts, driver: tuple[int, int] | None) -> str | None:
    """Return the build of the installed torch that a driver runs, None if there is none."""
    version = version_numbers(facts.version("torch"))[:2]
    if driver is None or driver >= (12, 0):
        return "cu121" if version < (2, 6) else "cu126"
    return "cu118" if driver >= (11, 0) and version < (2, 8) else None


def _unusable(facts: Facts, driver: tuple[int, int] | None) -> Iterator[Finding]:
    """Tell why torch, which was built for CUDA, has none, though there is a GPU."""
    torch, cuda = facts.found("torch"), facts.found("torch-cuda")
    reason = "; ".join(cuda["warnings"])
    found = f"torch for CUDA {torch['cuda']} finds no GPU"
    built = version_numbers(torch["cuda"])
    if driver is not None and driver[:1] < built[:1]:
        needed = _DRIVERS.get(built[0])
        found += f": the driver {_driver_version(facts)} runs CUDA {driver[0]}.{driver[1]} at most"
        update = f"update the driver to {needed} or later" if needed else "update the driver"
        build = _build(facts, driver)
        cure = f"{update}, or: {cure_of_torch(facts, build)}" if build else update
        yield Finding("cuda", PROBLEM, found, cure)
        return
    if reason:
        found += f": {reason}"
    cure = "nvidia-smi has to list the GPU; in a container: docker run --gpus all; after an update "
    cure += "of the driver, restart the machine"
    yield Finding("cuda", PROBLEM if facts.machine.nvidia or reason else INFO, found, cure)


def check_gpus(facts: Facts) -> Iterator[Finding]:
    """Whether every GPU computes with this build of torch."""
    cuda = facts.found("torch-cuda")
    for number, device in enumerate(cuda.get("devices", ())):
        capability = tuple(device["capability"])
        name = f"GPU {number}, {device['name']}"
        if not device["error"]:
            yield Finding(f"gpu-{number}", OK, f"{name}: a convolution and its gradient went well")
            continue
        found = f"{name}: {device['error']}"
        if not _is_supported(capability, cuda["architectures"]):
            found += (
                f" (its compute capability {capability[0]}.{capability[1]} is not among those of "
                f"this torch: {' '.join(cuda['architectures'])})"
            )
            newer = _newest(cuda["architectures"]) < capability
            cure = "install a newer torch" if newer else "install an older torch"
            cure = f"{cure}: https://pytorch.org/get-started/previous-versions"
        elif "cuDNN" in device["error"] or "CUDNN" in device["error"]:
            cure = "unset LD_LIBRARY_PATH, so that torch finds the cuDNN that it came with"
        elif "out of memory" in device["error"]:
            cure = "end what uses its memory: nvidia-smi lists it"
        else:
            cure = f"see whether nvidia-smi names an error; {cure_of_torch(facts)}"
        yield Finding(f"gpu-{number}", PROBLEM, found, cure)


def _architectures(names: list[str]) -> list[tuple[str, tuple[int, int]]]:
    """Return kind and number of names such as "sm_90a" or "compute_120"."""
    matches = [re.match(r"(sm|compute)_(\d+)(\d)", name) for name in names]
    return [(match[1], (int(match[2]), int(match[3]))) for match in matches if match]


def _is_supported(capability: tuple[int, ...], names: list[str]) -> bool:
    """Return whether there is code for a GPU: of its major number, or to be compiled for it."""
    return any(
        number <= capability and (kind == "compute" or number[0] == capability[0])
        for kind, number in _architectures(names)
    )


def _newest(names: list[str]) -> tuple[int, int]:
    return max((number for _, number in _architectures(names)), default=(0, 0))


def check_cpu_only(facts: Facts) -> Iterator[Finding]:
    """What training without a GPU changes."""
    if facts.ok("torch-cuda") and not facts.found("torch-cuda")["available"]:
        found = (
            "without a GPU: SOLVER.AMP is turned off, as Detectron2's AMP trainer asserts CUDA; "
            "SyncBN between processes becomes naiveSyncBN; --num-gpus 2 starts two CPU processes"
        )
        yield Finding("cpu-only", INFO, found)


DEVICE_CHECKS = (check_cuda, check_gpus, check_cpu_only)
"""Each takes :class:`.facts.Facts` and yields :class:`.finding.Finding`."""
