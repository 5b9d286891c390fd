"""Panoptic quality, image by image: panopticapi's rules, and its figures to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from panopticapi.evaluation import OFFSET, VOID, PQStat
from tabulate import tabulate

__all__ = [
    "ClassQuality",
    "ImageCounts",
    "TruthSegment",
    "average",
    "count_image",
    "format_classes",
    "format_quality",
    "overlaps",
    "per_class",
    "sum_counts",
]

# Without it tabulate prints 0.0 as 0.
_AS_WRITTEN = {"stralign": "right", "disable_numparse": True}


class TruthSegment(NamedTuple):
    """A segment of the ground truth: its id, category id, crowd or not, and pixels."""

    id: int
    category_id: int
    iscrowd: int
    area: float


class ImageCounts(NamedTuple):
    """What one image adds to panoptic quality.

    Attributes:
        matches: category id and IoU of each true positive, by the ids of ground truth and
            prediction.
        false_positives: category id of each.
        false_negatives: category id of each.
    """

    matches: tuple[tuple[int, float], ...]
    false_positives: tuple[int, ...]
    false_negatives: tuple[int, ...]


class ClassQuality(NamedTuple):
    """Panoptic quality of one class; ``pq``, ``sq`` and ``rq`` are percent, None if not defined."""

    category_id: int
    name: str
    isthing: int
    pq: float | None
    sq: float | None
    rq: float | None
    true_positives: int
    false_positives: int
    false_negatives: int


def overlaps(truth_ids: np.ndarray, prediction_ids: np.ndarray) -> dict[tuple[int, int], int]:
    """Count the pixels of each pair of ids.

    Args:
        truth_ids: (H, W) integers from 0 to 2**24 - 1.
        prediction_ids: the same of the same shape.

    Returns:
        (id of the truth, id of the prediction) -> pixels, more than 0, in the order of the pairs.
    """
    truth, prediction = truth_ids.ravel(), prediction_ids.ravel()
    # Segments are connected: their runs along the rows are few, so sorting those is quick.
    is_start = np.ones(truth.size, dtype=bool)
    np.not_equal(truth[1:], truth[:-1], out=is_start[1:])
    is_start[1:] |= prediction[1:] != prediction[:-1]
    starts = np.flatnonzero(is_start)
    pairs = truth[starts].astype(np.int64) * OFFSET + prediction[starts]
    pairs, index = np.unique(pairs, return_inverse=True)
    # float64 holds numbers of pixels exactly.
    pixels = np.bincount(index, weights=np.diff(starts, append=truth.size), minlength=pairs.size)
    return {
        divmod(pair, OFFSET): int(count)
        for pair, count in zip(pairs.tolist(), pixels.tolist(), strict=True)
    }


def count_image(
    pixels: Mapping[tuple[int, int], int],
    truth: Iterable[TruthSegment],
    prediction: Iterable[Mapping[str, Any]],
) -> ImageCounts:
    """Match the segments of one image, as ``panopticapi.evaluation.pq_compute_single_core`` does.

    A pair of one category with an IoU above 0.5 is a true positive; void does not count in the
    IoU. Crowds match nothing, and a segment that is left is no false positive if more than half
    of it is void or crowd of its category. Of two crowds of one category in an image only the
    last counts there, as in panopticapi.

    Args:
        pixels: of each pair of ids, from :func:`overlaps`.
        truth: segments of the ground truth, with their true areas.
        prediction: for each predicted segment ``id`` and ``category_id``.

    Raises:
        ValueError: a predicted segment has no pixels, or pixels have an id that is no segment's:
            what panopticapi refuses. A mistake of the model's, not of the data.
    """
    truth_segments = {segment.id: segment for segment in truth}
    categories = {segment["id"]: segment["category_id"] for segment in prediction}
    areas: dict[int, int] = {}
    for (_, predicted), count in pixels.items():
        areas[predicted] = areas.get(predicted, 0) + count
    if areas.keys() - {VOID} != categories.keys() - {VOID} or categories.keys() - areas.keys():
        raise ValueError(
            f"pixels have the ids {sorted(areas)}, but the segments {sorted(categories)}"
        )

    matches, matched_truth, matched_prediction = [], set(), set()
    for (true, predicted), intersection in pixels.items():
        segment = truth_segments.get(true)
        if segment is None or predicted not in categories or segment.iscrowd:
            continue
        if segment.category_id != categories[predicted]:
            continue
        union = areas[predicted] + segment.area - intersection - pixels.get((VOID, predicted), 0)
        iou = intersection / union
        if iou > 0.5:
            matches.append((segment.category_id, iou))
            matched_truth.add(true)
            matched_prediction.add(predicted)

    crowds, false_negatives = {}, []
    for segment in truth_segments.values():
        if segment.iscrowd:
            crowds[segment.category_id] = segment.id
        elif segment.id not in matched_truth:
            false_negatives.append(segment.category_id)
    false_positives = []
    for predicted, category_id in categories.items():
        if predicted in matched_prediction:
            continue
        ignored = pixels.get((VOID, predicted), 0)
        if category_id in crowds:
            ignored += pixels.get((crowds[category_id], predicted), 0)
        if ignored / areas[predicted] <= 0.5:
            false_positives.append(category_id)
    return ImageCounts(tuple(matches), tuple(false_positives), tuple(false_negatives))


def sum_counts(counts: Iterable[ImageCounts]) -> PQStat:
    """Add up images one after the other, as panopticapi does in one process.

    The order of the images decides the last bits of the sums of IoU, and nothing else.
    """
    total = PQStat()
    for image in counts:
        for category_id, iou in image.matches:
            total[category_id].tp += 1
            total[category_id].iou += iou
        for category_id in image.false_positives:
            total[category_id].fp += 1
        for category_id in image.false_negatives:
            total[category_id].fn += 1
    return total


def average(total: PQStat, categories: Mapping[int, Mapping[str, Any]]) -> dict[str, dict]:
    """Average over classes with panopticapi.

    Args:
        total: of all images.
        categories: category id -> category, with ``isthing``.

    Returns:
        ``All``, ``Things`` and ``Stuff`` -> ``pq``, ``sq`` and ``rq`` in [0, 1], and ``n``, the
        number of classes that occur; without any of them 0, and the others are NaN.
    """
    averages = {}
    for name, isthing in (("All", None), ("Things", True), ("Stuff", False)):
        try:
            averages[name], _ = total.pq_average(categories, isthing=isthing)
        except ZeroDivisionError:
            averages[name] = {**dict.fromkeys(("pq", "sq", "rq"), float("nan")), "n": 0}
    return averages


def per_class(total: PQStat, categories: Mapping[int, Mapping[str, Any]]) -> list[ClassQuality]:
    """Return one row for each class, in the order of ``categories``."""
    rows = []
    for category_id, category in categories.items():
        counts = total[category_id]
        percent = [None] * 3
        if counts.tp + counts.fp + counts.fn > 0:
            # The average over one class is the class.
            quality, _ = total.pq_average({category_id: category}, isthing=None)
            percent = [100 * quality[key] for key in ("pq", "sq", "rq")]
        rows.append(
            ClassQuality(
                category_id,
                str(category.get("name", category_id)),
                int(category["isthing"]),
                *percent,
                *(counts.tp, counts.fp, counts.fn),
            )
        )
    return rows


def format_quality(averages: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table that Detectron2 logs, with "n/a" where no class occurs."""
    rows = [
        (name, *(_percent(100 * row[key] if row["n"] else None) for key in ("pq", "sq", "rq")))
        + (row["n"],)
        for name, row in averages.items()
    ]
    return tabulate(rows, headers=("", "PQ", "SQ", "RQ", "#categories"), **_AS_WRITTEN)


def format_classes(rows: Sequence[ClassQuality]) -> str:
    """Return the table of classes, with "n/a" for those that do not occur."""
    cells = [
        (row.name, "thing" if row.isthing else "stuff")
        + tuple(_percent(value) for value in (row.pq, row.sq, row.rq))
        + (row.true_positives, row.false_positives, row.false_negatives)
        for row in rows
    ]
    return tabulate(cells, headers=("class", "", "PQ", "SQ", "RQ", "TP", "FP", "FN"), **_AS_WRITTEN)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
