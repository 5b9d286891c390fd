"""Context layers by name, for backbones and heads."""

from __future__ import annotations

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import InterlacedSparseSelfAttention, NonLocal, SelfAttention

__all__ = ["CONTEXT_REGISTRY", "build_context"]

CONTEXT_REGISTRY = Registry("CONTEXT")
"""Name -> function of a config node and the input's channels, which makes a context layer.

The layer's ``forward(feats, *, padding_mask=None)`` maps (N, C, H, W) to (N, C, H, W), with
``padding_mask`` (N, H, W) bool, True where a position is padding. The node has NORM, PARTITIONS,
ORDER, SUBSAMPLE and MASK_PADDING, see :mod:`ocr_panoptic.config`.
"""


def build_context(node: CfgNode, in_channels: int, key: str) -> nn.Module:
    """Build the context layer that a config node names.

    Args:
        node: such as ``MODEL.RESNETS.CONTEXT``.
        in_channels: channels of its input and result.
        key: what an error calls the node.

    Raises:
        InputError: if NAME is not registered, or the layer cannot be built with these values.
    """
    known = sorted(name for name, _ in CONTEXT_REGISTRY)
    if node.NAME not in known:
        raise InputError(f"{key}.NAME: '{node.NAME}', expected {' or '.join(known)}")
    try:
        return CONTEXT_REGISTRY.get(node.NAME)(node, in_channels)
    except ValueError as error:
        raise InputError(f"{key}: {node.NAME} on {in_channels} channels: {error}") from error


@CONTEXT_REGISTRY.register()
def isa(node: CfgNode, in_channels: int) -> nn.Module:
    """Interlaced sparse self-attention."""
    return InterlacedSparseSelfAttention(
        in_channels,
        norm=node.NORM,
        partitions=node.PARTITIONS,
        stages=node.ORDER,
        mask_padding=node.MASK_PADDING,
    )


@CONTEXT_REGISTRY.register()
def non_local(node: CfgNode, in_channels: int) -> nn.Module:
    """Non-local, embedded Gaussian."""
    return NonLocal(in_channels, subsample=node.SUBSAMPLE)


@CONTEXT_REGISTRY.register()
def self_attention(node: CfgNode, in_channels: int) -> nn.Module:
    """Dense self-attention with the transforms of ISA."""
    return SelfAttention(in_channels, norm=node.NORM)
