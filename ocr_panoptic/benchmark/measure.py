"""What a call costs: FLOPs, peak memory, and time in turns with other calls."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop, sdpa_flop
from tqdm import tqdm

from ocr_panoptic.errors import InputError

# The profiler's library prints its stages to stderr at its default level.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

__all__ = [
    "DTYPES",
    "MODES",
    "FlopCounter",
    "Footprint",
    "check_counts",
    "check_device",
    "count_flops",
    "failures_in_one_line",
    "interleaved_times",
    "measure_footprint",
    "read_size",
    "section",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What ``--dtype`` names."""

MODES = ("forward", "training")
"""What ``--mode`` names: inference, or forward and backward in training mode."""

# Marks a part of a call in a profile.
_SECTION = "part of a benchmark: "


@dataclass(frozen=True)
class Footprint:
    """The memory of one call.

    Attributes:
        peak_bytes: largest memory in use beyond what was in use before the call.
        sections: the same, while a :func:`section` of that name ran.
    """

    peak_bytes: int
    sections: Mapping[str, int]


def read_size(flag: str, text: str, example: str) -> tuple[int, ...]:
    """Read numbers of 1 or more, with commas between them.

    Args:
        flag: what an error calls them.
        text: such as "512,128,128".
        example: a right one, which says how many; such as "C,H,W such as 512,128,128".

    Raises:
        InputError: if they are not as many, or not such numbers.
    """
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) != example.split(" ")[0].count(",") + 1:
        raise InputError(f"{flag} {text}: expected {example}")
    if min(numbers) < 1:
        raise InputError(f"{flag} {text}: expected numbers of 1 or more")
    return numbers


def check_counts(**counts: int | None) -> None:
    """See that numbers are 1 or more, or None.

    Args:
        **counts: by the name of their flag, with "_" for "-".

    Raises:
        InputError: if one is not.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected 1 or more")


def check_device(device: str) -> None:
    """See that a device is "cpu", or "cuda" and there.

    Raises:
        InputError: if it is not.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device, expected cpu")


@contextlib.contextmanager
def failures_in_one_line(what: str, device: str) -> Iterator[None]:
    """Tell in one line what a device, or BatchNorm in training, cannot do.

    Args:
        what: the flag and value that decide.
        device: "cpu" or "cuda".

    Raises:
        InputError: in place of torch's errors for too little memory, for a dtype that it has not,
            and for a variance of one value.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        # torch has no classes of its own for these, but for CUDA's memory.
        for reason, told in (
            ("allocate", f"{device} has not enough memory, expected a smaller size"),
            (
                "not implemented for 'Half'",
                f"torch cannot compute it in float16 on this {device}, expected --dtype float32 or "
                "bfloat16",
            ),
            (
                "more than 1 value per channel",
                "BatchNorm has one value in training, expected a larger --batch or size",
            ),
        ):
            if reason in str(error):
                raise InputError(f"{what}: {told}") from error
        raise


def count_flops(call: Callable[[], Any]) -> int:
    """Count the FLOPs of a call: two for each multiply-add of convolutions and matrix products.

    Counted is what runs, fused attention and the backward pass included. What the papers' tables
    leave out is left out here: norms, pooling, interpolation and other pointwise work.
    """
    with FlopCounter() as counter:
        call()
    return counter.total


class FlopCounter(TorchDispatchMode):
    """Counts what runs while it is entered, as :func:`count_flops` says.

    torch's own counter misses some products, and what runs in ``torch.inference_mode``; its
    formulas are used.

    Attributes:
        total: FLOPs until now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._fast_paths: list[bool] = []

    def __enter__(self) -> FlopCounter:
        # torch has no formula for the one kernel that stands for all of a multi-head attention.
        self._fast_paths.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *args) -> None:
        torch.backends.mha.set_fastpath_enabled(self._fast_paths.pop())
        super().__exit__(*args)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is None:
            # In torch.inference_mode, products come here under the names of those made of them.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, **{_RESULT: result})
        return result


def _shapes_only(formula: Callable[..., int]) -> Callable[..., int]:
    def count(*args, **kwargs) -> int:
        return formula(*(arg.shape if isinstance(arg, torch.Tensor) else arg for arg in args))

    return count


