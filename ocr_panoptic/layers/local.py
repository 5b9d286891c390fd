"""What convolutions of a pixel's neighbours have in common."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor

__all__ = ["local_transform", "without_padding"]


def local_transform(in_channels: int, out_channels: int, norm: str) -> Conv2d:
    """Return 3x3 convolution, norm, ReLU, which keeps the size of a map.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        norm: a name that :func:`detectron2.layers.get_norm` knows, or "" for none.
    """
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(layer)
    return layer


def without_padding(feats: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Set padding to zero, which is what a convolution reads outside a map.

    Args:
        feats: (N, C, H, W).
        padding_mask: (N, H, W) bool, True where a position is padding; None for none.
    """
    return feats if padding_mask is None else feats.masked_fill(padding_mask.unsqueeze(1), 0)
