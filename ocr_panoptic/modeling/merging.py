"""The panoptic map of Panoptic-FPN, from instances and semantic labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

__all__ = ["combine_semantic_and_instance_outputs"]


@torch.no_grad()
def combine_semantic_and_instance_outputs(
    instance_results: Instances,
    semantic_results: Tensor,
    overlap_threshold: float,
    stuff_area_thresh: float,
    instances_score_thresh: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merge the instances and the semantic labels of an image into one panoptic map.

    Detectron2's function of this name, argument for argument, with its result but for segments
    without pixels: those are left out, and ids have no gaps. Detectron2 emits them for
    ``stuff_area_thresh`` 0 and ``overlap_threshold`` 1, and panopticapi refuses them.

    Instances come first, the highest score first and equal scores in their order (Detectron2's
    sort is not stable: on the CPU from 17 instances on it mixes them). Each takes its pixels that
    no one before it has taken. The pixels that are left go to the classes of stuff. The three
    thresholds are ``MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH``, ``.STUFF_AREA_LIMIT`` and
    ``.INSTANCES_CONFIDENCE_THRESH`` of a config, by default 0.5, 4096 and 0.5.

    The device is waited for twice, whatever the number of instances: before the first and after
    the last.

    Args:
        instance_results: with ``scores`` (n,), ``pred_classes`` (n,) and ``pred_masks`` (n, H, W)
            bool, as :func:`detectron2.modeling.postprocessing.detector_postprocess` returns them.
        semantic_results: (H, W) int64, a class of the semantic head for each pixel, 0 or more; 0
            stands for all things, and pixels of it that no instance takes become void.
        overlap_threshold: an instance is left out if more than this part of its pixels is taken.
        stuff_area_thresh: in pixels; stuff with fewer left becomes void.
        instances_score_thresh: instances of a lower score are left out.

    Returns:
        The (H, W) int32 map of segment ids on the device of ``semantic_results``, 0 for void, and
        one dict for each segment, ids 1, 2, ..., things first: ``id``, ``isthing`` True, ``score``,
        ``category_id`` (a class of the instances) and ``instance_id`` (an index into them), or
        ``id``, ``isthing`` False, ``category_id`` (a class of the semantic head) and ``area`` in
        pixels.
    """
    scores, classes = instance_results.scores, instance_results.pred_classes
    order = torch.argsort(-scores, stable=True)
    # Sent together: float64 holds each of these numbers exactly.
    table = torch.stack([order.double(), scores[order].double(), classes[order].double()], dim=1)
    num_labels = semantic_results.max().double() + 1
    *rows, num_labels = torch.cat([table.flatten(), num_labels.view(1)]).tolist()
    num_labels = int(num_labels)
    things = [
        {"isthing": True, "score": score, "category_id": int(label), "instance_id": int(index)}
        for index, score, label in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        if score >= instances_score_thresh
    ]

    # 0 or 1: torch's arithmetic of bytes is several times as fast as that of bool.
    free = torch.ones_like(semantic_results, dtype=torch.uint8)
    masks = instance_results.pred_masks.to(device=free.device, dtype=torch.bool).view(torch.uint8)
    ranks = torch.zeros_like(semantic_results, dtype=torch.int32)
    for rank, thing in enumerate(things, start=1):
        mask = masks[thing["instance_id"]]
        area = _count(mask)
        mask = mask & free
        # An empty mask divides 0 by 0, which is not within any threshold.
        taken = (area - _count(mask)) / area.double()
        mask *= (taken <= overlap_threshold).byte()
        free -= mask
        ranks.add_(mask, alpha=rank)

    # The owner of each pixel: a label of stuff, or from num_labels on an instance.
    owner = torch.where(ranks > 0, ranks + (num_labels - 1), semantic_results).flatten()
    areas = owner.new_zeros(num_labels + len(things))
    areas = areas.scatter_add_(0, owner, torch.ones_like(owner)).tolist()
    segments, ids = [], [0] * len(areas)
    for rank, thing in enumerate(things, start=num_labels):
        if areas[rank]:
            ids[rank] = len(segments) + 1
            segments.append({"id": ids[rank], **thing})
    for label in range(1, num_labels):
        if areas[label] and areas[label] >= stuff_area_thresh:
            ids[label] = len(segments) + 1
            stuff = {"isthing": False, "category_id": label, "area": areas[label]}
            segments.append({"id": ids[label], **stuff})
    ids = torch.tensor(ids, dtype=torch.int32, device=owner.device)
    return ids[owner].view_as(semantic_results), segments


def _count(mask: Tensor) -> Tensor:
    """Count the ones of a mask of bytes, without waiting for the device."""
    if mask.device.type == "cpu":
        # torch would write the mask as integers first, of four times its size or more.
        return torch.tensor(np.count_nonzero(mask.numpy()))
    return mask.sum()
