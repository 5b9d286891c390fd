"""Panoptic quality counted from files by other people's code: panopticapi, or hotcoco in Rust."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.evaluation import PQStat, pq_compute_single_core

from ocr_panoptic.errors import InputError
from ocr_panoptic.parallel import available_cpus, parallel_map

from .panoptic_truth import GroundTruth

__all__ = ["FILE_COUNTERS", "check_counter", "count_files"]

_MAX_PROCESSES = 16
# Fewer are counted before a process has started.
_IMAGES_PER_PROCESS = 64


def count_files(
    counter: str,
    truth: GroundTruth,
    annotations: Mapping[int, Mapping[str, Any]],
    folder: str | Path,
    num_processes: int | None = None,
) -> PQStat:
    """Count predictions that were written to PNGs, after a check of the whole ground truth.

    Args:
        counter: one of :data:`FILE_COUNTERS`.
        truth: the ground truth.
        annotations: image id -> COCO panoptic annotation of the prediction, for each image of
            ``truth``.
        folder: of the predicted PNGs.
        num_processes: how many share the work, threads in the case of hotcoco; None for one per
            CPU, at most 16 and one for every 64 images. Processes are gone afterwards; hotcoco's
            threads stay, idle, and their number is that of the first call.

    Raises:
        InputError: the ground truth is broken or contradicts itself; names file and segment.
    """
    if num_processes is None:
        many_enough = max(1, len(truth.images) // _IMAGES_PER_PROCESS)
        num_processes = min(available_cpus(), _MAX_PROCESSES, many_enough)
    truth.check(num_processes)
    pairs = [
        # A copy, as panopticapi writes into it.
        (truth.annotation(image_id), copy.deepcopy(annotations[image_id]))
        for image_id in truth.images
    ]
    return FILE_COUNTERS[counter](truth, pairs, folder, num_processes)


def check_counter(counter: str) -> None:
    """See that a counter of files is installed.

    Raises:
        InputError: hotcoco is asked for and missing.
    """
    if counter == "hotcoco" and importlib.util.find_spec("hotcoco") is None:
        raise InputError(
            "TEST.PANOPTIC.COUNTER: hotcoco, which is not installed; expected `pip install"
            " hotcoco`, in_process or panopticapi"
        )


def _with_panopticapi(
    truth: GroundTruth, pairs: Sequence[tuple], folder: str | Path, num_processes: int
) -> PQStat:
    # As pq_compute_multi_core, but with a bounded number of processes, which end.
    parts = [part.tolist() for part in np.array_split(np.array(pairs, dtype=object), num_processes)]
    count = functools.partial(_count_part, str(truth.folder), str(folder), truth.categories)
    total = PQStat()
    counted = parallel_map(count, parts, num_processes, description="panopticapi", unit="part")
    with contextlib.closing(counted):
        for part in counted:
            total += part
    return total


def _count_part(
    truth_folder: str, folder: str, categories: Mapping[int, dict], pairs: Sequence[tuple]
) -> PQStat:
    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(0, pairs, truth_folder, folder, categories)


def _with_hotcoco(
    truth: GroundTruth, pairs: Sequence[tuple], folder: str | Path, num_processes: int
) -> PQStat:
    check_counter("hotcoco")
    # Read when hotcoco starts its threads, the first time that it needs them.
    os.environ["RAYON_NUM_THREADS"] = str(num_processes)
    from hotcoco.panoptic import PanopticEval

    evaluation = PanopticEval(
        {**truth.header, "annotations": [annotation for annotation, _ in pairs]},
        {"annotations": [annotation for _, annotation in pairs]},
        gt_folder=str(truth.folder),
        pred_folder=str(folder),
    )
    evaluation.evaluate()
    total = PQStat()
    for category_id, counts in evaluation.results()["per_class"].items():
        total[category_id].iou = counts["iou"]
        total[category_id].tp = counts["tp"]
        total[category_id].fp = counts["fp"]
        total[category_id].fn = counts["fn"]
    return total


FILE_COUNTERS = {"hotcoco": _with_hotcoco, "panopticapi": _with_panopticapi}
"""Name -> count(truth, pairs of annotations, folder, number of processes or threads)."""
