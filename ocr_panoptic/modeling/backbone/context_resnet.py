"""ResNet-FPN with a context block in front of one of its blocks.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), sec. 4.5: one non-local or
ISA block before the last block of res4 of ResNet-50-FPN in Mask R-CNN. The code for this was never
published; what the paper leaves open follows "Non-local Neural Networks", sec. 4.1 and 3.3: the
context is added to its input behind a BatchNorm whose weight starts at zero.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BottleneckBlock,
    CNNBlockBase,
    DeformBottleneckBlock,
)
from torch import Tensor, nn

from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling.context import build_context
from ocr_panoptic.modeling.meta_arch import padding_mask

__all__ = ["ResidualContext", "build_context_resnet_fpn_backbone", "insert_context"]

_KEY = "MODEL.RESNETS.CONTEXT"


class ResidualContext(nn.Module):
    """Adds the context of its input to its input: x + norm(context(x)).

    The norm's weight is zero at the start, so the block adds exactly zero to a pretrained network.
    (Where the layer overflows, zero times infinity is NaN: in float16 with inputs far beyond what a
    pretrained ResNet makes, about 80 instead of 1. bfloat16 does not overflow.)
    There is no ReLU behind it: below zero, one would keep the weight at zero for ever.
    """

    def __init__(self, layer: nn.Module, channels: int, norm: str, *, mask_padding: bool) -> None:
        """Put the norm behind a context layer.

        Args:
            layer: maps (N, C, H, W) to (N, C, H, W).
            channels: C.
            norm: name of a norm with weights that are learnt.
            mask_padding: tell the layer which positions are padding of the batch.
        """
        super().__init__()
        self.layer = layer
        self.norm = get_norm(norm, channels)
        self.mask_padding = mask_padding
        nn.init.zeros_(self.norm.weight)

    def forward(self, feats: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        mask = padding_mask(feats) if self.mask_padding else None
        return feats + self.norm(self.layer(feats, padding_mask=mask))


class _ContextBlock:
    """A mixin in front of a residual block: its input goes through ``context`` first.

    The block keeps its place and the names of its parameters; only ``context.*`` is new.
    """

    context: ResidualContext

    def forward(self, feats: Tensor) -> Tensor:
        """As the block's own, with the context of its input added to its input."""
        return super().forward(self.context(feats))

    def freeze(self) -> CNNBlockBase:
        """Freeze the block, not its context, which starts at zero and has nothing to keep."""
        context = self._modules.pop("context")
        try:
            return super().freeze()
        finally:
            self.context = context


class _ContextBasicBlock(_ContextBlock, BasicBlock):
    pass


class _ContextBottleneckBlock(_ContextBlock, BottleneckBlock):
    pass


class _ContextDeformBottleneckBlock(_ContextBlock, DeformBottleneckBlock):
    pass


# Every class of block that Detectron2's builder makes.
_WITH_CONTEXT = {
    BasicBlock: _ContextBasicBlock,
    BottleneckBlock: _ContextBottleneckBlock,
    DeformBottleneckBlock: _ContextDeformBottleneckBlock,
}


@BACKBONE_REGISTRY.register()
def build_context_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build Detectron2's ResNet-FPN, with the context that MODEL.RESNETS.CONTEXT names, if any.

    Args:
        cfg: the whole config.
        input_shape: of the image.

    Raises:
        InputError: for a context, stage or block that does not exist; names the key.
    """
    backbone = build_resnet_fpn_backbone(cfg, input_shape)
    if cfg.MODEL.RESNETS.CONTEXT.NAME:
        insert_context(backbone.bottom_up, cfg.MODEL.RESNETS.CONTEXT)
    return backbone


def insert_context(resnet: ResNet, node: CfgNode) -> None:
    """Put a context in front of a block of a ResNet, in place.

    Args:
        resnet: as Detectron2 builds it.
        node: MODEL.RESNETS.CONTEXT.

    Raises:
        InputError: for a context, stage or block that does not exist; names the key.
    """
    if node.STAGE not in resnet.stage_names:
        raise InputError(
            f"{_KEY}.STAGE: '{node.STAGE}', expected {' or '.join(resnet.stage_names)}"
        )
    blocks = list(getattr(resnet, node.STAGE).children())
    if not -len(blocks) <= node.BLOCK < len(blocks):
        raise InputError(
            f"{_KEY}.BLOCK: {node.BLOCK} of {node.STAGE}, expected {-len(blocks)} to "
            f"{len(blocks) - 1}"
        )
    block = blocks[node.BLOCK]
    context = ResidualContext(
        build_context(node, block.in_channels, _KEY),
        block.in_channels,
        node.NORM,
        mask_padding=node.MASK_PADDING,
    )
    # The block is built, and its builder has no place for another class. To wrap it, or to insert
    # the context into the stage as a block of its own, would rename pretrained parameters.
    block.__class__ = _WITH_CONTEXT[type(block)]
    block.context = context
