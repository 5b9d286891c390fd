"""Criss-cross attention: every pixel looks along its row and its column, again and again.

Huang, Wang, Huang, Huang, Wei, Liu: "CCNet: Criss-Cross Attention for Semantic Segmentation" (ICCV
2019), sec. 3.1 to 3.3, called "the paper" below.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import check_padding_mask
from .context_layer import ContextLayer
from .local import local_transform, without_padding

__all__ = ["CrissCrossAttention"]


class CrissCrossAttention(ContextLayer):
    """RCCA: applied twice with the same weights, row and column reach every pixel.

    Fused, it is the paper's whole head (Fig. 2): a 3x3 convolution, the attention, of which each
    round adds gamma times what it found (gamma is zero at the start, as in the authors' code: then
    it does nothing), a second 3x3, and a third on that result and the input side by side. On
    2048x128x128 it takes 804.2 G, which is what Table 4 of the OCR paper and of OCNet say (804),
    with 23.9 M parameters; the 10.6 M that stand beside it in the OCR paper cannot cost so much.

    Alone, it is the form for a backbone, as in the paper's experiments with Mask R-CNN: the
    attention on the input itself, and the result is what all rounds added. The input belongs to
    who inserts the block, and so does the factor that starts at zero: gamma starts at one.

    Memory grows with H W (H + W). With BatchNorm in evaluation mode and a padding mask, the output
    at valid positions does not depend on the padding.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        out_channels: int | None = None,
        *,
        channels: int | None = None,
        key_channels: int | None = None,
        recurrence: int = 2,
        dropout: float = 0.05,
        norm: str = "SyncBN",
        fuse: bool = True,
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for 512 (fused) or ``in_channels``.
            channels: channels of the pixels that look, and of value; None for ``out_channels``.
            key_channels: channels of query and key; None for an eighth of ``channels``, as in the
                authors' code.
            recurrence: how often the attention is applied.
            dropout: probability of dropping a channel of the fused result in training.
            norm: name of the norm of the 3x3 convolutions.
            fuse: the whole head; without, the context alone is the result.

        Raises:
            ValueError: if ``recurrence`` is no integer from 1, or the context alone should have
                other channels than the input.
        """
        super().__init__()
        if type(recurrence) is not int or recurrence < 1:
            raise ValueError(f"recurrence is {recurrence}, expected an integer from 1")
        self.out_channels = out_channels = out_channels or (512 if fuse else in_channels)
        channels = channels or out_channels
        if not fuse and not in_channels == channels == out_channels:
            raise ValueError(
                f"channels of the result and inside are {out_channels} and {channels}, expected "
                f"{in_channels} as of the input, which looks itself"
            )
        self.recurrence = recurrence
        self.attention = _RowAndColumnAttention(channels, key_channels)
        self.gamma = nn.Parameter(torch.tensor(0.0 if fuse else 1.0))
        self.fuse = None
        if fuse:
            self.before = local_transform(in_channels, channels, norm)
            self.after = local_transform(channels, channels, norm)
            self.fuse = local_transform(in_channels + channels, out_channels, norm)
            self.dropout = nn.Dropout2d(dropout)

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the fused result, or the context, of every position.

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
        if self.fuse is None:
            return self._context(feats, padding_mask)
        feats = without_padding(feats, padding_mask)
        pixels = self.before(feats)
        pixels = pixels + self._context(pixels, padding_mask)
        pixels = self.after(without_padding(pixels, padding_mask))
        pixels = without_padding(pixels, padding_mask)
        return self.dropout(self.fuse(torch.cat([feats.to(pixels.dtype), pixels], dim=1)))

    def _context(self, pixels: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Return what all rounds add to the pixels."""
        context = self.gamma * self.attention(pixels, padding_mask)
        for _ in range(self.recurrence - 1):
            found = self.attention(pixels + context, padding_mask)
            context = context + self.gamma * found
        return context


class _RowAndColumnAttention(nn.Module):
    """One round: a softmax over the H + W - 1 positions of row and column, not scaled."""

    def __init__(self, channels: int, key_channels: int | None) -> None:
        super().__init__()
        key_channels = key_channels or max(1, channels // 8)
        # The softmax takes out a bias of the key; that of the value would be the same everywhere.
        self.query = Conv2d(channels, key_channels, kernel_size=1)
        self.key = Conv2d(channels, key_channels, kernel_size=1, bias=False)
        self.value = Conv2d(channels, channels, kernel_size=1, bias=False)
        for conv in (self.query, self.key, self.value):
            weight_init.c2_xavier_fill(conv)

    def forward(self, feats: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        query, key, value = (
            part.permute(0, 2, 3, 1)
            for part in (self.query(feats), self.key(feats), self.value(feats))
        )
        scale = query.shape[3] ** -0.5
        if query.dtype == torch.float16:
            # 16 bits may not hold the products. They are as exact when they are smaller.
            query = query * scale
        # Both (N, H, W, positions of the row or of the column).
        along_row = query @ key.transpose(2, 3)
        along_column = (query.transpose(1, 2) @ key.permute(0, 2, 3, 1)).transpose(1, 2)
        scores = torch.cat([along_row, along_column], dim=3)
        if scores.dtype == torch.float16:
            scores = scores.float() / scale
        hidden = _hidden(scores, padding_mask)
        # The lowest finite number, not -inf: where nothing may be seen that would be NaN.
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=3)
        if padding_mask is not None:
            weights = weights.masked_fill(hidden, 0.0)
        width, height = feats.shape[3], feats.shape[2]
        along_row, along_column = weights.to(value.dtype).split([width, height], dim=3)
        context = along_row @ value
        context = context + (along_column.transpose(1, 2) @ value.transpose(1, 2)).transpose(1, 2)
        return context.permute(0, 3, 1, 2)


def _hidden(scores: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Say which of (N, H, W, W + H) nobody may look at: padding, and the pixel a second time."""
    height, width = scores.shape[1:3]
    itself = torch.eye(height, dtype=torch.bool, device=scores.device)
    row = itself.new_zeros(1, height, width, width)
    column = itself.view(1, height, 1, height).expand(-1, -1, width, -1)
    if padding_mask is not None:
        row = row | padding_mask.unsqueeze(2)
        column = column | padding_mask.transpose(1, 2).unsqueeze(1)
    return torch.cat([row, column], dim=3)
