"""Measure a whole model, and each of its parts, without data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ocr_panoptic.engine.inference import prepare_for_inference

from .measure import (
    DTYPES,
    check_counts,
    check_device,
    failures_in_one_line,
    interleaved_times,
    measure_footprint,
    section,
)
from .model_setup import draw_inputs, our_model, settle, stock_config, stock_model
from .parts import Parts, flops_of_parts, timed_parts

__all__ = ["ModelCost", "PartCost", "measure_model"]

# Of an image. COCO has 7 labelled ones in each, a trained model finds some more.
_INSTANCES = 10


@dataclass(frozen=True)
class PartCost:
    """What a part of a model takes.

    Attributes:
        params: number of parameters.
        flops: two for each multiply-add of convolutions and matrix products.
        peak_memory_bytes: largest memory in use while it ran, beyond weights and input: what the
            parts before it have left for those behind it is in it.
        median_ms: median time, milliseconds. In training, of the forward pass.
    """

    params: int
    flops: int
    peak_memory_bytes: int
    median_ms: float


@dataclass(frozen=True)
class ModelCost:
    """What a call of a model takes.

    Attributes:
        config: path.
        size: (height, width) of the images.
        batch: images of a call.
        device: as torch names it.
        dtype: in which convolutions and matrix products are computed.
        mode: of :data:`~.measure.MODES`.
        instances: in the results; in training, in the labels.
        segments: in the panoptic maps; None where there are none.
        params: number of parameters.
        weights_bytes: what they and the buffers take.
        momentum_bytes: what SGD's momentum of those that are trained takes.
        flops: of a call, two for each multiply-add of convolutions and matrix products.
        peak_memory_bytes: largest memory in use during a call, beyond weights and input; in
            training, gradients are part of it.
        median_ms: median time of a call, milliseconds.
        spread_ms: largest minus smallest time of a call.
        images_per_second: batch over the median.
        parts: in the order in which they run.
    """

    config: str
    size: tuple[int, int]
    batch: int
    device: str
    dtype: str
    mode: str
    instances: int
    segments: int | None
    params: int
    weights_bytes: int
    momentum_bytes: int
    flops: int
    peak_memory_bytes: int
    median_ms: float
    spread_ms: float
    images_per_second: float
    parts: Mapping[str, PartCost]


def measure_model(
    config_file: str,
    size: tuple[int, int],
    *,
    overrides: list[str] | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    mode: str = "forward",
    batch: int = 1,
    instances: int | None = None,
    against_stock: bool = False,
    runs: int = 9,
) -> tuple[ModelCost, ModelCost | None]:
    """Measure the model of a config on drawn images, and Detectron2's in turns with it.

    In inference it is measured as :func:`~ocr_panoptic.engine.inference.prepare_for_inference`
    makes it ready, Detectron2's as it comes, in float32.

    Args:
        config_file: path to a yaml config.
        size: (height, width) of the images, as the model gets them and as results are asked for.
        overrides: keys and values of the config, in turn. With MODEL.WEIGHTS these weights are
            measured, without it random ones.
        device: "cpu" or "cuda".
        dtype: of :data:`ocr_panoptic.engine.inference.DTYPES`; "auto" in training is float32.
        mode: of :data:`~.measure.MODES`.
        batch: images of a call.
        instances: with random weights, detections of each image, all of which join the panoptic
            map; in training, labelled ones. None for 10.
        against_stock: measure Detectron2's model of the same depth too, with the same weights
            wherever it has such, and the same thresholds.
        runs: timed calls of each, after others that are not counted.

    Returns:
        The cost of ours, and of Detectron2's or None.

    Raises:
        InputError: for a config or weights that cannot be used, or too little memory.
    """
    check_counts(runs=runs, batch=batch, instances=instances)
    check_device(device)
    cfg, model = our_model(config_file, overrides or [], device)
    stock_file = stock_config(cfg) if against_stock else None
    instances = instances or _INSTANCES
    inputs = draw_inputs(cfg, size, batch, instances)
    what = f"--size {','.join(map(str, size))}"
    with failures_in_one_line(what, device):
        if not cfg.MODEL.WEIGHTS:
            settle(model, inputs, instances)
        subjects = {}
        if stock_file:
            stock = stock_model(stock_file, cfg, model)
            subjects["stock"] = _Subject(stock_file, stock, inputs, device, "float32", mode)
        if mode == "forward":
            prepared = prepare_for_inference(model, dtype=dtype)
            ours = _Subject(config_file, prepared, inputs, device, prepared.dtype, mode)
            ours.params = _count_params(model)
        else:
            dtype = "float32" if dtype == "auto" else dtype
            ours = _Subject(config_file, model, inputs, device, dtype, mode)
        # Ours comes first wherever both are told.
        subjects = {"ours": ours, **subjects}
        calls: dict[Any, Callable[[], Any]] = {}
        for name, subject in subjects.items():
            subject.count()
            calls[name] = subject.call
            calls[name, "parts"] = subject.timed_call
        times = interleaved_times(calls, device, runs)
    costs = [subject.cost(size, times[name]) for name, subject in subjects.items()]
    return costs[0], costs[1] if against_stock else None


class _Subject:
    """A model that is measured, and what is found out about it."""

    def __init__(
        self,
        config: str,
        model: nn.Module,
        inputs: list[dict[str, Any]],
        device: str,
        dtype: str,
        mode: str,
    ) -> None:
        self.config, self.model, self.inputs = config, model, inputs
        self.device, self.dtype, self.mode = device, dtype, mode
        self.params = _count_params(model)
        training = mode == "training"
        self.model.train(training)
        self.call = self._train if training else self._predict
        self.parts = Parts(model, "preprocessing", "backward" if training else "merging")
        self.timed_call, self.times = timed_parts(self.parts, self.call, device)
        self.instances = sum(len(given["instances"]) for given in inputs)
        self.segments: int | None = None

    def count(self) -> None:
        """Count what does not depend on time."""
        results = self.parts.learn(self.call)
        if self.mode == "forward":
            self.instances = sum(len(row["instances"]) for row in results)
            maps = [row["panoptic_seg"] for row in results if "panoptic_seg" in row]
            self.segments = sum(len(segments) for _, segments in maps) if maps else None
        self.flops, self.flops_of_parts = flops_of_parts(self.parts, self.call)
        self.footprint = measure_footprint(lambda: self.parts.run(self.call, section), self.device)

    def cost(self, size: tuple[int, int], times: list[float]) -> ModelCost:
        """Return all that was found, given the times of its calls."""
        params = self.parts.params()
        median = statistics.median(times)
        weights = list(self.model.parameters())
        return ModelCost(
            config=self.config,
            size=size,
            batch=len(self.inputs),
            device=self.device,
            dtype=self.dtype,
            mode=self.mode,
            instances=self.instances,
            segments=self.segments,
            params=self.params,
            weights_bytes=sum(map(_bytes, [*weights, *self.model.buffers()])),
            momentum_bytes=sum(_bytes(weight) for weight in weights if weight.requires_grad),
            flops=self.flops,
            peak_memory_bytes=self.footprint.peak_bytes,
            median_ms=median,
            spread_ms=max(times) - min(times),
            images_per_second=1e3 * len(self.inputs) / median,
            parts={
                name: PartCost(
                    params=params.get(name, 0),
                    flops=self.flops_of_parts[name],
                    peak_memory_bytes=self.footprint.sections.get(name, 0),
                    median_ms=statistics.median(self.times[name]),
                )
                for name in self.parts.names
            },
        )

    @torch.no_grad()
    def _predict(self) -> list[dict[str, Any]]:
        return self.model(self.inputs)

    def _train(self) -> None:
        # The same boxes are sampled each time.
        torch.manual_seed(0)
        half = self.dtype != "float32"
        with (
            EventStorage(),
            torch.autocast(self.device, dtype=DTYPES[self.dtype], enabled=half),
        ):
            losses = self.model(self.inputs)
        sum(losses.values()).backward()
        self.model.zero_grad(set_to_none=True)


def _count_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
