"""Object context modules of OCNet: attention beside the pixels themselves, at several scales.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), sec. 3.3, 3.4 and Fig. 5,
called "the paper" below. What it calls object context pooling is the ``context`` that each module
is given: :class:`~.self_attention.SelfAttention` (SA) or
:class:`~.isa.InterlacedSparseSelfAttention` (ISA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from .aspp import check_rates
from .attention import check_padding_mask, pointwise_transform
from .context_layer import ContextLayer
from .pooling import all_padding, enlarge, maxima
from .ppm import check_bins
from .subdivision import Subdivision

__all__ = ["ASPOC", "BaseOC", "PyramidOC"]


class BaseOC(ContextLayer):
    """Concatenate the input with its context and fuse both (Base-OC, Fig. 5 b).

    The 3x3 convolution that reduces the backbone's channels comes before it. Padding changes what
    it changes in the context.
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


class PyramidOC(ContextLayer):
    """Concatenate the widened input with contexts within 1x1, 2x2, 3x3 and 6x6 parts of the map.

    Pyramid-OC, Fig. 5 c and appendix H. The context of a scale is computed in each part alone,
    with the same transforms in all parts (eq. 28). The 3x3 convolution that reduces the backbone's
    channels comes before it. Parts are of a map of any size, see
    :class:`~.subdivision.Subdivision`; those that differ in size go through with a padding mask.

    With a mask the parts are those of the valid rectangle of each image: with BatchNorm in
    evaluation mode the output at valid positions does not depend on the padding, as far as the
    contexts' does not.
    """

    def __init__(
        self,
        make_context: Callable[[], nn.Module],
        in_channels: int = 512,
        context_channels: int = 512,
        out_channels: int = 512,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build the branches and the fusion.

        Args:
            make_context: makes a layer that maps (N, in_channels, H, W) to
                (N, context_channels, H, W) and keeps padding out; called for each of ``bins``.
            in_channels: channels of the input; it is widened to as many times that as there are
                scales (512 to 2048).
            context_channels: channels of each context.
            out_channels: channels of the result.
            bins: parts along each axis, of each scale.
            dropout: probability of dropping a channel of the result in training.
            norm: name of the norm of the widening and of the fusion.

        Raises:
            ValueError: if ``bins`` are not different integers from 1.
        """
        super().__init__()
        self.bins = check_bins(bins)
        self.out_channels = out_channels
        self.contexts = nn.ModuleList(make_context() for _ in self.bins)
        width = len(self.bins) * in_channels
        self.widen = pointwise_transform(in_channels, width, norm)
        self.fuse = pointwise_transform(
            width + len(self.bins) * context_channels, out_channels, norm
        )
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
            feats: (N, C, H, W), of any size from 1x1.
            region_logits: not used.
            padding_mask: (N, H, W) bool, True where a position is padding.

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        pyramid = [self.widen(feats)]
        for parts, context in zip(self.bins, self.contexts, strict=True):
            if parts == 1:
                pyramid.append(context(feats, padding_mask=padding_mask))
                continue
            division = Subdivision(feats, parts, padding_mask)
            found = context(division.split(feats), padding_mask=division.padding_mask)
            pyramid.append(division.join(found))
        return self.dropout(self.fuse(torch.cat(pyramid, dim=1)))


class ASPOC(ContextLayer):
    """ASPP with object context instead of the image's average (ASP-OC, Fig. 5 d).

    It takes the backbone's map itself: a 3x3 convolution reduces its channels for the context
    only. The other branches are a 1x1 and dilated 3x3 convolutions; a 1x1 fuses all.

    The text does not say at which resolution the context is computed. Memory (348 MB) and cost
    (656 and 651 G) of SA and ISA in the paper's Table 4 are almost equal, which full resolution
    excludes: attention among 128 x 128 positions, at 128 channels, is 137 G by itself. The
    authors' code halves the resolution, and so does ``scale`` here: maxima of 2x2 go in, and the
    context is enlarged bilinearly. That gives 656 and 649 G.

    With a mask the convolutions read zeros where padding is, as they do outside a map: with
    BatchNorm in evaluation mode the output at valid positions does not depend on the padding, where
    that is to the right and below: the grid of maxima starts at the first row and column.
    """

    def __init__(
        self,
        context: nn.Module,
        in_channels: int = 2048,
        out_channels: int = 256,
        *,
        rates: Sequence[int] = (12, 24, 36),
        scale: int = 2,
        dropout: float = 0.1,
        norm: str = "SyncBN",
    ) -> None:
        """Build the branches and the fusion.

        Args:
            context: a layer that maps (N, out_channels, H, W) to the same.
            in_channels: channels of the input.
            out_channels: channels of each branch and of the result.
            rates: of the dilated convolutions.
            scale: positions along each axis that the context has one of; 1 for full resolution.
            dropout: probability of dropping a channel of the result in training, as in the
                authors' code.
            norm: name of every convolution's norm.

        Raises:
            ValueError: if ``rates`` are not integers from 1, or ``scale`` is not one.
        """
        super().__init__()
        rates = check_rates(rates)
        if type(scale) is not int or scale < 1:
            raise ValueError(f"scale is {scale}, expected an integer from 1")
        self.out_channels = out_channels
        self.scale = scale
        self.reduce = _dilated_transform(in_channels, out_channels, norm)
        self.context = context
        self.branches = nn.ModuleList(
            [
                pointwise_transform(in_channels, out_channels, norm),
                *(_dilated_transform(in_channels, out_channels, norm, rate) for rate in rates),
            ]
        )
        self.fuse = pointwise_transform((len(rates) + 2) * out_channels, out_channels, norm)
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
            feats: (N, C, H, W), of any size from 1x1.
            region_logits: not used.
            padding_mask: (N, H, W) bool, True where a position is padding.

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        if padding_mask is not None:
            feats = feats.masked_fill(padding_mask.unsqueeze(1), 0)
        context = self._context(self.reduce(feats), padding_mask)
        branches = [context, *(branch(feats) for branch in self.branches)]
        return self.dropout(self.fuse(torch.cat(branches, dim=1)))

    def _context(self, feats: Tensor, padding_mask: Tensor | None) -> Tensor:
        if self.scale == 1:
            return self.context(feats, padding_mask=padding_mask)
        mask = None if padding_mask is None else all_padding(padding_mask, self.scale)
        context = self.context(maxima(feats, padding_mask, self.scale), padding_mask=mask)
        return enlarge(context, tuple(feats.shape[2:]), padding_mask, self.scale)


def _dilated_transform(in_channels: int, out_channels: int, norm: str, rate: int = 1) -> nn.Module:
    """Return 3x3 convolution, norm, ReLU."""
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=rate,
        dilation=rate,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(layer)
    return layer
