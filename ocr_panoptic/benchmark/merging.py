"""Time the panoptic merge beside Detectron2's, on equal input."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.modeling.meta_arch import panoptic_fpn
from detectron2.structures import Instances
from torch import Tensor

from ocr_panoptic.modeling.merging import combine_semantic_and_instance_outputs

from .measure import check_counts, check_device, interleaved_times

__all__ = ["MergingCost", "format_merging", "measure_merging", "report_merging"]

# Detectron2's default thresholds: overlap, pixels of stuff, score.
_THRESHOLDS = 0.5, 4096, 0.5
_LABELS, _CLASSES, _BLOCK = 54, 80, 80


@dataclass(frozen=True)
class MergingCost:
    """What one merge takes.

    Attributes:
        instances: how many, all above the threshold of the score.
        size: (height, width) of the image.
        device: as torch names it.
        median_ms: of ours, milliseconds.
        detectron2_ms: of Detectron2's, milliseconds.
        ratio_to_detectron2: ours over Detectron2's, below 1 is faster.
    """

    instances: int
    size: tuple[int, int]
    device: str
    median_ms: float
    detectron2_ms: float
    ratio_to_detectron2: float


def measure_merging(
    num_instances: int, size: tuple[int, int] = (480, 640), *, device: str, runs: int = 9
) -> MergingCost:
    """Measure both merges on random ellipses over blocks of stuff, in turns.

    Args:
        num_instances: how many.
        size: (height, width) of the image.
        device: "cpu" or "cuda".
        runs: timed calls of each, after one that is not counted.

    Raises:
        InputError: for a number below 1, or a device that is not there.
    """
    check_counts(instances=num_instances, runs=runs)
    check_device(device)
    arguments = (*_scene(num_instances, size, device), *_THRESHOLDS)
    calls = {
        "ours": lambda: combine_semantic_and_instance_outputs(*arguments),
        "Detectron2": lambda: panoptic_fpn.combine_semantic_and_instance_outputs(*arguments),
    }
    (ours, our_segments), (theirs, their_segments) = (call() for call in calls.values())
    # Times of different results say nothing.
    assert torch.equal(ours, theirs)
    assert our_segments == their_segments
    times = interleaved_times(calls, device, runs)
    median, detectron2 = (statistics.median(times[name]) for name in calls)
    return MergingCost(num_instances, size, device, median, detectron2, median / detectron2)


def _scene(count: int, size: tuple[int, int], device: str) -> tuple[Instances, Tensor]:
    generator = torch.Generator().manual_seed(0)
    height, width = size
    rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width)
    masks = torch.empty(count, height, width, dtype=torch.bool)
    for mask in masks:
        y, x, radius_y, radius_x = torch.rand(4, generator=generator).tolist()
        # From a fiftieth to a quarter of the image's side.
        down = (rows - y * height) / (height * (0.02 + 0.23 * radius_y))
        right = (columns - x * width) / (width * (0.02 + 0.23 * radius_x))
        torch.lt(down**2 + right**2, 1, out=mask)
    instances = Instances(size)
    instances.pred_masks = masks.to(device)
    # No two are equal: Detectron2 sorts equal ones in any order.
    scores = 0.5 + 0.5 * torch.randperm(count, generator=generator) / count
    instances.scores = scores.to(device)
    classes = torch.randint(_CLASSES, (count,), generator=generator)
    instances.pred_classes = classes.to(device)
    blocks = height // _BLOCK + 1, width // _BLOCK + 1
    labels = torch.randint(_LABELS, blocks, generator=generator)
    labels = labels.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)
    return instances, labels[:height, :width].contiguous().to(device)


def report_merging(instances: int, device: str, runs: int) -> tuple[str, dict[str, Any]]:
    """Return what ``tools/benchmark.py merging`` prints, and the numbers as json has them.

    Raises:
        InputError: as :func:`measure_merging`.
    """
    cost = measure_merging(instances, device=device, runs=runs)
    return format_merging(cost), asdict(cost)


def format_merging(cost: MergingCost) -> str:
    """Return a measurement as one line."""
    height, width = cost.size
    return (
        f"{cost.instances} instances, {width}x{height} pixels, {cost.device}: "
        f"{cost.median_ms:.1f} ms, Detectron2's {cost.detectron2_ms:.1f} ms, "
        f"ratio {cost.ratio_to_detectron2:.2f}"
    )
