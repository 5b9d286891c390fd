"""What panoptic evaluation costs, beside Detectron2's own: equal predictions, equal figures."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator
from tabulate import tabulate
from tqdm import tqdm

from ocr_panoptic.data.panoptic_json import read_panoptic_png
from ocr_panoptic.data.shapes.register import register_shapes
from ocr_panoptic.data.shapes.writer import write_shapes
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.panoptic import PanopticEvaluator

__all__ = [
    "DETECTRON2",
    "EvaluationCost",
    "format_costs",
    "measure_evaluation",
    "report_evaluation",
]

DETECTRON2 = "Detectron2, panopticapi"
"""The row that the others are compared with."""

# How much of the ground truth a prediction gets wrong.
_MISSED, _WRONG_CLASS, _LARGEST_SHIFT = 0.1, 0.1, 8


@dataclass(frozen=True)
class EvaluationCost:
    """What one evaluator took.

    Attributes:
        name: of the evaluator.
        images: how many.
        size: of an image, pixels along a side.
        seconds: in all, wall clock: ``process`` of each image, then ``evaluate``.
        process_ms: median of one image's ``process``, milliseconds.
        evaluate_s: of ``evaluate``, seconds.
        pq: percent.
        speedup: seconds of :data:`DETECTRON2` over these.
    """

    name: str
    images: int
    size: int
    seconds: float
    process_ms: float
    evaluate_s: float
    pq: float
    speedup: float


def measure_evaluation(
    num_images: int, size: int, seed: int = 0, num_processes: int | None = None
) -> list[EvaluationCost]:
    """Time the evaluators of panoptic quality on Shapes, whose ground truth is predicted badly.

    The evaluators take turns at each image, so that whatever else the machine does hits all of
    them. No model is run.

    Args:
        num_images: how many.
        size: of an image, pixels along a side.
        seed: of images and predictions.
        num_processes: of the counters that read files, as in
            :func:`~ocr_panoptic.evaluation.panoptic_files.count_files`.

    Returns:
        A row for Detectron2's evaluator, which comes first, and for each of ours.

    Raises:
        AssertionError: their figures differ by more than rounding.
    """
    with (
        tempfile.TemporaryDirectory(prefix="evaluation") as folder,
        _shapes(Path(folder) / "shapes", num_images, size, seed) as name,
    ):
        evaluators: dict[str, DatasetEvaluator] = {
            DETECTRON2: COCOPanopticEvaluator(name, str(Path(folder, "detectron2"))),
            "in process": PanopticEvaluator(name, Path(folder, "in_process")),
            "in process, saved": PanopticEvaluator(name, Path(folder, "saved"), save=True),
            "files, hotcoco": PanopticEvaluator(
                name, Path(folder, "hotcoco"), counter="hotcoco", num_processes=num_processes
            ),
        }
        return _measure(evaluators, name, num_images, size, seed)


def _measure(
    evaluators: dict[str, DatasetEvaluator], name: str, num_images: int, size: int, seed: int
) -> list[EvaluationCost]:
    seconds: dict[str, list[float]] = {each: [] for each in evaluators}
    for evaluator in evaluators.values():
        evaluator.reset()
    shown = tqdm(_predictions(name, seed), total=num_images, unit="image", disable=None)
    for record, (segment_ids, segments) in shown:
        for each, evaluator in evaluators.items():
            # Detectron2's evaluator writes into what it is given.
            copied = (segment_ids.clone(), [dict(segment) for segment in segments])
            output = {"panoptic_seg": copied}
            seconds[each].append(
                _time(lambda e=evaluator, o=output, r=record: e.process([r], [o]))[0]
            )
    rows, results = [], {}
    for each, evaluator in evaluators.items():
        evaluate_s, found = _time(evaluator.evaluate)
        results[each] = found["panoptic_seg"]
        rows.append((each, sum(seconds[each]) + evaluate_s, seconds[each], evaluate_s))
    for each, figures in results.items():
        for key, value in figures.items():
            expected = results[DETECTRON2][key]
            assert math.isclose(value, expected, rel_tol=1e-12), f"{each}: {key} {value}"
    return [
        EvaluationCost(
            name=each,
            images=num_images,
            size=size,
            seconds=total,
            process_ms=float(1000 * np.median(process)),
            evaluate_s=evaluate_s,
            pq=float(results[each]["PQ"]),
            speedup=rows[0][1] / total,
        )
        for each, total, process, evaluate_s in rows
    ]


def _time(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


@contextlib.contextmanager
def _shapes(root: Path, num_images: int, size: int, seed: int) -> Iterator[str]:
    """Write Shapes and register them for a while."""
    write_shapes(root, train=1, val=num_images, size=size, seed=seed)
    prefix = f"evaluation_{uuid.uuid4().hex}"
    names = (f"{prefix}_separated", f"{prefix}_stuffonly")
    register_shapes(prefix, root, "val")
    try:
        yield names[0]
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _predictions(
    name: str, seed: int
) -> Iterator[tuple[dict[str, Any], tuple[torch.Tensor, list[dict[str, Any]]]]]:
    """Yield images and panoptic predictions in Detectron2's form, one at a time."""
    metadata = MetadataCatalog.get(name)
    truth = json.loads(Path(metadata.panoptic_json).read_text())
    annotations = {row["image_id"]: row for row in truth["annotations"]}
    labels = {
        True: metadata.thing_dataset_id_to_contiguous_id,
        False: metadata.stuff_dataset_id_to_contiguous_id,
    }
    rng = np.random.default_rng(seed)
    for record in DatasetCatalog.get(name):
        annotation = annotations[record["image_id"]]
        ids = read_panoptic_png(Path(metadata.panoptic_root) / annotation["file_name"])
        found = np.zeros_like(ids)
        segments = []
        for segment in annotation["segments_info"]:
            if rng.random() < _MISSED:
                continue
            isthing = segment["category_id"] in labels[True]
            label = labels[isthing][segment["category_id"]]
            if isthing and rng.random() < _WRONG_CLASS:
                label = int(rng.integers(len(labels[True])))
            segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
            found[ids == segment["id"]] = len(segments)
        shift = rng.integers(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, 2)
        yield record, (torch.from_numpy(np.roll(found, shift, (0, 1))), segments)


def report_evaluation(images: int, size: int) -> tuple[str, list[dict[str, Any]]]:
    """Return what ``tools/benchmark.py evaluation`` prints, and the rows as json has them.

    Raises:
        InputError: a number is too small or too large.
    """
    if images < 1:
        raise InputError(f"--images {images}: expected 1 or more")
    rows = measure_evaluation(images, size)
    return format_costs(rows), [asdict(row) for row in rows]


def format_costs(rows: list[EvaluationCost]) -> str:
    """Return the rows as a table."""
    cells = [
        (
            row.name,
            f"{row.seconds:.1f} s",
            f"{row.process_ms:.1f} ms",
            f"{row.evaluate_s:.1f} s",
            f"{row.speedup:.1f}x",
            f"{row.pq:.3f}",
        )
        for row in rows
    ]
    headers = ("", "total", "each image", "at the end", "faster", "PQ")
    table = tabulate(cells, headers=headers, stralign="right", disable_numparse=True)
    return f"{rows[0].images} images of {rows[0].size}x{rows[0].size} pixels\n{table}"
