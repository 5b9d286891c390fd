"""Attentional class features: each pixel sees the centers of its probable classes.

Zhang, Chen, Li, Hong, Liu, Ma, Han, Ding: "ACFNet: Attentional Class Feature Network for Semantic
Segmentation" (ICCV 2019), called "the paper" below.
"""

from __future__ import annotations

from torch import Tensor

from .attention import to_rows
from .region_context import RegionContext, divided_by_mass, region_representations

__all__ = ["AttentionalClassFeature"]


class AttentionalClassFeature(RegionContext):
    """Class centers of the coarse prediction, mixed by the coarse prediction (the paper's ACF).

    With p_ik the softmax over the classes of the coarse prediction of pixel i:

    * Class center block: c_k = sum_i p_ik delta(x_i) / sum_i p_ik. ``value`` is delta, the 1x1
      convolution that reduces the channels before.
    * Class attention block: y_i = rho(sum_k p_ik c_k). ``output`` is rho, the 1x1 convolution that
      refines what was mixed.

    The result fuses y and x as all schemes here do, by ``fuse`` of both side by side.

    Decided here: delta and rho are 1x1 convolution, norm, ReLU; delta halves the channels and rho
    doubles them, as in OCR. A class without any mass has the zero vector for its center.
    """

    def __init__(
        self,
        in_channels: int = 512,
        out_channels: int = 512,
        *,
        key_channels: int = 256,
        dropout: float = 0.05,
        norm: str = "SyncBN",
    ) -> None:
        """Build the transforms.

        Args:
            in_channels: channels of the pixel representations.
            out_channels: channels of rho and of the result.
            key_channels: channels of the class centers.
            dropout: probability of dropping a channel of the output in training.
            norm: name of the norm of every transform, see :func:`detectron2.layers.get_norm`.
        """
        super().__init__()
        self.build_transforms(in_channels, key_channels, out_channels, dropout, norm)

    def object_regions(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Return p_ik / sum_i p_ik, (N, K, H, W)."""
        return divided_by_mass(region_logits.softmax(dim=1), padding_mask)

    def region_vectors(self, feats: Tensor, regions: Tensor) -> Tensor:
        """Return the class centers c_k, (N, K, key_channels)."""
        return region_representations(self.value(feats), regions)

    def values(self, region_vectors: Tensor, regions: Tensor) -> Tensor:
        """Return the class centers."""
        return region_vectors

    def given_queries(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Return the region logits of the pixels, (N, H * W, K)."""
        return to_rows(region_logits)

    def relations(self, query: Tensor, key: None) -> Tensor:
        """Return p_ik."""
        return query.softmax(dim=2)
