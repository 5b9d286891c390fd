"""Losses of the semantic branch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["semantic_cross_entropy"]


def semantic_cross_entropy(
    logits: Tensor, targets: Tensor, *, stride: int, ignore_value: int
) -> Tensor:
    """Mean cross-entropy over the pixels that have a label, at full resolution.

    The same as Detectron2's SemSegFPNHead computes, but 0 where every pixel is ignored (its mean
    over nothing is NaN there).

    Args:
        logits: (N, K, H / stride, W / stride), floating point.
        targets: (N, H, W) int64, values below K or ``ignore_value``.
        stride: pixels of the target per cell of the logits, along each axis.
        ignore_value: label of pixels that are not counted.

    Returns:
        Scalar, float32 or wider.
    """
    if logits.dtype.itemsize < 4:
        # Bilinear upsampling of half precision loses what the loss is about.
        logits = logits.float()
    logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, targets, reduction="sum", ignore_index=ignore_value)
    return total / (targets != ignore_value).sum().clamp(min=1)
