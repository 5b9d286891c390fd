"""Schemes in which pixels look at regions of classes."""

from __future__ import annotations

from detectron2.config import CfgNode

from ocr_panoptic.layers import ContextLayer, OCRModule

from .registry import CONTEXT_REGISTRY

__all__ = []


@CONTEXT_REGISTRY.register()
def ocr(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Object-contextual representations."""
    return OCRModule(
        in_channels,
        node.KEY_CHANNELS or max(1, in_channels // 2),
        out_channels,
        dropout=node.DROPOUT,
        norm=node.NORM,
    )
