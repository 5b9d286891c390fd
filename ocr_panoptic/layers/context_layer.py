"""What every context scheme has in common: how it is called, and what it says of itself."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ContextLayer"]


class ContextLayer(nn.Module):
    """A context scheme: maps pixels to pixels that know of what is around them.

    Whoever calls one (a semantic head, a backbone, a benchmark) hands the same arguments to every
    scheme; a scheme takes those that it needs.

    Attributes:
        uses_regions: the scheme needs ``region_logits``: whoever calls it predicts them, and
            trains that prediction.
        uses_ground_truth: the scheme's ``region_logits`` are no logits but the true labels as
            one-hot maps, (N, K, H, W) with 1 at pixels of a class and 0 elsewhere; a pixel without
            label has zeros only.
        out_channels: channels of the result.
    """

    uses_regions: bool = False
    uses_ground_truth: bool = False
    out_channels: int

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the result of every position.

        Args:
            feats: (N, C, H, W).
            region_logits: (N, K, H, W), a coarse prediction of K classes, before any softmax.
            padding_mask: (N, H, W) bool, True where a position is padding.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if sizes differ, the mask is not bool, or regions are missing.
        """
        raise NotImplementedError

    def refine(self, logits: Tensor, region_logits: Tensor | None) -> Tensor:
        """Return the final prediction, given the one made from this layer's result.

        Args:
            logits: (N, K, H, W), the classifier's, of this layer's result.
            region_logits: as in :meth:`forward`.

        Returns:
            (N, K, H, W); ``logits`` itself unless the scheme says otherwise.
        """
        return logits
