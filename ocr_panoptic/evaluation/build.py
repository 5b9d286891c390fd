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

from ocr_panoptic.errors import InputError

from .panoptic import PanopticEvaluator

__all__ = ["EVALUATORS", "build_evaluators"]


def _instances(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return COCOEvaluator(dataset_name, output_dir=folder)


def _panoptic(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return PanopticEvaluator(dataset_name, folder)


def _semantic(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return SemSegEvaluator(dataset_name, output_dir=folder, sem_seg_loading_fn=_load_labels)


EVALUATORS: dict[str, tuple[Callable[[CfgNode, str, str], DatasetEvaluator], ...]] = {
    "coco": (_instances,),
    "coco_panoptic_seg": (_semantic, _instances, _panoptic),
    "sem_seg": (_semantic,),
}
"""Detectron2's ``evaluator_type`` of a data set -> its evaluators. Add a row for a new type."""


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
    return DatasetEvaluators([make(cfg, dataset_name, str(folder)) for make in EVALUATORS[kind]])


def _load_labels(path: str, dtype: type) -> np.ndarray:
    """Read a semantic PNG; Detectron2's own reader fails on numpy 2."""
    with Image.open(path) as image:
        return np.array(image).astype(dtype)
