"""Compact generalized non-local: every channel of a pixel looks at every channel of every pixel.

Yue, Sun, Yuan, Zhou, Ding, Xu: "Compact Generalized Non-local Network" (NeurIPS 2018), sec. 3,
called "the paper" below; its dot-product kernel.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import check_padding_mask
from .context_layer import ContextLayer
from .local import local_transform, without_padding

__all__ = ["CompactGeneralizedNonLocal"]


class CompactGeneralizedNonLocal(ContextLayer):
    """vec(Y) = vec(theta) (vec(phi)^T vec(g)) in each group of channels, then W_z.

    With the dot product as kernel all pairs of positions and channels come down to one number per
    image and group. theta is ``query``, phi ``key``, g ``value``, W_z ``output``; the first three
    are 1x1 convolutions, the last one too, each group by itself; none has a bias. The product is
    divided by the root of its length, which the authors' code offers ("scale") and 16 bits need; Y
    still grows with the third power of the input, and so float16 overflows before others do.

    Fused, it is x + GroupNorm(W_z Y), the paper's block, with as many groups and a weight of zero
    at the start (then the block does nothing), and behind it a 3x3 convolution. Behind another
    one it takes 400.0 G at 2048x128x128; OCNet's Table 4 says 412 and nothing of the widths (512
    channels in theta, phi and g instead of half of them give 413.4). That norm divides by the
    size of the number above and leaves its sign, as in the authors' code.

    Alone, W_z Y waits for norm and residual of who inserts the block.

    With BatchNorm in evaluation mode and a padding mask, the output at valid positions does not
    depend on the padding: GroupNorm takes its statistics over them only.
    """

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int | None = None,
        *,
        key_channels: int | None = None,
        groups: int = 8,
        dropout: float = 0.05,
        norm: str = "SyncBN",
        fuse: bool = True,
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for ``in_channels``.
            key_channels: channels of theta, phi and g; None for half of ``in_channels``, as in the
                authors' code.
            groups: groups of channels.
            dropout: probability of dropping a channel of the fused result in training.
            norm: name of the norm of the 3x3 convolution.
            fuse: add the pixels and fuse both; without, the context alone is the result.

        Raises:
            ValueError: if the channels cannot be divided into the groups.
        """
        super().__init__()
        self.out_channels = out_channels = out_channels or in_channels
        key_channels = key_channels or max(1, in_channels // 2)
        context_channels = in_channels if fuse else out_channels
        if groups < 1 or key_channels % groups or context_channels % groups:
            raise ValueError(
                f"{key_channels} channels inside and {context_channels} of the context in {groups} "
                "groups, expected multiples of their number"
            )
        self.groups = groups
        self.query = Conv2d(in_channels, key_channels, kernel_size=1, bias=False)
        self.key = Conv2d(in_channels, key_channels, kernel_size=1, bias=False)
        self.value = Conv2d(in_channels, key_channels, kernel_size=1, bias=False)
        self.output = Conv2d(
            key_channels, context_channels, kernel_size=1, bias=False, groups=groups
        )
        for conv in (self.query, self.key, self.value, self.output):
            weight_init.c2_xavier_fill(conv)
        self.fuse = None
        if fuse:
            self.norm = nn.GroupNorm(groups, in_channels)
            nn.init.zeros_(self.norm.weight)
            self.fuse = local_transform(in_channels, out_channels, norm)
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
            padding_mask: (N, H, W) bool, True where a position is padding: it joins no product.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        query, key, value = self.query(feats), self.key(feats), self.value(feats)
        key = without_padding(key, padding_mask) * self._scale(key, padding_mask)
        shape = (len(feats) * self.groups, 1, key.shape[1:].numel() // self.groups)
        seen = torch.bmm(key.reshape(shape), value.reshape(shape).transpose(1, 2))
        context = self.output((query.reshape(shape) * seen).view_as(query))
        if self.fuse is None:
            return context
        context = _group_norm(self.norm, context, padding_mask)
        pixels = without_padding(feats.to(context.dtype) + context, padding_mask)
        return self.dropout(self.fuse(pixels))

    def _scale(self, key: Tensor, padding_mask: Tensor | None) -> float | Tensor:
        """Return one over the root of the numbers in a group that are no padding."""
        length = key.shape[1] // self.groups
        if padding_mask is None:
            return (length * key.shape[2] * key.shape[3]) ** -0.5
        # In float16 the length itself may be infinite.
        length = length * (~padding_mask).sum(dim=(1, 2)).clamp(min=1)
        return length.double().rsqrt().to(key.dtype).view(-1, 1, 1, 1)


def _group_norm(norm: nn.GroupNorm, feats: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Apply a GroupNorm with the statistics of the positions that are no padding."""
    if padding_mask is None:
        return norm(feats)
    groups = feats.to(torch.promote_types(feats.dtype, torch.float32))
    groups = groups.unflatten(1, (norm.num_groups, -1))
    padding = padding_mask[:, None, None]
    count = (groups.shape[2] * (~padding_mask).sum(dim=(1, 2)).clamp(min=1)).view(-1, 1, 1, 1, 1)
    mean = groups.masked_fill(padding, 0).sum(dim=(2, 3, 4), keepdim=True) / count
    groups = groups - mean
    squares = groups.masked_fill(padding, 0).square().sum(dim=(2, 3, 4), keepdim=True)
    normed = (groups * (squares / count + norm.eps).rsqrt()).flatten(1, 2)
    return (normed * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).to(feats.dtype)
