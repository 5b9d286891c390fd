"""Panoptic-FPN's semantic head with any registered context scheme on top."""

from __future__ import annotations

import math

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import ContextLayer
from ocr_panoptic.modeling.context import build_context
from ocr_panoptic.modeling.meta_arch import true_labels

from .refining_head import RefiningSemSegFPNHead

__all__ = ["ContextSemSegFPNHead", "one_hot_maps"]

_KEY = "MODEL.SEM_SEG_HEAD.CONTEXT"


@SEM_SEG_HEADS_REGISTRY.register()
class ContextSemSegFPNHead(RefiningSemSegFPNHead):
    """Semantic head of Panoptic-FPN, then a context scheme, so that schemes can be compared.

    For every scheme the same: the fused FPN map goes through a 3x3 convolution to the context's
    width (with a stride where the context's is larger than the common one), the context, and a 1x1
    classifier. "We directly apply the PPM or ASPP head before the semantic segmentation head
    within Panoptic-FPN without any other modifications" (supplement to the Segmentation
    Transformer paper, sec. C) leaves open where that is. Taken here: behind the fusion, in front
    of the classifier, where OCR sits.

    A scheme that uses regions gets the original prediction, which is trained too: the losses
    share ``loss_weight`` (0.25 + 0.25 of 0.5), any other scheme has one loss of that weight, and
    the head no original prediction. A scheme that uses the ground truth gets true labels, in
    training and at test time, and has one loss.

    Keys in a checkpoint: those of SemSegFPNHead, without ``predictor`` where nothing uses it, and
    ``context_transform``, ``context``, ``context_predictor``.

    What padding can change: that of the FPN head and of ``context_transform`` as in
    :class:`~.ocr_fpn_head.OCRSemSegFPNHead`; that of a scheme as its layer says.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dims: int,
        num_classes: int,
        context: ContextLayer,
        context_channels: int = 512,
        context_stride: int = 4,
        context_norm: str = "SyncBN",
        region_loss_weight: float = 0.25,
        mask_padding: bool = True,
        checkpoint_activations: bool = False,
        **kwargs,
    ) -> None:
        """Build the head.

        Args:
            input_shape: channels and stride of each FPN level, as for SemSegFPNHead.
            conv_dims: channels of the fused map.
            num_classes: K, stuff classes and the merged class of all things (54 for COCO).
            context: takes maps of ``context_channels``.
            context_channels: width of the context stage.
            context_stride: pixels of the image per cell of the context's map: the common stride,
                or that times a power of 2, up to the coarsest stride of ``input_shape``.
            context_norm: norm of the convolution in front of the context.
            region_loss_weight: where the context uses regions, the part of ``loss_weight`` for the
                loss on the original prediction.
            mask_padding: tell the context which positions are padding.
            checkpoint_activations: compute the context stage again in the backward pass, instead
                of keeping what it needs.
            **kwargs: of SemSegFPNHead.

        Raises:
            InputError: for a stride, or a weight of the regions, that cannot be.
        """
        super().__init__(input_shape, conv_dims=conv_dims, num_classes=num_classes, **kwargs)
        ratio = context_stride / self.common_stride
        # Images are padded to multiples of it; of a larger stride the last cell would stand out.
        largest = max(shape.stride for shape in input_shape.values())
        if ratio < 1 or math.log2(ratio) % 1 or context_stride > largest:
            raise InputError(
                f"{_KEY}.STRIDE: {context_stride}, expected MODEL.SEM_SEG_HEAD.COMMON_STRIDE "
                f"({self.common_stride}) times a power of 2, at most {largest}, the stride of the "
                "coarsest of MODEL.SEM_SEG_HEAD.IN_FEATURES"
            )
        self.refined_stride = context_stride
        self.num_classes = num_classes
        self.mask_padding = mask_padding
        self.checkpoint_activations = checkpoint_activations
        self.uses_ground_truth = context.uses_ground_truth
        self.region_loss_weight = region_loss_weight
        if context.uses_regions:
            if not 0 <= region_loss_weight <= self.loss_weight:
                raise InputError(
                    f"{_KEY}.REGION_LOSS_WEIGHT: {region_loss_weight}, expected 0 to "
                    f"MODEL.SEM_SEG_HEAD.LOSS_WEIGHT ({self.loss_weight}), of which it is a part"
                )
            self.loss_weight -= region_loss_weight
        else:
            # A parameter that never gets a gradient stops DistributedDataParallel.
            del self.predictor
        self.context_transform = Conv2d(
            conv_dims,
            context_channels,
            kernel_size=3,
            stride=int(ratio),
            padding=1,
            bias=not context_norm,
            norm=get_norm(context_norm, context_channels),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(self.context_transform)
        self.context = context
        self.context_predictor = Conv2d(context.out_channels, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.context_predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD and MODEL.SEM_SEG_HEAD.CONTEXT."""
        head = cfg.MODEL.SEM_SEG_HEAD
        node = head.CONTEXT
        return {
            **super().from_config(cfg, input_shape),
            "context": build_context(node, node.CHANNELS, _KEY, num_classes=head.NUM_CLASSES),
            "context_channels": node.CHANNELS,
            "context_stride": node.STRIDE,
            "context_norm": node.NORM,
            "region_loss_weight": node.REGION_LOSS_WEIGHT,
            "mask_padding": node.MASK_PADDING,
            "checkpoint_activations": node.CHECKPOINT_ACTIVATIONS,
        }

    def layers(self, features: dict[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """Return original (None without regions) and refined prediction, each at its stride."""
        fused = self.fused(features)
        region_logits = self.predictor(fused) if self.context.uses_regions else None
        step = self.refined_stride // self.common_stride
        regions = self._regions(fused[:, :, ::step, ::step], region_logits)
        augmented = self.augment(self.context_transform, self.context, fused, regions)
        return region_logits, self.context.refine(self.context_predictor(augmented), regions)

    def _regions(self, cells: Tensor, region_logits: Tensor | None) -> Tensor | None:
        """Return what the scheme gets as regions, None without.

        Args:
            cells: any map of the size that ``context_transform`` gives.
            region_logits: at the common stride.
        """
        if self.uses_ground_truth:
            labels = true_labels()
            if labels is None:
                raise InputError(
                    f"{_KEY}.NAME: the scheme looks at the true labels, expected "
                    "MODEL.META_ARCHITECTURE PaddingAwarePanopticFPN and a data set with semantic "
                    "labels"
                )
            return one_hot_maps(labels, self.num_classes, cells.shape[2:]).to(cells.dtype)
        if region_logits is None or self.refined_stride == self.common_stride:
            return region_logits
        return F.interpolate(region_logits, cells.shape[2:], mode="bilinear", align_corners=False)


def one_hot_maps(labels: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor:
    """Return true labels as maps of each class, at the resolution of a feature map.

    Args:
        labels: (N, H, W) int64; values from ``num_classes`` on have no label.
        num_classes: K.
        size: (height, width) of the maps; a cell gets the label of the pixel in its middle.

    Returns:
        (N, K, height, width) float32 of 0 and 1; zeros only where there is no label.
    """
    cells = F.interpolate(labels.unsqueeze(1).float(), size, mode="nearest-exact").long()
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)
    return (cells == classes).float()
