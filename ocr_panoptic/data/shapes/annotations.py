"""A scene in COCO's formats: panoptic ids, segments_info, instance annotations, semantic labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .difficulty import Difficulty
from .polygons import mask_to_polygons
from .scene import Scene

__all__ = ["ANNOTATIONS_PER_IMAGE", "SceneAnnotations", "annotate"]

ANNOTATIONS_PER_IMAGE = 1000
"""Instance ids are ``image_id * ANNOTATIONS_PER_IMAGE + k``: unique, and independent of N."""

_THINGS, _VOID = 0, 255


@dataclass(frozen=True)
class SceneAnnotations:
    """What the files say of one picture.

    Attributes:
        panoptic_ids: (H, W) int32, segment id of each pixel, R + 256 G + 65536 B; 0 is void.
        semantic: (H, W) uint8, 0 for things, 1 to n for stuff in order of id, 255 for void.
        segments_info: of the panoptic json.
        instances: annotations of the instances json.
    """

    panoptic_ids: np.ndarray
    semantic: np.ndarray
    segments_info: list[dict]
    instances: list[dict]


def annotate(scene: Scene, difficulty: Difficulty, image_id: int) -> SceneAnnotations:
    """Write a scene as COCO does.

    Args:
        scene: the picture.
        difficulty: the parameters it was generated with.
        image_id: its id, 1 or more.

    Returns:
        The annotations. Ordinary objects are polygons, crowds uncompressed run lengths.
    """
    height, width = scene.image.shape[:2]
    panoptic_ids = np.zeros((height, width), np.int32)
    semantic = np.full((height, width), _VOID, np.uint8)
    stuff_label = {c.name: label for label, c in enumerate(difficulty.stuff, 1)}
    segments_info: list[dict] = []
    instances: list[dict] = []
    used = {0}
    for segment in scene.segments:
        category = difficulty.category(segment.category)
        segment_id = _unused_color(category.color, used)
        panoptic_ids[segment.mask] = segment_id
        semantic[segment.mask] = stuff_label.get(category.name, _THINGS)
        common = {
            "category_id": category.id,
            "area": int(segment.mask.sum()),
            "bbox": _bbox(segment.mask),
            "iscrowd": int(segment.iscrowd),
        }
        segments_info.append({"id": segment_id, **common})
        if category.isthing:
            annotation_id = image_id * ANNOTATIONS_PER_IMAGE + len(instances) + 1
            shape = _run_lengths if segment.iscrowd else mask_to_polygons
            instances.append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    **common,
                    "segmentation": shape(segment.mask),
                }
            )
    return SceneAnnotations(panoptic_ids, semantic, segments_info, instances)


def _unused_color(color: tuple[int, int, int], used: set[int]) -> int:
    """Return a segment id whose colour is the category's, or near it, and note it as used."""
    step = 0
    segment_id = _color_id(color)
    while segment_id in used:
        step += 1
        # Turns of 37 in 64 keep neighbours in time apart, and visit 64 shades before one returns.
        shade = (37 * step) % 64 - 32
        segment_id = _color_id([min(max(c + shade, 0), 255) for c in color]) + step // 64
    used.add(segment_id)
    return segment_id


def _color_id(color: Sequence[int]) -> int:
    return color[0] + 256 * color[1] + 65536 * color[2]


def _bbox(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _run_lengths(mask: np.ndarray) -> dict:
    """Return COCO's uncompressed run lengths: column by column, the first run of zeros."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    if counts[-1] == 0:
        counts.pop()
    return {"size": list(mask.shape), "counts": counts}
