"""Schemes that look at several scales, alone or together with object context."""

from __future__ import annotations

import functools
from collections.abc import Callable

from detectron2.config import CfgNode

from ocr_panoptic.layers import (
    ASPOC,
    AtrousSpatialPyramidPooling,
    BaseOC,
    ContextLayer,
    InterlacedSparseSelfAttention,
    PyramidOC,
    PyramidPooling,
    SelfAttention,
)

from .registry import CONTEXT_REGISTRY
from .relational import attention_options

__all__ = []


@CONTEXT_REGISTRY.register()
def asp_oc_isa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """ASPP with interlaced sparse self-attention instead of the image's average."""
    return _asp_oc(_interlaced(node, out_channels), node, in_channels, out_channels)


@CONTEXT_REGISTRY.register()
def asp_oc_sa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """ASPP with self-attention instead of the image's average."""
    return _asp_oc(_dense(node, out_channels), node, in_channels, out_channels)


@CONTEXT_REGISTRY.register()
def aspp(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Atrous spatial pyramid pooling."""
    return AtrousSpatialPyramidPooling(
        in_channels, out_channels, rates=node.RATES, dropout=node.DROPOUT, norm=node.NORM
    )


@CONTEXT_REGISTRY.register()
def base_oc_isa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Pixels beside their interlaced sparse self-attention."""
    return _base_oc(_interlaced(node, in_channels), node, in_channels, out_channels)


@CONTEXT_REGISTRY.register()
def base_oc_sa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Pixels beside their self-attention."""
    return _base_oc(_dense(node, in_channels), node, in_channels, out_channels)


@CONTEXT_REGISTRY.register()
def ppm(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Pyramid pooling."""
    return PyramidPooling(
        in_channels, out_channels, bins=node.BINS, dropout=node.DROPOUT, norm=node.NORM
    )


@CONTEXT_REGISTRY.register()
def pyramid_oc_isa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Pixels beside their interlaced sparse self-attention within parts of the map."""
    # Parts differ in size: their padding stays out, whatever is done with the batch's.
    make_context = functools.partial(_interlaced, node, in_channels, mask_padding=True)
    return _pyramid_oc(make_context, node, in_channels, out_channels)


@CONTEXT_REGISTRY.register()
def pyramid_oc_sa(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Pixels beside their self-attention within parts of the map."""
    make_context = functools.partial(_dense, node, in_channels)
    return _pyramid_oc(make_context, node, in_channels, out_channels)


def _dense(node: CfgNode, channels: int) -> ContextLayer:
    return SelfAttention(channels, **attention_options(node))


def _interlaced(node: CfgNode, channels: int, mask_padding: bool | None = None) -> ContextLayer:
    return InterlacedSparseSelfAttention(
        channels,
        **attention_options(node),
        partitions=node.PARTITIONS,
        stages=node.ORDER,
        mask_padding=node.MASK_PADDING if mask_padding is None else mask_padding,
    )


def _base_oc(
    context: ContextLayer, node: CfgNode, in_channels: int, out_channels: int
) -> ContextLayer:
    return BaseOC(
        context, in_channels, in_channels, out_channels, dropout=node.DROPOUT, norm=node.NORM
    )


def _pyramid_oc(
    make_context: Callable[[], ContextLayer], node: CfgNode, in_channels: int, out_channels: int
) -> ContextLayer:
    return PyramidOC(
        make_context,
        in_channels,
        in_channels,
        out_channels,
        bins=node.BINS,
        dropout=node.DROPOUT,
        norm=node.NORM,
    )


def _asp_oc(
    context: ContextLayer, node: CfgNode, in_channels: int, out_channels: int
) -> ContextLayer:
    return ASPOC(
        context,
        in_channels,
        out_channels,
        rates=node.RATES,
        dropout=node.DROPOUT,
        norm=node.NORM,
    )
