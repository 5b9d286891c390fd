"""Panoptic quality over the thresholds of the merge, from saved outputs, without a model."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from tabulate import tabulate

from ocr_panoptic.data.json_problems import is_integer, is_relative_name
from ocr_panoptic.data.panoptic_json import load_json, read_json
from ocr_panoptic.data.png import PngError, decode_png
from ocr_panoptic.data.problems import shown
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import read_bytes
from ocr_panoptic.modeling.merging import combine_semantic_and_instance_outputs
from ocr_panoptic.parallel import parallel_map

from .panoptic_quality import ImageCounts, average, count_image, sum_counts
from .panoptic_truth import GroundTruth
from .results import panoptic_annotation
from .submission.findings import detection_findings
from .submission.problems import make_problem
from .submission.target import ListedImage, Target

__all__ = ["SweepRow", "Thresholds", "format_sweep", "sweep_merging"]


class Thresholds(NamedTuple):
    """Those of :func:`~ocr_panoptic.modeling.merging.combine_semantic_and_instance_outputs`."""

    overlap: float
    stuff_area: int
    score: float


@dataclass(frozen=True)
class SweepRow:
    """Panoptic quality with some thresholds, percent; None where no class occurs."""

    thresholds: Thresholds
    PQ: float | None
    SQ: float | None
    RQ: float | None
    PQ_th: float | None
    PQ_st: float | None


def sweep_merging(
    folder: Path,
    truth: GroundTruth,
    metadata: Metadata,
    grid: Sequence[Thresholds],
    num_processes: int | None = None,
) -> list[SweepRow]:
    """Merge saved instances and semantic labels with each of some thresholds, and count.

    Args:
        folder: written by ``tools/predict.py`` with ``--save-semantic``: ``panoptic.json``,
            ``instances.json`` and ``semantic/``.
        truth: its images are looked for among the predicted ones by their ids.
        metadata: of the data set that the results are given in.
        grid: at least one.
        num_processes: that share the images, as in :func:`~ocr_panoptic.parallel.parallel_map`.

    Returns:
        A row for each of ``grid``.

    Raises:
        InputError: for an image without prediction, results that are missing or broken, or a
            ground truth that is.
    """
    lowest = min(thresholds.score for thresholds in grid)
    things = metadata.thing_dataset_id_to_contiguous_id
    names, instances = _load_results(folder, lowest, things, truth)
    sizes = {row["id"]: (row["height"], row["width"]) for row in truth.header["images"]}
    jobs = []
    for image_id, image in truth.images.items():
        if image_id not in names:
            raise InputError(
                f"{folder}: no prediction of image id {image_id} of {truth.json_file}, expected "
                "predict.py with --image-info and this json"
            )
        # Of the ground truth, a process gets what it needs.
        part = copy.copy(truth)
        part.header, part.categories, part.images = {}, {}, {image_id: image}
        jobs.append((image_id, names[image_id], sizes[image_id], instances[image_id], part))
    count = _Count(folder, metadata.as_dict(), tuple(grid))
    counted = parallel_map(count, jobs, num_processes, description="sweeping")
    with contextlib.closing(counted):
        per_image = list(counted)
    rows = []
    for thresholds, counts in zip(grid, zip(*per_image, strict=True), strict=True):
        averages = average(sum_counts(counts), truth.categories)
        percent = {
            (name, key): 100 * row[key] if row["n"] else None
            for name, row in averages.items()
            for key in ("pq", "sq", "rq")
        }
        overall = (percent["All", key] for key in ("pq", "sq", "rq"))
        rows.append(SweepRow(thresholds, *overall, percent["Things", "pq"], percent["Stuff", "pq"]))
    return rows


def _load_results(
    folder: Path, lowest: float, things: Mapping[int, int], truth: GroundTruth
) -> tuple[dict[int, str], dict[int, list[tuple]]]:
    """Return the name of each image's PNG, and (score, class, mask) of its instances.

    Those below the lowest threshold are left out, and those of images that the truth has not.
    """
    path = folder / "panoptic.json"
    names = {}
    for index, row in enumerate(load_json(path, ("annotations",))["annotations"]):
        image_id, name = row.get("image_id"), row.get("file_name")
        if not is_integer(image_id) or not is_relative_name(name):
            raise InputError(
                f"{path}: annotations[{index}]: image_id {shown(image_id)}, file_name"
                f" {shown(name)}; expected an integer and the name of a PNG"
            )
        names[image_id] = name
    path = folder / "instances.json"
    results = read_json(path)
    if not isinstance(results, list):
        raise InputError(f"{path}: no list; expected the results of predict.py")
    sizes = {
        row["id"]: ListedImage(truth.images[row["id"]].file_name, row["height"], row["width"])
        for row in truth.header["images"]
    }
    target = Target(str(truth.json_file), sizes, frozenset(things))
    instances = defaultdict(list)
    for index, row in enumerate(results):
        image_id = row.get("image_id") if isinstance(row, dict) else None
        if is_integer(image_id) and image_id not in sizes:
            continue
        if isinstance(row, dict):
            # Predictions have boxes beside their masks, submissions of masks have not.
            row.pop("bbox", None)
        for finding in detection_findings(row, "segm", target):
            raise InputError(make_problem(f"{path}[{index}]", image_id, finding).message)
        if row["score"] >= lowest:
            label = things[row["category_id"]]
            instances[image_id].append((row["score"], label, row["segmentation"]))
    return names, instances


@dataclass(frozen=True)
class _Count:
    """Counts one image with all thresholds; small enough to send to a process."""

    folder: Path
    metadata: dict[str, Any]
    grid: tuple[Thresholds, ...]

    def __call__(self, job: tuple[int, str, tuple, list[tuple], GroundTruth]) -> list[ImageCounts]:
        image_id, name, size, rows, truth = job
        metadata = Metadata(**self.metadata)
        labels = torch.from_numpy(self._labels(name, size)).long()
        instances = Instances(tuple(labels.shape))
        # What json wrote of a float32 gives the same float32.
        instances.scores = torch.tensor([score for score, _, _ in rows], dtype=torch.float32)
        instances.pred_classes = torch.tensor([label for _, label, _ in rows])
        masks = np.zeros((0, *labels.shape), dtype=np.uint8)
        if rows:
            masks = mask_util.decode([mask for _, _, mask in rows]).transpose(2, 0, 1)
        instances.pred_masks = torch.from_numpy(np.ascontiguousarray(masks)).bool()
        counts = []
        for thresholds in self.grid:
            merged = combine_semantic_and_instance_outputs(instances, labels, *thresholds)
            ids, annotation = panoptic_annotation(*merged, metadata, image_id, name)
            pixels = truth.overlaps(image_id, ids)
            segments = truth.images[image_id].segments
            counts.append(count_image(pixels, segments, annotation["segments_info"]))
        return counts

    def _labels(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = self.folder / "semantic" / name
        try:
            labels = decode_png(read_bytes(path), "greyscale")
        except (OSError, PngError) as error:
            reason = error.found if isinstance(error, PngError) else error.strerror
            raise InputError(
                f"{path}: {reason}; expected semantic labels, of predict.py --save-semantic"
            ) from error
        if labels.shape != size:
            (height, width), (rows, columns) = labels.shape, size
            raise InputError(
                f"{path}: {width}x{height} pixels; expected {columns}x{rows}, as the image has in"
                " --panoptic-json"
            )
        return labels


def format_sweep(rows: Sequence[SweepRow]) -> str:
    """Return the rows as a table, and below it the thresholds of the highest PQ."""

    def cell(value: float | None) -> str:
        return "n/a" if value is None else f"{value:.2f}"

    table = [
        (*row.thresholds, *map(cell, (row.PQ, row.SQ, row.RQ, row.PQ_th, row.PQ_st)))
        for row in rows
    ]
    headers = ("overlap", "stuff area", "score", "PQ", "SQ", "RQ", "PQ things", "PQ stuff")
    text = tabulate(table, headers=headers, stralign="right", disable_numparse=True)
    best = max(rows, key=lambda row: -1 if row.PQ is None else row.PQ)
    keys = ("OVERLAP_THRESH", "STUFF_AREA_LIMIT", "INSTANCES_CONFIDENCE_THRESH")
    options = itertools.chain.from_iterable(
        (f"MODEL.PANOPTIC_FPN.COMBINE.{key}", str(value))
        for key, value in zip(keys, best.thresholds, strict=True)
    )
    return f"{text}\n\nhighest PQ {cell(best.PQ)}: {' '.join(options)}"
