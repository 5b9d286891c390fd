"""Non-local block with the embedded Gaussian.

Wang, Girshick, Gupta, He: "Non-local Neural Networks" (CVPR 2018), sec. 3.2 and 3.3, called "the
paper" below; the scaling by sqrt(d) is its authors' code's.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor

from .attention import attention, check_padding_mask, relation, to_map, to_rows
from .context_layer import ContextLayer
from .pooling import all_padding, maxima

__all__ = ["NonLocal"]


class NonLocal(ContextLayer):
    """Every position looks at every position, or at the maxima of 2x2 of them.

    The paper's theta is ``query``, phi ``key``, g ``value``, W_z of eq. 6 ``output``; its residual
    and the norm before it belong to who inserts the block. All are 1x1 convolutions. Biases of phi
    and g have no effect (the softmax takes out the one, the norm behind W_z the other) and are
    left out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        key_channels: int | None = None,
        subsample: bool = True,
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for ``in_channels``.
            key_channels: channels of query, key and value; None for half of ``in_channels``, as
                in the paper's sec. 3.3.
            subsample: take the maxima of 2x2 keys and of 2x2 values, which makes a quarter of
                them (the paper's sec. 3.3).
        """
        super().__init__()
        key_channels = key_channels or max(1, in_channels // 2)
        self.out_channels = out_channels or in_channels
        self.subsample = subsample
        self.query = Conv2d(in_channels, key_channels, kernel_size=1)
        self.key = Conv2d(in_channels, key_channels, kernel_size=1, bias=False)
        self.value = Conv2d(in_channels, key_channels, kernel_size=1, bias=False)
        self.output = Conv2d(key_channels, self.out_channels, kernel_size=1, bias=False)
        for conv in (self.query, self.key, self.value, self.output):
            weight_init.c2_xavier_fill(conv)

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the context of every position: W_z y of eq. 6.

        Args:
            feats: (N, C, H, W).
            region_logits: not used.
            padding_mask: (N, H, W) bool, True where a position is padding: nobody looks at it.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        key, value = self.key(feats), self.value(feats)
        mask = padding_mask
        if self.subsample:
            key, value = (maxima(part, padding_mask) for part in (key, value))
            mask = None if padding_mask is None else all_padding(padding_mask)
        context = attention(
            to_rows(self.query(feats)),
            to_rows(key),
            to_rows(value),
            None if mask is None else mask.flatten(1),
        )
        return self.output(to_map(context, feats))

    @torch.no_grad()
    def relation(
        self, feats: Tensor, position: tuple[int, int], padding_mask: Tensor | None = None
    ) -> Tensor:
        """Return what one pixel looks at, for pictures.

        Args:
            feats: (N, C, H, W).
            position: (row, column) of the pixel that looks.
            padding_mask: as in :meth:`forward`.

        Returns:
            (N, H, W), weights with sum 1. With sub-sampling, the weight of 2x2 keys is spread
            evenly over those that are not padding.
        """
        row, column = position
        query = to_rows(self.query(feats)[:, :, row : row + 1, column : column + 1])
        key, mask = self.key(feats), padding_mask
        if not self.subsample:
            weights = relation(query, to_rows(key), None if mask is None else mask.flatten(1))
            return weights.view(len(feats), *feats.shape[2:])
        key = maxima(key, padding_mask)
        mask = None if padding_mask is None else all_padding(padding_mask).flatten(1)
        weights = relation(query, to_rows(key), mask).view(len(feats), 1, *key.shape[2:])
        valid = feats.new_ones(len(feats), 1, *feats.shape[2:])
        if padding_mask is not None:
            valid = valid.masked_fill(padding_mask.unsqueeze(1), 0)
        counts = F.avg_pool2d(valid, 2, ceil_mode=True, divisor_override=1)
        shares = (weights / counts.clamp(min=1)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return (shares[:, :, : feats.shape[2], : feats.shape[3]] * valid).squeeze(1)
