"""Schemes in which pixels look at regions of classes."""

from __future__ import annotations

from detectron2.config import CfgNode

from ocr_panoptic.layers import (
    ACFRelationOCR,
    AttentionalClassFeature,
    ContextLayer,
    DARelationOCR,
    GroundTruthOCR,
    LabelEnsemble,
    LabelRefinement,
    OCRModule,
    SegmentationTransformer,
    UnsupervisedOCR,
)

from .registry import CONTEXT_REGISTRY, NoRegionsError

__all__ = []


@CONTEXT_REGISTRY.register()
def acf(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Attentional class features."""
    return AttentionalClassFeature(in_channels, out_channels, **_widths(node, in_channels))


@CONTEXT_REGISTRY.register()
def gt_ocr(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """OCR with the true labels as regions and relations."""
    return GroundTruthOCR(in_channels, out_channels, **_widths(node, in_channels))


@CONTEXT_REGISTRY.register()
def label_ensemble(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """The mean of coarse and fine prediction."""
    _check_same(in_channels, out_channels)
    return LabelEnsemble(in_channels)


@CONTEXT_REGISTRY.register()
def label_refinement(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """The coarse prediction beside the pixels; the result is wider by the number of classes."""
    _check_same(in_channels, out_channels)
    return LabelRefinement(in_channels, num_classes=_known(num_classes))


@CONTEXT_REGISTRY.register()
def ocr(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """Object-contextual representations."""
    return OCRModule(in_channels, out_channels=out_channels, **_widths(node, in_channels))


@CONTEXT_REGISTRY.register()
def ocr_acf_relation(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """OCR with the coarse prediction as relations."""
    return ACFRelationOCR(in_channels, out_channels, **_widths(node, in_channels))


@CONTEXT_REGISTRY.register()
def ocr_da_relation(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """OCR with relations predicted from pixels alone."""
    return DARelationOCR(
        in_channels, out_channels, num_classes=_known(num_classes), **_widths(node, in_channels)
    )


@CONTEXT_REGISTRY.register()
def ocr_unsupervised(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """OCR with regions of its own, which have no loss."""
    return UnsupervisedOCR(
        in_channels, out_channels, num_classes=_known(num_classes), **_widths(node, in_channels)
    )


@CONTEXT_REGISTRY.register()
def seg_transformer(
    node: CfgNode, in_channels: int, out_channels: int, num_classes: int | None
) -> ContextLayer:
    """OCR as a Transformer; its norm is LayerNorm, whatever NORM says."""
    _check_same(in_channels, out_channels)
    return SegmentationTransformer(
        in_channels,
        num_classes=_known(num_classes),
        key_channels=node.KEY_CHANNELS or max(1, in_channels // 2),
        num_layers=node.LAYERS,
        num_heads=node.HEADS,
        dropout=node.DROPOUT,
    )


def _widths(node: CfgNode, in_channels: int) -> dict:
    """Return what OCR and its relatives read of the node."""
    return {
        "key_channels": node.KEY_CHANNELS or max(1, in_channels // 2),
        "dropout": node.DROPOUT,
        "norm": node.NORM,
    }


def _known(num_classes: int | None) -> int:
    """Return the number of classes, where there is one."""
    if num_classes is None:
        raise NoRegionsError
    return num_classes


def _check_same(in_channels: int, out_channels: int) -> None:
    """See that nobody asks a scheme which keeps the pixels for another width."""
    if out_channels != in_channels:
        raise ValueError(f"it cannot give {out_channels} channels, expected {in_channels}")