@_shapes_only
def _matrix_vector(matrix: torch.Size, vector: torch.Size, *_) -> int:
    return 2 * matrix.numel()


@_shapes_only
def _vectors(one: torch.Size, other: torch.Size) -> int:
    return 2 * one.numel()


@_shapes_only
def _convolution_backward(
    grad: torch.Size, feats: torch.Size, weight: torch.Size, *rest: Any
) -> int:
    # Each of the two gradients takes the products of the forward pass once more. torch's own
    # formula does not know of groups.
    transposed, mask = rest[4], rest[7]
    return conv_flop_count(feats, weight, grad, transposed=transposed) * sum(map(bool, mask[:2]))


_aten = torch.ops.aten
# What a formula calls the result whose FLOPs it counts; versions of torch differ.
_RESULT = next(
    name
    for name in ("out_val", "out")
    if name in inspect.signature(flop_registry[_aten.mm], follow_wrapped=False).parameters
)
_FORMULAS = {
    **flop_registry,
    _aten.mv: _matrix_vector,
    _aten.addmv: lambda bias, *args, **kwargs: _matrix_vector(*args),
    _aten.dot: _vectors,
    _aten.vdot: _vectors,
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


@contextlib.contextmanager
def section(name: str) -> Iterator[None]:
    """Mark a part of a call, whose memory :func:`measure_footprint` tells by itself."""
    if _cuda_sections.peaks is None:
        with record_function(f"{_SECTION}{name}"):
            yield
        return
    torch.cuda.reset_peak_memory_stats()
    yield
    peak = torch.cuda.max_memory_allocated()
    _cuda_sections.peaks[name] = max(_cuda_sections.peaks.get(name, 0), peak)


@dataclass
class _CudaSections:
    """The peaks of sections while they are collected on CUDA, which has one counter of peaks."""

    peaks: dict[str, int] | None = None


_cuda_sections = _CudaSections()


def measure_footprint(call: Callable[[], Any], device: str) -> Footprint:
    """Return the memory that one call takes; it should not be the first, which may prepare things.

    On the CPU it is what torch allocates; libraries below it have buffers of their own.
    """
    if device == "cuda":
        return _measure_cuda(call)
    with warnings.catch_warnings():
        # torch's note about profiles of several cycles.
        warnings.filterwarnings("ignore", "Warning: Profiler clears events")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
    return _read_profile(profiler.profiler.kineto_results.events())


def _measure_cuda(call: Callable[[], Any]) -> Footprint:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    peak = torch.cuda.max_memory_allocated() - before
    # Once more: sections take the counter for themselves.
    _cuda_sections.peaks = {}
    try:
        call()
        peaks = _cuda_sections.peaks
    finally:
        _cuda_sections.peaks = None
    return Footprint(peak, {name: value - before for name, value in peaks.items()})


def _read_profile(events: list) -> Footprint:
    # Allocations and releases in the order they happened: the largest running total.
    total = peak = 0
    totals = []
    for event in events:
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
            totals.append((_span(event)[0], total))
    sections: dict[str, int] = {}
    for event in events:
        if event.name().startswith(_SECTION):
            start, end = _span(event)
            inside = (total for moment, total in totals if start <= moment <= end)
            name = event.name().removeprefix(_SECTION)
            sections[name] = max(sections.get(name, 0), *inside, 0)
    return Footprint(peak, sections)


def _span(event: Any) -> tuple[int, int]:
    """Return when an event started and ended, in a unit of torch's version."""
    if hasattr(event, "start_ns"):
        return event.start_ns(), event.end_ns()
    return event.start_us(), event.start_us() + event.duration_us()


def interleaved_times(
    calls: Mapping[Any, Callable[[], Any]], device: str | Mapping[Any, str], runs: int
) -> dict[Any, list[float]]:
    """Return the times of ``runs`` calls of each, in turns, in milliseconds.

    A machine that changes its speed changes it for all.

    Args:
        calls: by name.
        device: of all calls, or of each by name.
        runs: how many of each.
    """
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(runs), desc="measuring", unit="round", leave=False, disable=None):
        for name, call in calls.items():
            on_cuda = (device if isinstance(device, str) else device[name]) == "cuda"
            if on_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if on_cuda:
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times
