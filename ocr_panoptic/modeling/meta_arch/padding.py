"""Which positions of a batch are padding: told once by the meta-architecture, asked by anyone.

Detectron2 pads the images of a batch to one size. Any module inside a meta-architecture of this
project asks :func:`padding_mask` for a feature map of its own.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from .batch import image_list

__all__ = ["padding_mask"]

_logger = logging.getLogger(__name__)


def padding_mask(feats: Tensor) -> Tensor | None:
    """Say which cells of a feature map are padding: those that contain no pixel of their image.

    Args:
        feats: (N, C, H, W), any feature map of the batch that the meta-architecture works on.

    Returns:
        (N, H, W) bool on the device of ``feats``, True where a cell is padding. None where no
        image is padded, and under a meta-architecture that does not tell the sizes, which is
        warned about once.
    """
    images = image_list()
    if images is None:
        _warn_once()
        return None
    sizes = images.image_sizes
    height, width = images.tensor.shape[-2:]
    # Under tracing sizes are tensors: then there is always a mask, so that the trace is general.
    if not torch.jit.is_tracing() and all(tuple(size) == (height, width) for size in sizes):
        return None
    valid = [
        torch.stack([torch.as_tensor(size[axis], device=feats.device) for size in sizes])
        for axis in (0, 1)
    ]
    rows, columns = (
        # Cell i begins at pixel i * padded / cells: compared in integers, without rounding.
        torch.arange(cells, device=feats.device) * padded >= valid[axis].unsqueeze(1) * cells
        for axis, (cells, padded) in enumerate(zip(feats.shape[-2:], (height, width), strict=True))
    )
    return rows.unsqueeze(2) | columns.unsqueeze(1)


def _warn_once() -> None:
    if not _warn_once.done:
        _warn_once.done = True
        _logger.warning(
            "The meta-architecture does not tell image sizes, so padding is not masked: set "
            "MODEL.META_ARCHITECTURE to PaddingAwarePanopticFPN or PaddingAwareGeneralizedRCNN"
        )


_warn_once.done = False
