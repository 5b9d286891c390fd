"""Coarse-to-fine schemes, which use the coarse prediction itself and make no context of it.

Yuan, Chen, Wang: supplement to "Object-Contextual Representations for Semantic Segmentation",
sec. A and Table 1, called "the supplement" below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .context_layer import ContextLayer
from .region_context import check_num_classes, check_regions

__all__ = ["LabelEnsemble", "LabelRefinement"]


class LabelRefinement(ContextLayer):
    """The coarse segmentation maps beside the pixels, for the final classifier to look at.

    The supplement's "coarse segmentation maps" are taken to be the logits, as the maps M of the
    paper's sec. 3.2 are: behind a linear classifier this can do all that :class:`LabelEnsemble`
    does. Pixels come first. There is nothing to learn in it.

    Every position is for itself, so a padding mask has nothing to change.
    """

    uses_regions = True

    def __init__(self, in_channels: int, *, num_classes: int) -> None:
        """Say how wide the result is: ``in_channels + num_classes``.

        Args:
            in_channels: channels of the pixel representations.
            num_classes: K.
        """
        super().__init__()
        self.num_classes = num_classes
        self.out_channels = in_channels + num_classes

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Put both side by side.

        Args:
            feats: (N, C, H, W), the pixel representations.
            region_logits: (N, K, H, W), the coarse segmentation, not normalised.
            padding_mask: (N, H, W) bool; it changes nothing.

        Returns:
            (N, C + K, H, W).

        Raises:
            ValueError: if sizes or K differ, the mask is not bool, or ``region_logits`` is
                missing.
        """
        check_regions(feats, region_logits, padding_mask)
        check_num_classes(region_logits, self.num_classes)
        return torch.cat([feats, region_logits], dim=1)


class LabelEnsemble(ContextLayer):
    """The weighted sum of the coarse and the fine segmentation maps is the final prediction.

    :meth:`forward` hands the pixels on as they are, and the classifier makes the fine map of them;
    :meth:`refine` sums. The supplement's "segmentation maps" are taken to be the logits, as in
    :class:`LabelRefinement`: the final loss and the resizing to the image expect logits. (The
    softmax of their weighted sum is the weighted geometric mean of the two maps' probabilities,
    normalised.) The supplement does not give the weights: here they are equal and fixed. The
    final loss is on the sum.

    Every position is for itself, so a padding mask has nothing to change.
    """

    uses_regions = True

    def __init__(self, in_channels: int, *, region_weight: float = 0.5) -> None:
        """Say how much the coarse map weighs.

        Args:
            in_channels: channels of the pixel representations, and of the result.
            region_weight: weight of the coarse map; the rest to 1 is that of the fine one.

        Raises:
            ValueError: if the weight is not between 0 and 1.
        """
        super().__init__()
        if not 0 <= region_weight <= 1:
            raise ValueError(f"region_weight is {region_weight}, expected 0 to 1")
        self.region_weight = region_weight
        self.out_channels = in_channels

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Return ``feats``; arguments and errors as in :meth:`LabelRefinement.forward`."""
        check_regions(feats, region_logits, padding_mask)
        return feats

    def refine(self, logits: Tensor, region_logits: Tensor) -> Tensor:
        """Return the weighted sum of both maps.

        Args:
            logits: (N, K, H, W), the fine map.
            region_logits: (N, K, H, W), the coarse map.

        Returns:
            (N, K, H, W).

        Raises:
            ValueError: if ``region_logits`` is missing, or sizes or K differ.
        """
        check_regions(logits, region_logits, None)
        check_num_classes(region_logits, logits.shape[1])
        return (1 - self.region_weight) * logits + self.region_weight * region_logits
