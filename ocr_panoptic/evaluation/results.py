"""Predictions of Detectron2's models in COCO's result formats, with the ids of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from torch import Tensor

from ocr_panoptic.data.register import NO_THINGS
from ocr_panoptic.data.segments import measure_segments
from ocr_panoptic.errors import InputError

__all__ = ["instance_results", "panoptic_annotation", "result_categories"]

# What Detectron2 calls class 0 of a semantic head for which all things are one class.
_MERGED_THINGS = "things"


def panoptic_annotation(
    panoptic_seg: Tensor | np.ndarray,
    segments_info: Sequence[Mapping[str, Any]] | None,
    metadata: Metadata,
    image_id: int,
    file_name: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Turn the panoptic output of a model into a COCO panoptic annotation.

    What panopticapi refuses does not come out: a segment without pixels is left out, and pixels
    whose id is not listed become void.

    Args:
        panoptic_seg: (H, W) integers, the segment id of each pixel, 0 for void; not changed.
        segments_info: one mapping for each segment with ``id``, ``category_id`` and ``isthing``,
            and optionally ``score``. Without ``isthing`` the category id is the data set's
            already. None says that ``panoptic_seg`` holds ``category * label_divisor + instance``,
            and -1 for void, as in Panoptic-DeepLab: ids are then larger by one.
        metadata: gives ``thing_dataset_id_to_contiguous_id`` and
            ``stuff_dataset_id_to_contiguous_id``, and ``label_divisor`` where it is needed.
        image_id: of the annotation.
        file_name: of the PNG, relative to the folder of PNGs.

    Returns:
        The (H, W) int32 ids for :func:`~ocr_panoptic.data.panoptic_json.write_panoptic_png`, and
        the annotation: ``image_id``, ``file_name`` and ``segments_info`` with ``id``,
        ``category_id`` (the data set's), ``area`` in pixels, ``iscrowd`` 0, and ``score`` where the
        model gave one. The fields are those of a ground truth too.

    Raises:
        InputError: for a class that the data set does not have; names it.
    """
    if isinstance(panoptic_seg, Tensor):
        panoptic_seg = panoptic_seg.detach().cpu().numpy()
    segment_ids = np.array(panoptic_seg, dtype=np.int32)
    if segments_info is None:
        segments_info = _segments_of_labels(segment_ids, metadata)
        segment_ids += 1
    measured = measure_segments(segment_ids)
    areas = dict(zip(measured.ids.tolist(), measured.areas.tolist(), strict=True))
    areas.pop(0, None)
    segments = []
    for segment in segments_info:
        area = areas.pop(segment["id"], 0)
        if area == 0:
            continue
        row = {
            "id": segment["id"],
            "category_id": _dataset_id(segment, metadata),
            "area": area,
            "iscrowd": 0,
        }
        if segment.get("score") is not None:
            row["score"] = float(segment["score"])
        segments.append(row)
    if areas:
        segment_ids[np.isin(segment_ids, list(areas))] = 0
    annotation = {"image_id": image_id, "file_name": file_name, "segments_info": segments}
    return segment_ids, annotation


def _segments_of_labels(labels: np.ndarray, metadata: Metadata) -> list[dict[str, Any]]:
    divisor = metadata.get("label_divisor")
    if divisor is None:
        raise InputError(
            f"dataset {metadata.get('name')}: its metadata has no label_divisor; expected one, as"
            " the model gives panoptic labels without segments"
        )
    things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    return [
        {"id": label + 1, "category_id": label // divisor, "isthing": label // divisor in things}
        for label in np.unique(labels).tolist()
        if label != -1
    ]


def _dataset_id(segment: Mapping[str, Any], metadata: Metadata) -> int:
    category = int(segment["category_id"])
    if segment.get("isthing") is None:
        return category
    return _to_dataset_id("thing" if segment["isthing"] else "stuff", category, metadata)


def _to_dataset_id(kind: str, label: int, metadata: Metadata) -> int:
    mapping = metadata.get(f"{kind}_dataset_id_to_contiguous_id", {})
    for dataset_id, contiguous_id in mapping.items():
        if contiguous_id == label:
            return int(dataset_id)
    raise InputError(
        f"dataset {metadata.get('name')}: has no {kind} class {label}, which the model predicts;"
        f" expected a model with its {len(mapping)} {kind} classes"
    )


def instance_results(
    instances: Instances, metadata: Metadata, image_id: int
) -> list[dict[str, Any]]:
    """Turn the instances that a model finds in an image into COCO results.

    Args:
        instances: with ``pred_boxes``, ``scores`` and ``pred_classes``, and ``pred_masks`` (n, H,
            W) bool where the model has masks; on any device.
        metadata: gives ``thing_dataset_id_to_contiguous_id``.
        image_id: of each result.

    Returns:
        One dict for each instance with ``image_id``, ``category_id`` (the data set's), ``bbox``
        (x, y, width, height in pixels), ``score``, and ``segmentation``, a compressed RLE whose
        ``counts`` are text.

    Raises:
        InputError: for a class that the data set does not have; names it.
    """
    results = instances_to_coco_json(instances.to("cpu"), image_id)
    for result in results:
        result["category_id"] = _to_dataset_id("thing", result["category_id"], metadata)
    return results


def result_categories(metadata: Metadata) -> list[dict[str, Any]]:
    """Return the categories of a data set as a COCO panoptic json lists them, by id.

    Args:
        metadata: gives ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``, the same of
            stuff where it has stuff, and optionally ``thing_colors`` and ``stuff_colors``.

    Returns:
        Dicts with ``id``, ``name``, ``isthing`` (0 or 1) and, where it is known, ``color``. The
        class that stands for all things in a semantic head is left out, as is
        :data:`~ocr_panoptic.data.register.NO_THINGS`.
    """
    categories: dict[int, dict[str, Any]] = {}
    for kind in ("stuff", "thing"):
        names = metadata.get(f"{kind}_classes") or []
        colors = metadata.get(f"{kind}_colors") or []
        mapping = metadata.get(f"{kind}_dataset_id_to_contiguous_id", {})
        for dataset_id, label in mapping.items():
            if kind == "stuff" and label == 0 and names[0] == _MERGED_THINGS:
                continue
            if kind == "thing" and names == [NO_THINGS]:
                continue
            # Things come second: an id that is in both is a thing's.
            category = {
                "id": int(dataset_id),
                "name": names[label],
                "isthing": int(kind == "thing"),
            }
            if label < len(colors):
                category["color"] = [int(channel) for channel in colors[label]]
            categories[category["id"]] = category
    return [categories[dataset_id] for dataset_id in sorted(categories)]
