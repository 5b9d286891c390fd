"""Panoptic-FPN's semantic head with OCR on top (Segmentation Transformer paper, sec. 5)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from ocr_panoptic.layers import OCRModule

from .refining_head import RefiningSemSegFPNHead

__all__ = ["OCRSemSegFPNHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class OCRSemSegFPNHead(RefiningSemSegFPNHead):
    """Semantic head of Panoptic-FPN + OCR.

    Sec. 5 of the paper: the original prediction of the semantic head gives the soft object
    regions, an OCR head predicts the refined map, both are trained with weight 0.25. Not said
    there, decided here: OCR refines the fused FPN map at the common stride, through a 3x3
    convolution to the OCR width as in sec. 3.4; the region logits are not detached, as in the
    authors' code, so the refined loss trains them too.

    Keys in a checkpoint: those of SemSegFPNHead, and ``ocr_transform``, ``ocr``,
    ``ocr_predictor``.

    What padding can change: the OCR layer masks it out of its regions and is otherwise
    pointwise, so with BatchNorm in evaluation mode it is invariant. The FPN head before it is
    not: its GroupNorms take statistics over the padded map, and its 3x3 convolutions, like
    ``ocr_transform``, read a border of padding.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dims: int,
        num_classes: int,
        ocr_channels: int = 512,
        ocr_key_channels: int = 256,
        ocr_dropout: float = 0.05,
        ocr_norm: str = "SyncBN",
        ocr_transform_layers: int = 2,
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
            ocr_channels: width of the OCR stage (512 in the paper).
            ocr_key_channels: width of its query, key and value (256 in the paper).
            ocr_dropout: probability of dropping a channel of its output.
            ocr_norm: norm of every convolution of the OCR stage.
            ocr_transform_layers: 1x1-norm-ReLU of its query and key.
            region_loss_weight: weight of the loss on the original prediction; ``loss_weight``
                weighs the loss on the refined one.
            mask_padding: keep batch padding out of the soft object regions.
            checkpoint_activations: compute the OCR stage again in the backward pass, instead of
                keeping what it needs.
            **kwargs: of SemSegFPNHead.
        """
        super().__init__(input_shape, conv_dims=conv_dims, num_classes=num_classes, **kwargs)
        self.region_loss_weight = region_loss_weight
        self.mask_padding = mask_padding
        self.checkpoint_activations = checkpoint_activations
        self.refined_stride = self.common_stride
        self.ocr_transform = Conv2d(
            conv_dims,
            ocr_channels,
            kernel_size=3,
            padding=1,
            bias=not ocr_norm,
            norm=get_norm(ocr_norm, ocr_channels),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(self.ocr_transform)
        self.ocr = OCRModule(
            ocr_channels,
            ocr_key_channels,
            ocr_channels,
            dropout=ocr_dropout,
            norm=ocr_norm,
            transform_layers=ocr_transform_layers,
        )
        self.ocr_predictor = Conv2d(ocr_channels, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.ocr_predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD and MODEL.SEM_SEG_HEAD.OCR."""
        ocr = cfg.MODEL.SEM_SEG_HEAD.OCR
        return {
            **super().from_config(cfg, input_shape),
            "ocr_channels": ocr.CHANNELS,
            "ocr_key_channels": ocr.KEY_CHANNELS,
            "ocr_dropout": ocr.DROPOUT,
            "ocr_norm": ocr.NORM,
            "ocr_transform_layers": ocr.TRANSFORM_LAYERS,
            "region_loss_weight": ocr.AUX_LOSS_WEIGHT,
            "mask_padding": ocr.MASK_PADDING,
            "checkpoint_activations": ocr.CHECKPOINT_ACTIVATIONS,
        }

    def layers(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return original and refined prediction, (N, K, H, W) each, at the common stride."""
        fused = self.fused(features)
        region_logits = self.predictor(fused)
        augmented = self.augment(self.ocr_transform, self.ocr, fused, region_logits)
        return region_logits, self.ocr_predictor(augmented)
