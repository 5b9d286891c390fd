"""The report of a run: its metrics as tables, and what its model sees on some images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from torch import Tensor, nn

from ocr_panoptic.data.panoptic_json import load_json, read_panoptic_png
from ocr_panoptic.evaluation.panoptic_quality import (
    TruthSegment,
    average,
    count_image,
    overlaps,
    sum_counts,
)
from ocr_panoptic.evaluation.results import panoptic_annotation

from .capture import predict_with_regions
from .panoptic import draw_panoptic, from_ground_truth, legend
from .regions import draw_region
from .report import Example, MetricTable

__all__ = ["class_tables", "examples_of_run", "metric_tables"]


def metric_tables(metrics: Mapping[str, str | float]) -> list[MetricTable]:
    """Return the tables of :func:`..evaluation.metrics.summarise`'s record."""
    panoptic = [
        (label, *(metrics.get(name + suffix) for name in ("PQ", "SQ", "RQ")))
        for label, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
    ]
    names = ("mask_AP", "box_AP", "mIoU")
    others = [("All", *(metrics.get(name) for name in names))]
    note = "In percent, on held-out images."
    return [
        MetricTable("Panoptic quality", ("", "PQ", "SQ", "RQ"), panoptic, note),
        MetricTable("Instances and semantics", ("", "mask AP", "box AP", "mIoU"), others, note),
    ]


def class_tables(results: Mapping[str, Mapping[str, float]]) -> list[MetricTable]:
    """Return per-class tables from Detectron2's results: task -> metric -> percent."""

    def per_class(task: str, prefix: str) -> dict[str, float]:
        return {
            key.removeprefix(prefix): value
            for key, value in results.get(task, {}).items()
            if key.startswith(prefix)
        }

    boxes, masks = per_class("bbox", "AP-"), per_class("segm", "AP-")
    semantic = per_class("sem_seg", "IoU-")
    tables = []
    if boxes:
        rows = [(name, masks.get(name), value) for name, value in boxes.items()]
        tables.append(
            MetricTable("Things", ("class", "mask AP", "box AP"), rows, bar_column="mask AP")
        )
    if semantic:
        tables.append(
            MetricTable("Semantic", ("class", "IoU"), list(semantic.items()), bar_column="IoU")
        )
    return tables


def examples_of_run(
    model: nn.Module, loader: Sequence | Iterator, dataset_name: str, count: int
) -> list[Example]:
    """Return ``count`` images spread evenly over a data set, best prediction first.

    They are chosen by position, not by how well they came out.

    Args:
        model: a panoptic model in evaluation mode.
        loader: the test loader of the data set, one image a batch.
        dataset_name: a registered panoptic data set.
        count: how many.
    """
    metadata = MetadataCatalog.get(dataset_name)
    ground_truth = load_json(metadata.panoptic_json, ("annotations", "categories"))
    annotations = {row["image_id"]: row for row in ground_truth["annotations"]}
    total = len(DatasetCatalog.get(dataset_name))
    chosen = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
    examples = []
    for index, batch in enumerate(loader):
        if index in chosen:
            annotation = annotations[batch[0]["image_id"]]
            categories = ground_truth["categories"]
            examples.append(_example(model, batch[0], annotation, categories, metadata))
    return sorted(examples, key=lambda example: -(example.quality or 0.0))


def _example(
    model: nn.Module, inputs: dict, annotation: dict, categories: list, metadata: Metadata
) -> Example:
    image = read_image(inputs["file_name"], "RGB")
    result, regions = predict_with_regions(model, inputs)
    panoptic_map, segments = result["panoptic_seg"]
    panoptic_map = panoptic_map.cpu().numpy()
    true_path = Path(metadata.panoptic_root) / annotation["file_name"]
    true_map, true_segments = from_ground_truth(true_path, annotation, metadata)
    scale = max(1.0, 480 / max(image.shape[:2]))
    return Example(
        name=Path(inputs["file_name"]).name,
        image=image,
        ground_truth=draw_panoptic(image, true_map, true_segments, metadata, scale=scale),
        prediction=draw_panoptic(image, panoptic_map, segments, metadata, scale=scale),
        regions=_draw_regions(image, regions, true_segments + segments, metadata),
        quality=_quality(panoptic_map, segments, annotation, categories, metadata),
        legend=legend(true_segments + segments, metadata),
    )


def _draw_regions(
    image: np.ndarray, regions: Tensor | None, segments: Sequence[dict], metadata: Metadata
) -> list[tuple[str, np.ndarray]]:
    """Draw the regions of the classes that ground truth or prediction have."""
    if regions is None:
        return []
    degrees = regions.cpu().numpy()
    labels = {0 if segment["isthing"] else segment["category_id"] for segment in segments}
    return [
        (metadata.stuff_classes[label], draw_region(image, degrees[label], maximum=1.0))
        for label in sorted(labels)
        if 0 <= label < len(regions)
    ]


def _quality(
    panoptic_map: np.ndarray,
    segments: Sequence[dict],
    annotation: dict,
    categories: list[dict],
    metadata: Metadata,
) -> float | None:
    """Return PQ of one image in percent; None where nothing counts."""
    name = annotation["file_name"]
    segment_ids, prediction = panoptic_annotation(
        panoptic_map, segments, metadata, annotation["image_id"], name
    )
    truth = [
        TruthSegment(row["id"], row["category_id"], row["iscrowd"], row["area"])
        for row in annotation["segments_info"]
    ]
    pixels = overlaps(read_panoptic_png(Path(metadata.panoptic_root) / name), segment_ids)
    total = sum_counts([count_image(pixels, truth, prediction["segments_info"])])
    overall = average(total, {category["id"]: category for category in categories})["All"]
    return 100 * float(overall["pq"]) if overall["n"] else None
