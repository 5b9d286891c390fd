"""Object context modules of OCNet: attention beside the pixels themselves.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), sec. 3.4 and Fig. 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import pointwise_transform
from .context_layer import ContextLayer

__all__ = ["BaseOC"]


class BaseOC(ContextLayer):
    """Concatenate the input with its context and fuse both (Base-OC, Fig. 5 b).

    The 3x3 convolution that reduces the backbone's channels comes before it.
    """

    def __init__(
        self,
        context: nn.Module,
        in_channels: int = 512,
        context_channels: int = 512,
        out_channels: int = 512,
        *,
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build the fusion.

        Args:
            context: a layer that maps (N, in_channels, H, W) to (N, context_channels, H, W), such
                as :class:`~.self_attention.SelfAttention` or
                :class:`~.isa.InterlacedSparseSelfAttention`.
            in_channels: channels of the input.
            context_channels: channels of the context.
            out_channels: channels of the result.
            dropout: probability of dropping a channel of the result in training, as in the
                authors' code.
            norm: name of the fusion's norm.
        """
        super().__init__()
        self.out_channels = out_channels
        self.context = context
        self.fuse = pointwise_transform(in_channels + context_channels, out_channels, norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W).

        Args:
            feats: (N, C, H, W).
            region_logits: not used.
            padding_mask: (N, H, W) bool, True where a position is padding.
        """
        context = self.context(feats, padding_mask=padding_mask)
        return self.dropout(self.fuse(torch.cat([feats, context], dim=1)))
