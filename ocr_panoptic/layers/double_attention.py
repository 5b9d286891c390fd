"""Double attention: features are gathered into a few regions, and regions given out to pixels.

Chen, Kalantidis, Li, Yan, Feng: "A2-Nets: Double Attention Networks" (NeurIPS 2018), sec. 3.1 to
3.3, called "the paper" below.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import check_padding_mask, pointwise_transform, to_map, to_rows
from .context_layer import ContextLayer
from .region_context import region_representations, soft_object_regions

__all__ = ["DoubleAttention", "gather_and_distribute"]


class DoubleAttention(ContextLayer):
    """Regions that nobody names: Z = A softmax(B)^T softmax(V).

    The first softmax is over the positions (gathering), the second over the regions (giving out).
    The paper's A is made by ``value``, B by ``gather``, V by ``distribute``, and ``output`` is its
    last convolution, which restores the channels. All are 1x1 convolutions, as in the paper.
    Biases of A and B have no effect (a norm behind takes out the one, the softmax the other) and
    are left out; that of V makes regions more or less common.

    Fused, the result is that of the OCR paper's comparison: a 1x1-norm-ReLU of pixels and context
    side by side. With 64 regions (its supplement, sec. B) and half of the channels in A, where
    the papers say nothing of these, that is 338.2 G at 2048x128x128 behind a 3x3 convolution (338
    in Table 4) and 10.3 M parameters (10.2). Alone, the context waits for the residual of the
    paper's sec. 3.3, which belongs to who inserts the block.

    With BatchNorm in evaluation mode and a padding mask, the output at valid positions does not
    depend on the padding.
    """

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int | None = None,
        *,
        num_regions: int = 64,
        value_channels: int | None = None,
        dropout: float = 0.05,
        norm: str = "SyncBN",
        fuse: bool = True,
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for ``in_channels``.
            num_regions: number of regions.
            value_channels: channels of what is gathered; None for half of ``in_channels``.
            dropout: probability of dropping a channel of the fused result in training.
            norm: name of the norm of the fusion.
            fuse: fuse pixels and context; without, the context alone is the result.

        Raises:
            ValueError: if ``num_regions`` is below 1.
        """
        super().__init__()
        if num_regions < 1:
            raise ValueError(f"number of regions is {num_regions}, expected at least 1")
        self.out_channels = out_channels = out_channels or in_channels
        value_channels = value_channels or max(1, in_channels // 2)
        context_channels = in_channels if fuse else out_channels
        self.gather = Conv2d(in_channels, num_regions, kernel_size=1, bias=False)
        self.distribute = Conv2d(in_channels, num_regions, kernel_size=1)
        self.value = Conv2d(in_channels, value_channels, kernel_size=1, bias=False)
        self.output = Conv2d(value_channels, context_channels, kernel_size=1, bias=False)
        for conv in (self.gather, self.distribute, self.value, self.output):
            weight_init.c2_xavier_fill(conv)
        self.fuse = None
        if fuse:
            self.fuse = pointwise_transform(in_channels + context_channels, out_channels, norm)
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
            padding_mask: (N, H, W) bool, True where a position is padding: it joins no region.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        context = self.output(
            gather_and_distribute(
                self.gather(feats), self.value(feats), self.distribute(feats), padding_mask
            )
        )
        if self.fuse is None:
            return context
        pixels = feats.to(context.dtype)
        return self.dropout(self.fuse(torch.cat([pixels, context], dim=1)))


def gather_and_distribute(
    gather: Tensor, value: Tensor, distribute: Tensor, padding_mask: Tensor | None
) -> Tensor:
    """Return what each position gets of K vectors, each of which is a mean over positions.

    Linear in the number of positions, in time and in memory. All weights are at most 1, so 16 bits
    hold whatever they hold of the values.

    Args:
        gather: (N, K, H, W), logits; a vector's weights are their softmax over the positions.
        value: (N, C, H, W), what is averaged.
        distribute: (N, K, H, W), logits; a position's weights are their softmax over the vectors.
        padding_mask: (N, H, W) bool, True where a position is padding; None for none.

    Returns:
        (N, C, H, W).
    """
    vectors = region_representations(
        value, soft_object_regions(gather, padding_mask).to(value.dtype)
    )
    shares = to_rows(distribute).softmax(dim=2).to(value.dtype)
    return to_map(torch.bmm(shares, vectors), value)
