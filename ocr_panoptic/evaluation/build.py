"""Which evaluators a data set gets: a table by its type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from PIL import Image

from ocr_panoptic.data.register import NO_THINGS
from ocr_panoptic.errors import InputError

from .panoptic import COUNTERS, PanopticEvaluator, PanopticResults
from .panoptic_files import check_counter

__all__ = ["EVALUATORS", "build_evaluators", "check_evaluation", "load_labels"]


def _instances(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator | None:
    if MetadataCatalog.get(dataset_name).get("thing_classes") in ([], [NO_THINGS]):
        return None  # there is no AP without things
    return COCOEvaluator(dataset_name, output_dir=folder)


def _panoptic(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    panoptic = cfg.TEST.PANOPTIC
    return PanopticEvaluator(
        dataset_name,
        folder,
        save=panoptic.SAVE,
        counter=panoptic.COUNTER,
        num_processes=panoptic.NUM_PROCS or None,
    )


def _panoptic_results(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    # Whoever runs a model on images without annotations wants its predictions.
    return PanopticResults(dataset_name, folder)


def _semantic(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return SemSegEvaluator(dataset_name, output_dir=folder, sem_seg_loading_fn=load_labels)


EVALUATORS: dict[str, tuple[Callable[[CfgNode, str, str], DatasetEvaluator | None], ...]] = {
    "coco": (_instances,),
    "coco_panoptic_results": (_instances, _panoptic_results),
    "coco_panoptic_seg": (_semantic, _instances, _panoptic),
    "sem_seg": (_semantic,),
}
"""Detectron2's ``evaluator_type`` of a data set -> its evaluators. Add a row for a new type.

``coco_panoptic_results`` is ours: images without annotations, whose predictions are written.
"""


def check_evaluation(cfg: CfgNode) -> None:
    """Check our keys of ``TEST``, before a training that ends with an evaluation.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    if cfg.TEST.DTYPE not in ("float32", "bfloat16"):
        raise InputError(f"TEST.DTYPE: '{cfg.TEST.DTYPE}', expected float32 or bfloat16")
    panoptic = cfg.TEST.PANOPTIC
    if panoptic.COUNTER not in COUNTERS:
        raise InputError(
            f"TEST.PANOPTIC.COUNTER: '{panoptic.COUNTER}', expected one of {', '.join(COUNTERS)}"
        )
    check_counter(panoptic.COUNTER)
    # None can override a value of any type.
    if type(panoptic.SAVE) is not bool:
        raise InputError(f"TEST.PANOPTIC.SAVE: {panoptic.SAVE}, expected True or False")
    if type(panoptic.NUM_PROCS) is not int or panoptic.NUM_PROCS < 0:
        raise InputError(
            f"TEST.PANOPTIC.NUM_PROCS: {panoptic.NUM_PROCS}, expected 0 (one per CPU) or more"
        )


def build_evaluators(cfg: CfgNode, dataset_name: str, folder: Path) -> DatasetEvaluators:
    """Return the evaluators of a data set.

    Args:
        cfg: the run's config.
        dataset_name: a registered data set.
        folder: where results are written; made if it is missing.

    Raises:
        InputError: if the data set's type has no row in :data:`EVALUATORS`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise InputError(
            f"data set {dataset_name}: evaluator_type '{kind}', expected one of "
            f"{', '.join(EVALUATORS)}"
        )
    made = [make(cfg, dataset_name, str(folder)) for make in EVALUATORS[kind]]
    return DatasetEvaluators([evaluator for evaluator in made if evaluator is not None])


def load_labels(path: str, dtype: type) -> np.ndarray:
    """Read a semantic PNG; Detectron2's own reader fails on numpy 2."""
    with Image.open(path) as image:
        return np.array(image).astype(dtype)
