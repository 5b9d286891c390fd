"""Schemes in which pixels look at pixels."""

from __future__ import annotations

from detectron2.config import CfgNode

from ocr_panoptic.layers import (
    ContextLayer,
    InterlacedSparseSelfAttention,
    NonLocal,
    SelfAttention,
)

from .registry import CONTEXT_REGISTRY

__all__ = []


@CONTEXT_REGISTRY.register()
def isa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Interlaced sparse self-attention."""
    return InterlacedSparseSelfAttention(
        in_channels,
        out_channels,
        key_channels=node.KEY_CHANNELS or None,
        norm=node.NORM,
        partitions=node.PARTITIONS,
        stages=node.ORDER,
        mask_padding=node.MASK_PADDING,
    )


@CONTEXT_REGISTRY.register()
def non_local(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Non-local, embedded Gaussian."""
    return NonLocal(
        in_channels,
        out_channels,
        key_channels=node.KEY_CHANNELS or None,
        subsample=node.SUBSAMPLE,
    )


@CONTEXT_REGISTRY.register()
def self_attention(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Dense self-attention with the transforms of ISA."""
    return SelfAttention(
        in_channels, out_channels, key_channels=node.KEY_CHANNELS or None, norm=node.NORM
    )
