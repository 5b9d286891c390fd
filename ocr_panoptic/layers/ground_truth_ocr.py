"""OCR with the true labels: the upper bound of what object context can give.

Yuan, Chen, Chen, Wang: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.5, "Ground-truth OCR", called "the paper" below.
"""

from __future__ import annotations

from torch import Tensor

from .attention import to_rows
from .region_context import RegionContext, check_region_norms, divided_by_mass, transform_regions

__all__ = ["GroundTruthOCR"]


class GroundTruthOCR(RegionContext):
    """OCR whose regions and relations are the true labels (GT-OCR).

    Both m_ki and w_ik are 1 where pixel i has label k, else 0 (the paper's sec. 3.5), so phi and
    psi are not needed and not there. Not said there, decided here:

    * m~_ki is m_ki over its sum, the mean of the class's pixels. A softmax over the positions of
      zeros and ones would give nearly equal weights to all of them.
    * An absent class gives the zero vector, before and after delta, whose norm and bias could make
      something of it; and it has no part in the statistics of delta's BatchNorm in training, which
      would otherwise depend on how many classes are absent. Where fewer than two regions of a
      batch are present, too few for a variance, all take part.
    * A pixel without label gets a zero context: zero goes into rho.
    """

    uses_regions = False
    uses_ground_truth = True
    relations_sum_to_one = False

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

    def object_regions(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Return the one-hot maps over their sums, (N, K, H, W); zeros for an absent class."""
        return divided_by_mass(region_logits.to(feats.dtype), padding_mask)

    def values(self, region_vectors: Tensor, regions: Tensor) -> Tensor:
        """Return delta(f_k) of classes that are there, zeros for others, (N, K, key_channels)."""
        present = regions.flatten(2).any(dim=2)
        if self.training and present.sum() >= 2:
            found = transform_regions(self.value, region_vectors[present].unsqueeze(0)).squeeze(0)
            value = found.new_zeros(*present.shape, found.shape[1])
            return value.masked_scatter(present.unsqueeze(2), found)
        value = transform_regions(self.value, region_vectors)
        return value.masked_fill(~present.unsqueeze(2), 0.0)

    def given_queries(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Return the one-hot labels of the pixels, (N, H * W, K)."""
        maps = region_logits.to(feats.dtype)
        if padding_mask is not None:
            maps = maps.masked_fill(padding_mask.unsqueeze(1), 0.0)
        return to_rows(maps)

    def relations(self, query: Tensor, key: None) -> Tensor:
        """Return the one-hot labels: w_ik of sec. 3.5."""
        return query
