"""What tools/compare_inference.py does: the inference path against the model as it is evaluated."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog

from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.agreement import Agreement, compare_models
from ocr_panoptic.evaluation.panoptic_truth import GroundTruth

from .inference import prepare_for_inference, resolve_dtype
from .prediction import load_model
from .progress import quiet_console
from .setup import check_config, load_config
from .trainer import Trainer

__all__ = ["compare_inference"]


def compare_inference(
    config_file: str, overrides: Sequence[str], dtype: str, limit: int | None = None
) -> tuple[Agreement, str]:
    """Predict a data set with a model as it is, in float32, and prepared for inference.

    Args:
        config_file: path to a yaml config; the first data set of its DATASETS.TEST is predicted.
        overrides: keys and values in turn.
        dtype: of :data:`~.inference.DTYPES`, of the prepared model.
        limit: the first images only.

    Returns:
        How far they agree, and the dtype that "auto" stands for.

    Raises:
        InputError: for a config, weights or a data set that cannot be used.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: expected 1 or more")
    quiet_console()
    cfg = load_config(config_file, list(overrides))
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST: empty, expected a data set to predict")
    name = cfg.DATASETS.TEST[0]
    checked = cfg.clone()
    checked.DATASETS.TEST = (name,)
    with tempfile.TemporaryDirectory() as folder:
        # Nothing is written to the config's own.
        checked.OUTPUT_DIR = folder
        check_config(checked, train=False)
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco_panoptic_seg":
        raise InputError(
            f"DATASETS.TEST: {name} has no panoptic ground truth, expected one that has"
        )
    if "PanopticFPN" not in cfg.MODEL.META_ARCHITECTURE:
        raise InputError(
            f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE}, expected PanopticFPN or "
            "PaddingAwarePanopticFPN"
        )
    dtype = resolve_dtype(dtype, torch.device(cfg.MODEL.DEVICE))
    truth = GroundTruth(metadata.panoptic_json, metadata.panoptic_root)
    model = load_model(cfg)
    loader = itertools.islice(Trainer.build_test_loader(cfg, name), limit)
    prepared = prepare_for_inference(model, dtype=dtype)
    return compare_models(model, prepared, loader, truth, metadata), dtype
