"""Measure context schemes side by side, in one interleaved run."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .measure import (
    DTYPES,
    check_counts,
    check_device,
    count_flops,
    failures_in_one_line,
    interleaved_times,
    measure_footprint,
)
from .published import PUBLISHED, READINGS
from .schemes import build_scheme, scheme_of

__all__ = ["Measurement", "measure_schemes"]

_PRODUCT = (16384, 512), (512, 512)


@dataclass(frozen=True)
class Measurement:
    """One row.

    Attributes:
        name: the scheme's.
        size: (channels, height, width) of the input.
        batch: images of the input.
        device: as torch names it.
        dtype: of input and weights, a key of :data:`~.measure.DTYPES`.
        mode: one of :data:`~.measure.MODES`.
        params: number of parameters.
        flops: of a call: two for each multiply-add of convolutions and matrix products.
        peak_memory_bytes: largest memory in use during a call beyond input and weights; in
            training, gradients of both are part of it.
        median_ms: median time of a call, milliseconds.
        spread_ms: largest minus smallest time of a call, milliseconds.
        published: the first of ``published_rows``, or None.
        published_rows: the rows of the papers' tables, as :class:`~.published.Published`.
        reading: why the cost is not the published one, where this is known; or None.
        ratio_to_products: median_ms over the time of as many FLOPs as plain matrix products of
            16384x512 and 512x512, measured in the same run; None for a scheme without any.
    """

    name: str
    size: tuple[int, int, int]
    batch: int
    device: str
    dtype: str
    mode: str
    params: int
    flops: int
    peak_memory_bytes: int
    median_ms: float
    spread_ms: float
    published: dict | None
    published_rows: tuple[dict, ...]
    reading: str | None
    ratio_to_products: float | None

    @property
    def comparable(self) -> bool:
        """Whether the published rows were made with such an input, in such a mode."""
        return (
            self.published is not None
            and tuple(self.published["size"]) == tuple(self.size)
            and (self.batch, self.mode) == (1, "forward")
        )


class _Case(NamedTuple):
    """What is measured in a row: a scheme under given conditions."""

    name: str
    size: tuple[int, int, int]
    device: str
    dtype: str
    mode: str


def measure_schemes(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int, int]],
    *,
    devices: Sequence[str] = ("cpu",),
    dtypes: Sequence[str] = ("float32",),
    modes: Sequence[str] = ("forward",),
    batch: int | None = None,
    num_regions: int | None = None,
    runs: int = 9,
) -> list[Measurement]:
    """Measure schemes on random input, each under all conditions, in one interleaved run.

    Timed calls take turns, so that a machine that changes its speed changes it for all.

    Args:
        names: registered schemes, and forms of them (:data:`~.schemes.FORMS`).
        sizes: (channels, height, width) of inputs.
        devices: of "cpu" and "cuda".
        dtypes: of input and weights, keys of :data:`~.measure.DTYPES`.
        modes: of :data:`~.measure.MODES`.
        batch: images of an input; None for 1, and 2 in training: with one, BatchNorm has no
            variance of what is pooled to a single position.
        num_regions: K of the region logits; None for COCO's.
        runs: timed calls of each, after others that are not counted.

    Returns:
        A row for each combination: by device, dtype, mode and size, then in the order of ``names``.

    Raises:
        InputError: for an unknown name, a device that is not there, or too little memory.
    """
    check_counts(runs=runs, num_regions=num_regions, batch=batch)
    for device in devices:
        check_device(device)
    names, sizes, devices, dtypes, modes = (
        tuple(dict.fromkeys(given)) for given in (names, sizes, devices, dtypes, modes)
    )
    for name in names:
        scheme_of(name)
    setting = _Setting(batch, num_regions)
    cases = [
        _Case(name, size, device, dtype, mode)
        for device, dtype, mode, size, name in itertools.product(
            devices, dtypes, modes, sizes, names
        )
    ]
    calls: dict[_Case | tuple[str, str], Callable[[], object]] = {}
    rows = {}
    for case in tqdm(cases, desc="counting", unit="scheme", leave=False, disable=None):
        with failures_in_one_line(
            f"--size {','.join(map(str, case.size))}, {case.name}", case.device
        ):
            module, calls[case] = setting.call(case)
            rows[case] = {
                "params": sum(parameter.numel() for parameter in module.parameters()),
                "flops": count_flops(calls[case]),
                "peak_memory_bytes": measure_footprint(calls[case], case.device).peak_bytes,
            }
    for device, dtype in itertools.product(devices, dtypes):
        calls[device, dtype] = _matrix_products(device, dtype)
    on = {key: key.device if isinstance(key, _Case) else key[0] for key in calls}
    times = interleaved_times(calls, on, runs)
    return [_row(case, setting.batch_of(case), rows[case], times) for case in cases]


def _row(case: _Case, batch: int, counted: Mapping[str, int], times: Mapping) -> Measurement:
    median = statistics.median(times[case])
    product_ms = statistics.median(times[case.device, case.dtype])
    share = counted["flops"] / (2 * math.prod(_PRODUCT[0]) * _PRODUCT[1][1])
    scheme = scheme_of(case.name)
    published = tuple(asdict(row) for row in PUBLISHED.get(scheme, ()))
    return Measurement(
        **case._asdict(),
        **counted,
        batch=batch,
        median_ms=median,
        spread_ms=max(times[case]) - min(times[case]),
        published=published[0] if published else None,
        published_rows=published,
        reading=READINGS.get(case.name),
        ratio_to_products=median / (product_ms * share) if share else None,
    )


def _matrix_products(device: str, dtype: str) -> Callable[[], Tensor]:
    left, right = (torch.randn(*shape, device=device, dtype=DTYPES[dtype]) for shape in _PRODUCT)
    return lambda: torch.mm(left, right)


class _Setting:
    """Modules and inputs of all cases, each made once and shared where it can be."""

    def __init__(self, batch: int | None, num_regions: int | None) -> None:
        self.batch, self.num_regions = batch, num_regions
        self.modules: dict[tuple, tuple[nn.Module, int | None]] = {}
        self.inputs: dict[tuple, Tensor] = {}

    def batch_of(self, case: _Case) -> int:
        """Return the images of a case's input."""
        return self.batch or (2 if case.mode == "training" else 1)

    def call(self, case: _Case) -> tuple[nn.Module, Callable[[], object]]:
        """Return a case's module, and the call that is measured."""
        module, classes = self._module(case)
        inputs = [self._input(case, case.size[0])]
        if classes is not None:
            one_hot = getattr(module.context, "uses_ground_truth", False)
            inputs.append(self._input(case, classes, one_hot=one_hot))
        return module, (_training if case.mode == "training" else _inference)(module, inputs)

    def _module(self, case: _Case) -> tuple[nn.Module, int | None]:
        key = (case.name, case.size[0], case.device, case.dtype, case.mode)
        if key not in self.modules:
            torch.manual_seed(0)
            module, classes = build_scheme(case.name, case.size[0], self.num_regions)
            module.train(case.mode == "training").to(case.device, DTYPES[case.dtype])
            self.modules[key] = module, classes
        return self.modules[key]

    def _input(self, case: _Case, channels: int, one_hot: bool = False) -> Tensor:
        """Return random feats or region logits, or the one-hot maps of random labels."""
        key = (channels, one_hot, *case[1:])
        if key not in self.inputs:
            shape = (self.batch_of(case), channels, *case.size[1:])
            if one_hot:
                labels = torch.randint(channels, (shape[0], *shape[2:]), device=case.device)
                maps = F.one_hot(labels, channels).permute(0, 3, 1, 2)
                self.inputs[key] = maps.to(DTYPES[case.dtype]).contiguous()
            else:
                given = torch.randn(*shape, device=case.device, dtype=DTYPES[case.dtype])
                self.inputs[key] = given.requires_grad_(case.mode == "training")
        return self.inputs[key]


def _inference(module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Tensor]:
    @torch.no_grad()
    def call() -> Tensor:
        return module(*inputs)

    return call


def _training(module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], None]:
    def call() -> None:
        out = module(*inputs)
        out.backward(torch.ones_like(out))
        # The next call allocates its gradients anew, as that of the next scheme does.
        module.zero_grad(set_to_none=True)
        for given in inputs:
            given.grad = None

    return call
