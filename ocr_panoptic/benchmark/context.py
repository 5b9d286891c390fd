"""Measure context schemes side by side, in one interleaved run."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from fvcore.nn import FlopCountAnalysis
from tabulate import tabulate
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from ocr_panoptic.errors import InputError

from .schemes import SCHEMES, Scheme

# The profiler's library prints its stages to stderr at its default level.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

__all__ = [
    "Measurement",
    "check_device",
    "format_table",
    "interleaved_times",
    "measure_schemes",
]


_PRODUCTS = "matrix products"
_PRODUCT = (16384, 512), (512, 512)


@dataclass(frozen=True)
class Measurement:
    """One row.

    Attributes:
        name: the scheme's.
        size: (channels, height, width) of the input, batch size 1.
        device: as torch names it.
        dtype: of input and weights, without "torch.".
        params: number of parameters.
        flops: two for each multiply-add of convolutions and matrix products.
        peak_memory_bytes: largest memory in use during a call beyond input and weights.
        median_ms: median time of a call, milliseconds.
        spread_ms: largest minus smallest time of a call, milliseconds.
        published: the published row, or None.
        ratio_to_products: median_ms over the time of as many FLOPs as plain matrix products of
            16384x512 and 512x512, measured in the same run.
    """

    name: str
    size: tuple[int, int, int]
    device: str
    dtype: str
    params: int
    flops: int
    peak_memory_bytes: int
    median_ms: float
    spread_ms: float
    published: dict | None
    ratio_to_products: float


def measure_schemes(
    names: Sequence[str],
    size: tuple[int, int, int],
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    num_regions: int | None = None,
    runs: int = 9,
) -> list[Measurement]:
    """Measure the inference of some schemes on random input.

    Timed calls are interleaved, one of each scheme in turn, so that a machine that changes its
    speed changes it for all.

    Args:
        names: keys of :data:`~.schemes.SCHEMES`.
        size: (channels, height, width) of the input.
        device: "cpu" or "cuda".
        dtype: of input and weights.
        num_regions: K of the region logits; None for each scheme's own.
        runs: timed calls of each scheme, after one that is not counted.

    Raises:
        InputError: for an unknown name or a device that is not there.
    """
    unknown = [name for name in names if name not in SCHEMES]
    if unknown:
        raise InputError(f"--names {unknown[0]}: unknown, expected some of {' '.join(SCHEMES)}")
    for flag, value in (("--runs", runs), ("--num-regions", num_regions)):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value}: expected 1 or more")
    check_device(device)
    calls = {}
    rows = {}
    for name in names:
        scheme = SCHEMES[name]
        module, inputs = _build(scheme, size, num_regions, device, dtype)
        calls[name] = _call(module, inputs)
        rows[name] = {
            "params": sum(parameter.numel() for parameter in module.parameters()),
            "flops": 2 * _multiply_adds(module, inputs),
            "peak_memory_bytes": _peak_memory(calls[name], device),
            "published": asdict(scheme.published) if scheme.published else None,
        }
    left, right = (torch.randn(*shape, device=device, dtype=dtype) for shape in _PRODUCT)
    calls[_PRODUCTS] = lambda: torch.mm(left, right)
    times = interleaved_times(calls, device, runs)
    product_ms = statistics.median(times[_PRODUCTS])
    product_flops = 2 * math.prod(_PRODUCT[0]) * _PRODUCT[1][1]
    return [
        Measurement(
            name=name,
            size=tuple(size),
            device=device,
            dtype=str(dtype).removeprefix("torch."),
            median_ms=statistics.median(times[name]),
            spread_ms=max(times[name]) - min(times[name]),
            ratio_to_products=statistics.median(times[name])
            / (product_ms * rows[name]["flops"] / product_flops),
            **rows[name],
        )
        for name in names
    ]


def check_device(device: str) -> None:
    """See that a device is "cpu", or "cuda" and there.

    Raises:
        InputError: if it is not.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device, expected cpu")


