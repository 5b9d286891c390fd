"""Dense self-attention between the positions of a map.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), sec. 3.2, eq. 10 and 11,
called "the paper" below.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor

from .attention import attention, check_padding_mask, pointwise_transform, relation, to_map, to_rows
from .context_layer import ContextLayer

__all__ = ["SelfAttention"]


class SelfAttention(ContextLayer):
    """Every position looks at every position: Z = rho(softmax(theta phi^T / sqrt(d)) delta).

    The paper's theta is ``query``, phi ``key``, delta ``value``, rho ``output``. theta and phi are
    two 1x1-norm-ReLU, delta and rho 1x1 convolutions without bias; theta, phi and delta halve the
    channels, rho doubles them. With ``value_channels`` of ``in_channels`` and an ``output_norm``
    it is the authors' code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        norm: str = "SyncBN",
        output_norm: str = "",
        transform_layers: int = 2,
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result; None for ``in_channels``.
            key_channels: channels of query and key; None for half of ``in_channels``.
            value_channels: channels of value; None for ``key_channels``.
            norm: name of the norm of query and key, see :func:`detectron2.layers.get_norm`.
            output_norm: with a name, rho is 1x1-norm-ReLU, as in the authors' code.
            transform_layers: 1x1-norm-ReLU of query and key.
        """
        super().__init__()
        self.out_channels = out_channels = out_channels or in_channels
        key_channels = key_channels or max(1, in_channels // 2)
        value_channels = value_channels or key_channels
        self.query = pointwise_transform(in_channels, key_channels, norm, transform_layers)
        self.key = pointwise_transform(in_channels, key_channels, norm, transform_layers)
        # No biases: that of the value would add a constant, which a norm behind takes out again.
        self.value = Conv2d(in_channels, value_channels, kernel_size=1, bias=False)
        self.output = Conv2d(
            value_channels,
            out_channels,
            kernel_size=1,
            bias=False,
            norm=get_norm(output_norm, out_channels),
            activation=F.relu if output_norm else None,
        )
        weight_init.c2_xavier_fill(self.value)
        weight_init.c2_xavier_fill(self.output)

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the context of every position.

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
        query, key, value = (to_rows(part) for part in self.project(feats))
        mask = None if padding_mask is None else padding_mask.flatten(1)
        return self.output(to_map(attention(query, key, value, mask), feats))

    def project(self, feats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value maps, (N, their channels, H, W)."""
        return self.query(feats), self.key(feats), self.value(feats)

    @torch.no_grad()
    def relation(
        self, feats: Tensor, position: tuple[int, int], padding_mask: Tensor | None = None
    ) -> Tensor:
        """Return one row of W of eq. 10, for pictures.

        Args:
            feats: (N, C, H, W).
            position: (row, column) of the pixel that looks.
            padding_mask: as in :meth:`forward`.

        Returns:
            (N, H, W), the weights of all positions, with sum 1.
        """
        row, column = position
        query, key, _ = self.project(feats)
        mask = None if padding_mask is None else padding_mask.flatten(1)
        weights = relation(
            to_rows(query[:, :, row : row + 1, column : column + 1]), to_rows(key), mask
        )
        return weights.view(feats.shape[0], *feats.shape[2:])
