"""What semantic heads that refine Panoptic-FPN's prediction have in common."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from ocr_panoptic.layers import ContextLayer, RegionContext
from ocr_panoptic.modeling.checkpointing import checkpointed
from ocr_panoptic.modeling.losses import semantic_cross_entropy
from ocr_panoptic.modeling.meta_arch import padding_mask

__all__ = ["RefiningSemSegFPNHead"]


class RefiningSemSegFPNHead(SemSegFPNHead):
    """SemSegFPNHead whose fused map goes on to a second prediction.

    A subclass defines :meth:`layers`.

    Attributes:
        refined_stride: pixels of the image per cell of the refined prediction.
        region_loss_weight: weight of the loss on the original prediction.
        mask_padding: tell the context which positions are padding.
        checkpoint_activations: in training, keep little of what is inside the stage behind the
            fused map, and compute it again in the backward pass.
    """

    refined_stride: int
    region_loss_weight: float
    mask_padding: bool
    checkpoint_activations: bool

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the losses in training, the refined prediction in inference.

        Args:
            features: name -> (N, C, H / stride, W / stride) of every FPN level.
            targets: (N, H, W) int64, values below K or the ignore value; used in training.

        Returns:
            ``(None, losses)`` in training; in inference ``(logits, {})`` with refined logits
            (N, K, H, W) at the resolution of the padded image.
        """
        predictions = self.layers(features)
        if self.training:
            return None, self.losses(predictions, targets)
        logits = F.interpolate(
            predictions[1], scale_factor=self.refined_stride, mode="bilinear", align_corners=False
        )
        return logits, {}

    def layers(self, features: dict[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """Return the original and the refined prediction.

        Args:
            features: as in :meth:`forward`.

        Returns:
            Original logits (N, K, H, W) at the common stride, None where the refined one does not
            come from them; and refined logits at ``refined_stride``.
        """
        raise NotImplementedError

    def fused(self, features: dict[str, Tensor]) -> Tensor:
        """Return the sum of all FPN levels, (N, conv_dims, H, W) at the common stride."""
        return functools.reduce(
            torch.add,
            (
                scale_head(features[name])
                for name, scale_head in zip(self.in_features, self.scale_heads, strict=True)
            ),
        )

    def padding_of(self, feats: Tensor) -> Tensor | None:
        """Return the padding mask of a map, (N, H, W) bool; None where nothing is masked."""
        return padding_mask(feats) if self.mask_padding else None

    def augment(
        self, transform: nn.Module, layer: ContextLayer, fused: Tensor, regions: Tensor | None
    ) -> Tensor:
        """Return the pixels that the context stage makes of the fused map.

        With ``checkpoint_activations`` only the maps between its steps are kept in training. The
        steps are functions of their arguments alone: they run again in the backward pass, when
        nothing is known any more of the batch.

        Args:
            transform: to the context's width, and maybe to a larger stride.
            layer: the context.
            fused: (N, conv_dims, H, W).
            regions: of the size that ``transform`` gives, None where the layer needs none.
        """
        step = self.refined_stride // self.common_stride
        mask = self.padding_of(fused[:, :, ::step, ::step])
        if not (self.checkpoint_activations and self.training):
            return layer(transform(fused), region_logits=regions, padding_mask=mask)
        pixels = checkpointed(transform, transform, fused)
        if isinstance(layer, RegionContext):
            # What rho and g make is as large as what comes before: never both at once.
            layer.check(pixels, regions, mask)
            context = checkpointed(layer, layer.context, pixels, regions, mask)
            return checkpointed(layer, layer.augmented, pixels, context)

        def look(pixels: Tensor, regions: Tensor | None, mask: Tensor | None) -> Tensor:
            return layer(pixels, region_logits=regions, padding_mask=mask)

        return checkpointed(layer, look, pixels, regions, mask)

    def losses(
        self, predictions: tuple[Tensor | None, Tensor], targets: Tensor
    ) -> dict[str, Tensor]:
        """Return ``loss_sem_seg`` on the refined, ``loss_sem_seg_region`` on the original one.

        Args:
            predictions: original and refined logits from :meth:`layers`.
            targets: (N, H, W) int64.
        """
        rows = (
            ("loss_sem_seg_region", self.region_loss_weight, self.common_stride),
            ("loss_sem_seg", self.loss_weight, self.refined_stride),
        )
        return {
            name: weight
            * semantic_cross_entropy(logits, targets, stride=stride, ignore_value=self.ignore_value)
            for (name, weight, stride), logits in zip(rows, predictions, strict=True)
            if logits is not None
        }
