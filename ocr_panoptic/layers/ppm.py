"""Pyramid pooling: every pixel sees the averages of the parts of the map that it lies in.

Zhao, Shi, Qi, Wang, Jia: "Pyramid Scene Parsing Network" (CVPR 2017), sec. 3.2, called "the paper"
below; OCNet's appendix B (eq. 22) says the same of one axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from .attention import check_padding_mask, pointwise_transform
from .context_layer import ContextLayer
from .pooling import average_parts, spread_parts

__all__ = ["PyramidPooling"]


class PyramidPooling(ContextLayer):
    """PPM: averages of 1x1, 2x2, 3x3 and 6x6 parts beside the pixels themselves, then 3x3.

    Each scale's averages go through 1x1-norm-ReLU, which gives an equal share of the input's
    channels, and are enlarged bilinearly. The 3x3 convolution on all of them, which the paper puts
    behind its module, belongs to this layer: with it the defaults are what the OCR paper's Table 4
    counts (23.1 M, 619 G).

    With a mask the parts are those of the valid rectangle of each image, and the 3x3 convolution
    reads zeros where padding is, as it does outside a map: with BatchNorm in evaluation mode the
    output at valid positions does not depend on the padding.

    In training BatchNorm needs two images for the statistics of a single part: one image on one
    device is refused by it.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        out_channels: int = 512,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build the branches.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the result.
            bins: parts along each axis, of each scale.
            dropout: probability of dropping a channel of the result in training.
            norm: name of every convolution's norm, see :func:`detectron2.layers.get_norm`.

        Raises:
            ValueError: if ``bins`` are not different integers from 1, are more than the channels,
                or GroupNorm has one channel a group: with one part, every number becomes zero.
        """
        super().__init__()
        self.bins = check_bins(bins)
        self.out_channels = out_channels
        width = in_channels // len(self.bins)
        if width < 1:
            raise ValueError(f"{len(self.bins)} bins share {in_channels} channels, expected more")
        self.branches = nn.ModuleList(
            pointwise_transform(in_channels, width, norm) for _ in self.bins
        )
        for parts, branch in zip(self.bins, self.branches, strict=True):
            if (
                parts == 1
                and isinstance(branch[0].norm, nn.GroupNorm)
                and branch[0].norm.num_groups == width
            ):
                raise ValueError(
                    f"GroupNorm of {width} groups over {width} channels erases the one part of "
                    "bin 1, expected more channels"
                )
        self.fuse = Conv2d(
            in_channels + width * len(self.bins),
            out_channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, out_channels),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(self.fuse)
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
        size = tuple(feats.shape[2:])
        pyramid = [feats]
        averages = average_parts(feats, self.bins, padding_mask)
        for branch, parts in zip(self.branches, averages, strict=True):
            pyramid.append(spread_parts(branch(parts), size, padding_mask))
        pyramid = torch.cat(pyramid, dim=1)
        if padding_mask is not None:
            pyramid = pyramid.masked_fill(padding_mask.unsqueeze(1), 0)
        return self.dropout(self.fuse(pyramid))


def check_bins(bins: Sequence[int]) -> tuple[int, ...]:
    """Return the scales of a pyramid as a tuple.

    Raises:
        ValueError: if they are not different integers from 1, or there is none.
    """
    given = bins if isinstance(bins, list | tuple) else ()
    if not all(type(b) is int and b > 0 for b in given) or not 0 < len(set(given)) == len(given):
        raise ValueError(f"bins are {bins}, expected different integers from 1")
    return tuple(given)
