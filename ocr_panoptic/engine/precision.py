"""Mixed precision: in what a step computes, and whether its gradients are scaled."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode

__all__ = ["AMP_DTYPES", "amp_options"]

AMP_DTYPES = ("float16", "bfloat16")
"""What SOLVER.AMP.DTYPE may be."""

_logger = logging.getLogger(__name__)


def amp_options(cfg: CfgNode) -> dict:
    """Return what Detectron2's AMPTrainer is given beyond a SimpleTrainer; logs the dtype.

    Convolutions and matrix products are then computed in SOLVER.AMP.DTYPE; softmax, GroupNorm and
    losses in float32, in which the weights are kept too.

    Args:
        cfg: of the run.

    Returns:
        ``precision`` and ``grad_scaler``; nothing without SOLVER.AMP.ENABLED.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return {}
    name = cfg.SOLVER.AMP.DTYPE
    # bfloat16 has the range of float32: no gradient is too small for it.
    scaled = name == "float16"
    _logger.info(
        f"SOLVER.AMP: training in {name}{', gradients scaled' if scaled else ''}; softmax, "
        "GroupNorm, losses and weights in float32"
    )
    scaler = torch.amp.GradScaler("cuda", enabled=scaled)
    return {"precision": getattr(torch, name), "grad_scaler": scaler}
