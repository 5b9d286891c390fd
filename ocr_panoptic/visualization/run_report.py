"""The report of a run: its metrics as tables, and what its model sees on some images."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from panopticapi.evaluation import pq_compute_single_core
from torch import Tensor, nn

from ocr_panoptic.data.panoptic_json import load_json, write_panoptic_png

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
    """Return PQ of one image in percent, counted by panopticapi; None where nothing counts."""
    to_dataset = {
        True: {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()},
        False: {v: k for k, v in metadata.stuff_dataset_id_to_contiguous_id.items()},
    }
    prediction = {
        "file_name": annotation["file_name"],
        "image_id": annotation["image_id"],
        "segments_info": [
            {
                "id": segment["id"],
                "category_id": to_dataset[segment["isthing"]][segment["category_id"]],
            }
            for segment in segments
        ],
    }
    by_id = {category["id"]: category for category in categories}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        write_panoptic_png(Path(folder) / annotation["file_name"], panoptic_map)
        stat = pq_compute_single_core(
            0, [(annotation, prediction)], metadata.panoptic_root, folder, by_id
        )
    overall, _ = stat.pq_average(by_id, isthing=None)
    return None if math.isnan(overall["pq"]) or not overall["n"] else 100 * float(overall["pq"])
