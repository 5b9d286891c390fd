"""Efficient attention: keys and values are multiplied first, so no map of all pairs is made.

Shen, Zhang, Zhao, Yi, Li: "Efficient Attention: Attention with Linear Complexities" (2018), sec.
3.2 and 3.3, called "the paper" below.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d
from torch import Tensor

from .attention import check_padding_mask
from .context_layer import ContextLayer
from .double_attention import gather_and_distribute

__all__ = ["EfficientAttention"]


class EfficientAttention(ContextLayer):
    """E = softmax(Q) (softmax(K)^T V): the query's softmax over channels, the key's over positions.

    Each channel of the keys is one global attention map; a position mixes what they collect. One
    head. Query, key, value and ``output`` (the paper's re-projection) are 1x1 convolutions.
    Biases of key and value have no effect (the softmax takes out the one, what follows ``output``
    can give the other) and are left out; the query's makes maps more or less common.

    Fused, the pixels are added to the context, as in the authors' module, which has no factor
    that starts at zero and no norm. With half of the channels in query, key and value that is
    330.7 G at 2048x128x128 behind a 3x3 convolution (331 in OCNet's Table 4). Alone, the context
    waits for the residual of who inserts the block.

    The output at valid positions does not depend on the padding.
    """

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int | None = None,
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        fuse: bool = True,
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for ``in_channels``.
            key_channels: channels of query and key; None for half of ``in_channels``.
            value_channels: channels of value; None for ``key_channels``.
            fuse: add the pixels; without, the context alone is the result.

        Raises:
            ValueError: if pixels of other channels should be added.
        """
        super().__init__()
        self.out_channels = out_channels = out_channels or in_channels
        if fuse and out_channels != in_channels:
            raise ValueError(
                f"channels of the result are {out_channels}, expected {in_channels} as of the "
                "pixels that are added"
            )
        self.fuse = fuse
        key_channels = key_channels or max(1, in_channels // 2)
        value_channels = value_channels or key_channels
        self.query = Conv2d(in_channels, key_channels, kernel_size=1)
        self.key = Conv2d(in_channels, key_channels, kernel_size=1, bias=False)
        self.value = Conv2d(in_channels, value_channels, kernel_size=1, bias=False)
        self.output = Conv2d(value_channels, out_channels, kernel_size=1, bias=False)
        for conv in (self.query, self.key, self.value, self.output):
            weight_init.c2_xavier_fill(conv)

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
            padding_mask: (N, H, W) bool, True where a position is padding: no key looks at it.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        context = self.output(
            gather_and_distribute(
                self.key(feats), self.value(feats), self.query(feats), padding_mask
            )
        )
        return feats.to(context.dtype) + context if self.fuse else context
