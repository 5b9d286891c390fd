"""Atrous spatial pyramid pooling: convolutions of several rates and the average of the image.

Chen, Papandreou, Schroff, Adam: "Rethinking Atrous Convolution for Semantic Image Segmentation"
(2017), sec. 3.3 and Fig. 5, called "the paper" below; eq. 1 of the OCR paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ASPP
from torch import Tensor, nn

from .attention import check_padding_mask
from .context_layer import ContextLayer
from .pooling import average_parts

__all__ = ["AtrousSpatialPyramidPooling"]


class AtrousSpatialPyramidPooling(ContextLayer):
    """ASPP: Detectron2's, with a mask.

    Five branches (1x1, three dilated 3x3, the image's average through a 1x1) are concatenated and
    fused by a 1x1. As in Detectron2, and unlike the paper, the 1x1 on the average has a bias and
    no norm. With the defaults it is what the OCR paper's Table 4 counts (15.5 M, 492 G).

    The average is always that of the whole image (Detectron2's ``pool_kernel_size`` is None), so
    every size is allowed. On a map no larger than a rate a dilated 3x3 is a 1x1.

    With a mask the average is that of the valid positions, and the dilated convolutions read zeros
    where padding is, as they do outside a map: with BatchNorm in evaluation mode the output at
    valid positions does not depend on the padding.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        out_channels: int = 256,
        *,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build the branches.

        Args:
            in_channels: channels of the input.
            out_channels: channels of each branch and of the result.
            rates: of the three dilated convolutions.
            dropout: probability of dropping a channel of the result in training.
            norm: name of the norm of every convolution but that on the average, see
                :func:`detectron2.layers.get_norm`.

        Raises:
            ValueError: if ``rates`` are not three integers from 1.
        """
        super().__init__()
        rates = check_rates(rates)
        if len(rates) != 3:
            raise ValueError(f"rates are {rates}, expected three of them")
        self.out_channels = out_channels
        self.aspp = ASPP(in_channels, out_channels, list(rates), norm=norm, activation=F.relu)
        self.dropout = nn.Dropout2d(dropout)

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the fused result of every position.

        Args:
            feats: (N, C, H, W), of any size from 1x1.
            region_logits: not used.
            padding_mask: (N, H, W) bool, True where a position is padding.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        if padding_mask is None:
            return self.dropout(self.aspp(feats))
        # Its own forward has no place for another average.
        *convs, (_, of_average) = self.aspp.convs
        (average,) = average_parts(feats, (1,), padding_mask)
        feats = feats.masked_fill(padding_mask.unsqueeze(1), 0)
        branches = [conv(feats) for conv in convs]
        branches.append(of_average(average).expand(-1, -1, *feats.shape[2:]))
        return self.dropout(self.aspp.project(torch.cat(branches, dim=1)))


def check_rates(rates: Sequence[int]) -> tuple[int, ...]:
    """Return rates of dilated convolutions as a tuple.

    Raises:
        ValueError: if they are not integers from 1.
    """
    given = rates if isinstance(rates, list | tuple) else ()
    if not given or not all(type(rate) is int and rate > 0 for rate in given):
        raise ValueError(f"rates are {rates}, expected integers from 1")
    return tuple(given)