def _build(
    scheme: Scheme,
    size: tuple[int, int, int],
    num_regions: int | None,
    device: str,
    dtype: torch.dtype,
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    module = scheme.build(size[0]).eval().to(device, dtype)
    channels = [size[0]]
    if scheme.num_regions is not None:
        channels.append(num_regions or scheme.num_regions)
    inputs = (torch.randn(1, width, *size[1:], device=device, dtype=dtype) for width in channels)
    return module, tuple(inputs)


def _call(module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    @torch.no_grad()
    def call() -> Tensor:
        return module(*inputs)

    return call


def _multiply_adds(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Count multiply-adds of convolutions and matrix products, the fused attention's included."""
    analysis = FlopCountAnalysis(module, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_multiply_adds)
    # What the tables leave out: norms and other pointwise work.
    for kind in ("batch_norm", "group_norm", "layer_norm"):
        analysis.set_op_handle(f"aten::{kind}", lambda inputs, outputs: 0)
    return int(analysis.total())


def _attention_multiply_adds(inputs: list, outputs: list) -> int:
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    pairs = math.prod(query[:-1]) * key[-2]
    return pairs * (query[-1] + value[-1])


def _peak_memory(call: Callable[[], Tensor], device: str) -> int:
    """Return the peak of what one call allocates, in bytes."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    # Allocations and releases in the order they happened: the largest running total.
    total = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


def interleaved_times(
    calls: dict[str, Callable[[], Tensor]], device: str, runs: int
) -> dict[str, list[float]]:
    """Return the times of ``runs`` calls of each, in turns, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(runs), desc="measuring", unit="round", leave=False):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def format_table(rows: Sequence[Measurement]) -> str:
    """Return the measurements as a markdown table, times also as ratios to the slowest row.

    A published row is shown where it was made at the same input size.
    """
    slowest = max(row.median_ms for row in rows)

    def published(row: Measurement, key: str, unit: float, text: str) -> str:
        if row.published is None or tuple(row.published["size"]) != row.size:
            return ""
        if row.published[key] is None:
            return ""
        return text.format(row.published[key] / unit)

    table = [
        {
            "scheme": row.name,
            "params": f"{row.params / 1e6:.2f} M",
            "published": published(row, "params", 1e6, "{:.1f} M"),
            "FLOPs": f"{row.flops / 1e9:.1f} G",
            "published ": published(row, "flops", 1e9, "{:.0f} G"),
            "peak memory": f"{row.peak_memory_bytes / 2**20:.0f} MiB",
            "median": f"{row.median_ms:.1f} ms",
            "spread": f"{row.spread_ms:.1f} ms",
            "ratio to slowest": f"{row.median_ms / slowest:.3f}",
            "ratio to its FLOPs as matrix products": f"{row.ratio_to_products:.2f}",
        }
        for row in rows
    ]
    size = "x".join(map(str, rows[0].size))
    text = tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)
    notes = "".join(f"\n{note}" for note in _compare_with_dense({row.name: row for row in rows}))
    return f"{size}, {rows[0].dtype}, {rows[0].device}\n\n{text}\n{notes}".rstrip()


def _compare_with_dense(rows: dict[str, Measurement]) -> Iterator[str]:
    """Say what ISA costs of dense self-attention, wherever both were measured."""
    for sparse, dense, what in (
        ("isa", "sa", "alone"),
        ("isa_textbook", "sa", "alone, as in Algorithm 1"),
        ("base_oc_isa", "base_oc_sa", "with the fusion of Base-OC"),
    ):
        if sparse in rows and dense in rows:
            share = 100 * rows[sparse].flops / rows[dense].flops
            yield (
                f"FLOPs of {sparse}: {share:.1f} % of {dense}, {what}"
                " (published: 24.6 %, OCNet Fig. 4, without saying what is counted)"
            )
    if {"isa", "sa_explicit"} <= set(rows):
        share = 100 * rows["isa"].peak_memory_bytes / rows["sa_explicit"].peak_memory_bytes
        yield f"Peak memory of isa: {share:.1f} % of sa_explicit (published: 10.2 %, OCNet Fig. 4)"
