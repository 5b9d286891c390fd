"""Norms of fixed statistics, folded into the convolutions in front of them."""

from __future__ import annotations

import copy

import torch
from detectron2.layers import Conv2d
from torch import nn

from ocr_panoptic.layers.attention import fold_norm

__all__ = ["fold_norms"]


@torch.no_grad()
def fold_norms(model: nn.Module) -> int:
    """Fold every BatchNorm and FrozenBatchNorm of a :class:`detectron2.layers.Conv2d` into it.

    The model computes what it did in evaluation mode, but for rounding: the products are formed
    in float64 and rounded once. It cannot be trained on, nor load the checkpoints that it could.
    Norms that depend on their input (GroupNorm, BatchNorm without running statistics) stay.

    Args:
        model: changed in place.

    Returns:
        The number of norms folded.
    """
    folded = 0
    for conv in model.modules():
        if not isinstance(conv, Conv2d) or conv.norm is None:
            continue
        weight, bias, norm = fold_norm(copy.deepcopy(conv).double())
        if norm is not None:
            continue
        dtype = conv.weight.dtype
        conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        conv.norm = None
        folded += 1
    return folded
