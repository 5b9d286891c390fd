"""Dual attention: position attention and channel attention, summed.

Fu, Liu, Tian, Li, Bao, Fang, Lu: "Dual Attention Network for Scene Segmentation" (CVPR 2019), sec.
3.1 to 3.4, called "the paper" below.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import TILE, attention, check_padding_mask, to_map, to_rows
from .context_layer import ContextLayer
from .local import local_transform, without_padding

__all__ = ["DANet"]


class DANet(ContextLayer):
    """Pixels that look at all pixels, and channels that look at all channels.

    Fused, it is the paper's whole head (Fig. 2): each branch is a 3x3 convolution, an attention
    added to its input with a factor that is zero at the start (then it does nothing), and another
    3x3; the result is the sum of both branches. On 2048x128x128 it takes 1110.2 G, which is what
    Table 4 of the OCR paper and of OCNet say (1110), with 23.9 M parameters; the 10.6 M that stand
    beside it in the OCR paper cannot cost so much.

    Alone, both attentions look at the input itself and the result is the sum of what they found.
    The input belongs to who inserts the block, and so does the factor that starts at zero: both of
    the paper's start at one.

    With BatchNorm in evaluation mode and a padding mask, the output at valid positions does not
    depend on the padding.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        out_channels: int | None = None,
        *,
        channels: int | None = None,
        key_channels: int | None = None,
        dropout: float = 0.05,
        norm: str = "SyncBN",
        fuse: bool = True,
    ) -> None:
        """Build the branches.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for 512 (fused) or ``in_channels``.
            channels: channels of the pixels that look, and of value; None for ``out_channels``.
            key_channels: channels of query and key; None for an eighth of ``channels``, as in the
                authors' code.
            dropout: probability of dropping a channel of the fused result in training.
            norm: name of the norm of the 3x3 convolutions.
            fuse: the whole head; without, the context alone is the result.

        Raises:
            ValueError: if the context alone should have other channels than the input.
        """
        super().__init__()
        self.out_channels = out_channels = out_channels or (512 if fuse else in_channels)
        channels = channels or out_channels
        if not fuse and not in_channels == channels == out_channels:
            raise ValueError(
                f"channels of the result and inside are {out_channels} and {channels}, expected "
                f"{in_channels} as of the input, which looks itself"
            )
        self.fuse = fuse
        factor = 0.0 if fuse else 1.0
        self.position = _PositionAttention(channels, key_channels, factor)
        self.channel = _ChannelAttention(factor)
        if fuse:
            self.position_before = local_transform(in_channels, channels, norm)
            self.position_after = local_transform(channels, out_channels, norm)
            self.channel_before = local_transform(in_channels, channels, norm)
            self.channel_after = local_transform(channels, out_channels, norm)
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
        if not self.fuse:
            return self.position(feats, padding_mask) + self.channel(feats, padding_mask)
        feats = without_padding(feats, padding_mask)
        position = self.position_before(feats)
        position = without_padding(position + self.position(position, padding_mask), padding_mask)
        channel = self.channel_before(feats)
        channel = without_padding(channel + self.channel(channel, padding_mask), padding_mask)
        return self.dropout(self.position_after(position) + self.channel_after(channel))


class _PositionAttention(nn.Module):
    """alpha times what is found: a softmax over all positions, not scaled (eq. 1 and 2)."""

    def __init__(self, channels: int, key_channels: int | None, factor: float) -> None:
        super().__init__()
        key_channels = key_channels or max(1, channels // 8)
        # The softmax takes out a bias of the key; that of the value would be the same everywhere.
        self.query = Conv2d(channels, key_channels, kernel_size=1)
        self.key = Conv2d(channels, key_channels, kernel_size=1, bias=False)
        self.value = Conv2d(channels, channels, kernel_size=1, bias=False)
        for conv in (self.query, self.key, self.value):
            weight_init.c2_xavier_fill(conv)
        self.alpha = nn.Parameter(torch.tensor(factor))

    def forward(self, feats: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        query, key, value = (
            to_rows(part) for part in (self.query(feats), self.key(feats), self.value(feats))
        )
        mask = None if padding_mask is None else padding_mask.flatten(1)
        # Takes out the scale that the attention puts in.
        query = query * query.shape[2] ** 0.5
        # On a CPU torch's fused kernel takes equal widths only. Without it, and with one product
        # of all queries, there would be a map of all pairs.
        tiles = query.split(TILE, dim=1) if query.device.type == "cpu" else [query]
        found = torch.cat([attention(tile, key, value, mask) for tile in tiles], dim=1)
        return self.alpha * to_map(found, feats)


class _ChannelAttention(nn.Module):
    """beta times what is found: a softmax over all channels (eq. 3 and 4).

    Its sign is that of the authors' code, softmax(-X X^T): a channel takes from those least like
    it. With the sign of eq. 3 the largest number of nearly each row would be its own, so that a
    channel takes from itself alone; the authors report that it is worse (issue 48 of their
    repository).
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(factor))

    def forward(self, feats: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        rows = feats.flatten(2)
        # Sums over all positions: 16 bits hold neither their size nor their differences.
        exact = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast("cuda" if feats.is_cuda else "cpu", enabled=False):
            seen = without_padding(feats, padding_mask).flatten(2).to(exact)
            weights = torch.bmm(seen, seen.transpose(1, 2)).neg().softmax(dim=2)
        context = torch.bmm(weights.to(rows.dtype), rows)
        return self.beta * context.view_as(feats)
