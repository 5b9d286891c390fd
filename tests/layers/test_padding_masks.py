"""A mask that is not one of the map's positions is refused by every layer that takes one."""

import pytest
import torch

from ocr_panoptic.layers import (
    ASPOC,
    ACFRelationOCR,
    AtrousSpatialPyramidPooling,
    AttentionalClassFeature,
    BaseOC,
    CompactGeneralizedNonLocal,
    CrissCrossAttention,
    DANet,
    DARelationOCR,
    DoubleAttention,
    EfficientAttention,
    GroundTruthOCR,
    InterlacedSparseSelfAttention,
    LabelEnsemble,
    LabelRefinement,
    NonLocal,
    OCRModule,
    PyramidOC,
    PyramidPooling,
    SegmentationTransformer,
    SelfAttention,
    UnsupervisedOCR,
)

LAYERS = {
    "acf": AttentionalClassFeature(8, 8, key_channels=4, norm="BN"),
    "gt_ocr": GroundTruthOCR(8, 8, key_channels=4, norm="BN"),
    "label_ensemble": LabelEnsemble(8),
    "label_refinement": LabelRefinement(8, num_classes=5),
    "ocr_acf_relation": ACFRelationOCR(8, 8, key_channels=4, norm="BN"),
    "ocr_da_relation": DARelationOCR(8, 8, num_classes=5, key_channels=4, norm="BN"),
    "ocr_unsupervised": UnsupervisedOCR(8, 8, num_classes=5, key_channels=4, norm="BN"),
    "seg_transformer": SegmentationTransformer(8, num_classes=5, num_heads=2, key_channels=4),
    "asp_oc": ASPOC(SelfAttention(8, norm="BN"), 8, 8, norm="BN"),
    "aspp": AtrousSpatialPyramidPooling(8, 8, norm="BN"),
    "base_oc": BaseOC(SelfAttention(8, norm="BN"), 8, 8, 8, norm="BN"),
    "cgnl": CompactGeneralizedNonLocal(8, groups=2, norm="BN"),
    "criss_cross": CrissCrossAttention(8, 8, norm="BN"),
    "danet": DANet(8, 8, norm="BN"),
    "double_attention": DoubleAttention(8, norm="BN"),
    "efficient_attention": EfficientAttention(8),
    "ocr": OCRModule(8, 4, 8, norm="BN"),
    "isa": InterlacedSparseSelfAttention(8, partitions=(2, 2), norm="BN"),
    "self_attention": SelfAttention(8, norm="BN"),
    "non_local": NonLocal(8),
    "ppm": PyramidPooling(8, 8, norm="BN"),
    "pyramid_oc": PyramidOC(lambda: SelfAttention(8, norm="BN"), 8, 8, 8, norm="BN"),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("padding_mask", "message"),
    [
        (torch.zeros(2, 3, 4), r"dtype torch\.float32, expected torch\.bool"),
        (torch.zeros(2, 4, 3, dtype=torch.bool), r"width \(2, 4, 3\), expected \(2, 3, 4\)"),
        (torch.zeros(1, 3, 4, dtype=torch.bool), r"width \(1, 3, 4\), expected \(2, 3, 4\)"),
        (torch.zeros(2, 1, 3, 4, dtype=torch.bool), r"width \(2, 1, 3, 4\), expected \(2, 3, 4\)"),
    ],
)
def test_a_wrong_mask_is_refused(name, training, padding_mask, message):
    layer = LAYERS[name].train(training)
    regions = torch.zeros(2, 5, 3, 4) if layer.uses_regions or layer.uses_ground_truth else None
    with pytest.raises(ValueError, match=f"padding_mask has .*{message}"):
        layer(torch.zeros(2, 8, 3, 4), region_logits=regions, padding_mask=padding_mask)
