"""What a training says where its GPU has not enough memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ocr_panoptic.errors import InputError

__all__ = ["enough_memory"]

# Heads whose stage can be computed again in the backward pass -> the node that says so.
_CHECKPOINTED = {"OCRSemSegFPNHead": "OCR", "ContextSemSegFPNHead": "CONTEXT"}


@contextmanager
def enough_memory(cfg: CfgNode) -> Iterator[None]:
    """Say in one line that a step needs more memory than the GPU has, and what needs less.

    Raises:
        InputError: in place of torch's error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        images = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        cures = ["fewer images", "a smaller INPUT.MAX_SIZE_TRAIN"]
        head = cfg.MODEL.SEM_SEG_HEAD
        part = _CHECKPOINTED.get(head.NAME) if "Panoptic" in cfg.MODEL.META_ARCHITECTURE else None
        if part and not head[part].CHECKPOINT_ACTIVATIONS:
            cures.append(f"MODEL.SEM_SEG_HEAD.{part}.CHECKPOINT_ACTIVATIONS True")
        if not cfg.SOLVER.AMP.ENABLED:
            cures.append("SOLVER.AMP.ENABLED True")
        raise InputError(
            f"SOLVER.IMS_PER_BATCH: {cfg.SOLVER.IMS_PER_BATCH}, {images} a process, need more "
            f"memory than the GPU has, expected {', '.join(cures[:-1])} or {cures[-1]}"
        ) from error
