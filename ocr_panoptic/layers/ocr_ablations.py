"""OCR without one of its parts, as its paper took it apart.

Yuan, Chen, Chen, Wang: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.5 and Table 1, called "the paper" below.
"""

from __future__ import annotations

from collections.abc import Iterable

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import check_padding_mask, to_rows
from .ocr import OCRModule
from .region_context import RegionContext, check_num_classes, check_region_norms

__all__ = ["ACFRelationOCR", "DARelationOCR", "UnsupervisedOCR"]


class UnsupervisedOCR(OCRModule):
    """OCR whose regions nobody supervises (the paper's sec. 3.5, "Object region supervision").

    The maps M come from a 1x1 convolution of the pixels, ``region_predictor``, which learns from
    the final loss alone. Its bias would be the same at all positions, which the softmax over the
    positions takes out, so there is none.

    ``region_logits`` are not looked at. ``uses_regions`` stays True all the same: the paper
    removes the loss on the regions and adds another auxiliary loss in stage 3 of the backbone, and
    the loss on the prediction that whoever calls this layer still makes is that auxiliary loss.
    """

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int = 512,
        *,
        num_classes: int,
        key_channels: int = 256,
        dropout: float = 0.05,
        norm: str = "SyncBN",
        transform_layers: int = 2,
    ) -> None:
        """Build OCR and the predictor of its regions.

        Args:
            num_classes: K, the number of regions.
            in_channels: as all others, of :class:`~.ocr.OCRModule`.
            out_channels: as there.
            key_channels: as there.
            dropout: as there.
            norm: as there.
            transform_layers: as there.

        Raises:
            ValueError: as there.
        """
        super().__init__(
            in_channels,
            key_channels,
            out_channels,
            dropout=dropout,
            norm=norm,
            transform_layers=transform_layers,
        )
        self.region_predictor = Conv2d(in_channels, num_classes, kernel_size=1, bias=False)
        weight_init.c2_msra_fill(self.region_predictor)

    def check(
        self, feats: Tensor, region_logits: Tensor | None, padding_mask: Tensor | None
    ) -> None:
        """Raise ValueError for a mask that does not fit."""
        check_padding_mask(feats, padding_mask)

    def region_scores(self, feats: Tensor, region_logits: Tensor | None) -> Tensor:
        """Return M, (N, K, H, W), of the layer's own predictor."""
        return self.region_predictor(feats)


class _GivenRelationOCR(RegionContext):
    """OCR whose relations do not compare pixels with regions: there is no phi and no psi."""

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int = 512,
        *,
        key_channels: int = 256,
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build delta, rho and g, as wide as those of OCR.

        Args:
            in_channels: channels of the pixel representations.
            out_channels: channels of rho and g (512 in the paper).
            key_channels: channels of delta (256 in the paper).
            dropout: probability of dropping a channel of the output in training.
            norm: name of the norm of every transform, see :func:`detectron2.layers.get_norm`.

        Raises:
            ValueError: if GroupNorm has one channel a group in delta.
        """
        super().__init__()
        self.build_transforms(in_channels, key_channels, out_channels, dropout, norm)
        check_region_norms(self.value)

    def relations(self, query: Tensor, key: None) -> Tensor:
        """Return w_ik: the softmax over the regions of what a pixel scores for each."""
        return query.softmax(dim=2)


class DARelationOCR(_GivenRelationOCR):
    """OCR whose relations are predicted from the pixel alone (sec. 3.5, "DA scheme").

    As in Double Attention, w_i is the softmax over the regions of a 1x1 convolution of x_i,
    ``query``. The regions are OCR's.
    """

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int = 512,
        *,
        num_classes: int,
        key_channels: int = 256,
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build delta, rho, g, and the predictor of the relations.

        Args:
            in_channels: channels of the pixel representations.
            out_channels: channels of rho and g (512 in the paper).
            num_classes: K, the number of regions.
            key_channels: channels of delta (256 in the paper).
            dropout: probability of dropping a channel of the output in training.
            norm: name of the norm of every transform, see :func:`detectron2.layers.get_norm`.

        Raises:
            ValueError: if GroupNorm has one channel a group in delta.
        """
        super().__init__(
            in_channels, out_channels, key_channels=key_channels, dropout=dropout, norm=norm
        )
        self.query = nn.Sequential(Conv2d(in_channels, num_classes, kernel_size=1))
        weight_init.c2_msra_fill(self.query[0])

    def check(
        self, feats: Tensor, region_logits: Tensor | None, padding_mask: Tensor | None
    ) -> None:
        """Raise ValueError for arguments of :meth:`forward` that do not fit together."""
        super().check(feats, region_logits, padding_mask)
        check_num_classes(region_logits, self.query[0].out_channels)

    def pixel_layers(self) -> Iterable[Conv2d]:
        """Return the convolution that scores the regions."""
        return self.query


class ACFRelationOCR(_GivenRelationOCR):
    """OCR whose relations are the coarse prediction itself (sec. 3.5, "ACF scheme").

    As in ACFNet, w_i is the softmax over the classes of the region logits of pixel i. The regions
    are OCR's; for ACFNet itself see :class:`~.acf.AttentionalClassFeature`.
    """

    def given_queries(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Return the region logits of the pixels, (N, H * W, K)."""
        return to_rows(region_logits)
