"""Schemes in which pixels look at pixels.

``isa``, ``non_local`` and ``self_attention`` give the context alone. The others are what their
authors built: in a head, which has classes, pixels and context are fused, as in the published
tables; in a backbone, where a residual block adds its input, they too give the context alone.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from ocr_panoptic.layers import (
    CompactGeneralizedNonLocal,
    ContextLayer,
    CrissCrossAttention,
    DANet,
    DoubleAttention,
    EfficientAttention,
    InterlacedSparseSelfAttention,
    NonLocal,
    SelfAttention,
)

from .registry import CONTEXT_REGISTRY

__all__ = []


@CONTEXT_REGISTRY.register()
def cgnl(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Compact generalized non-local, dot product."""
    return CompactGeneralizedNonLocal(
        in_channels,
        out_channels,
        key_channels=node.KEY_CHANNELS or None,
        groups=node.GROUPS,
        dropout=node.DROPOUT,
        norm=node.NORM,
        fuse=num_classes is not None,
    )


@CONTEXT_REGISTRY.register()
def criss_cross(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Recurrent criss-cross attention."""
    return CrissCrossAttention(
        in_channels,
        out_channels,
        key_channels=node.KEY_CHANNELS or None,
        recurrence=node.RECURRENCE,
        dropout=node.DROPOUT,
        norm=node.NORM,
        fuse=num_classes is not None,
    )


@CONTEXT_REGISTRY.register()
def danet(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Position attention and channel attention."""
    return DANet(
        in_channels,
        out_channels,
        key_channels=node.KEY_CHANNELS or None,
        dropout=node.DROPOUT,
        norm=node.NORM,
        fuse=num_classes is not None,
    )


@CONTEXT_REGISTRY.register()
def double_attention(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Double attention."""
    return DoubleAttention(
        in_channels,
        out_channels,
        num_regions=node.NUM_REGIONS,
        value_channels=node.KEY_CHANNELS or None,
        dropout=node.DROPOUT,
        norm=node.NORM,
        fuse=num_classes is not None,
    )


@CONTEXT_REGISTRY.register()
def efficient_attention(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Efficient attention."""
    return EfficientAttention(
        in_channels,
        out_channels,
        key_channels=node.KEY_CHANNELS or None,
        fuse=num_classes is not None,
    )


@CONTEXT_REGISTRY.register()
def isa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Interlaced sparse self-attention."""
    return InterlacedSparseSelfAttention(
        in_channels,
        out_channels,
        **attention_options(node),
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
    return SelfAttention(in_channels, out_channels, **attention_options(node))


def attention_options(node: CfgNode) -> dict:
    """Return what every :class:`~ocr_panoptic.layers.SelfAttention` reads of the node."""
    return {
        "key_channels": node.KEY_CHANNELS or None,
        "value_channels": node.VALUE_CHANNELS or None,
        "norm": node.NORM,
        "output_norm": node.OUTPUT_NORM,
    }
