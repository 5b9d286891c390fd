"""The schemes that look at regions, built from a config node."""

import pytest
import torch
from detectron2.config import CfgNode

from ocr_panoptic.config import add_context_keys
from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import (
    ACFRelationOCR,
    AttentionalClassFeature,
    DARelationOCR,
    GroundTruthOCR,
    LabelEnsemble,
    LabelRefinement,
    OCRModule,
    SegmentationTransformer,
    UnsupervisedOCR,
)
from ocr_panoptic.modeling.context import build_context

SCHEMES = {
    "acf": AttentionalClassFeature,
    "gt_ocr": GroundTruthOCR,
    "label_ensemble": LabelEnsemble,
    "label_refinement": LabelRefinement,
    "ocr": OCRModule,
    "ocr_acf_relation": ACFRelationOCR,
    "ocr_da_relation": DARelationOCR,
    "ocr_unsupervised": UnsupervisedOCR,
    "seg_transformer": SegmentationTransformer,
}
OF_ONE_WIDTH = {"label_ensemble", "label_refinement", "seg_transformer"}
WITHOUT_KEYS = {"label_ensemble", "label_refinement"}
NUM_CLASSES = 17


def make_node(name, **values):
    node = CfgNode()
    add_context_keys(node)
    node.NAME, node.NORM, node.DROPOUT = name, "BN", 0.0
    for key, value in values.items():
        setattr(node, key, value)
    return node


def build(name, channels=32, num_classes=NUM_CLASSES, out_channels=None, **values):
    return build_context(
        make_node(name, **values),
        channels,
        "MODEL.SEM_SEG_HEAD.CONTEXT",
        out_channels=out_channels,
        num_classes=num_classes,
    )


def make_input(layer, size=(9, 11)):
    torch.manual_seed(0)
    feats = torch.randn(2, 32, *size, requires_grad=True)
    if layer.uses_ground_truth:
        labels = torch.randint(0, 6, (2, *size))
        return feats, torch.nn.functional.one_hot(labels, NUM_CLASSES).permute(0, 3, 1, 2).float()
    return feats, torch.randn(2, NUM_CLASSES, *size, requires_grad=True)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_runs_forward_and_backward(name, mode):
    layer = getattr(build(name), mode)()
    assert type(layer) is SCHEMES[name]
    assert layer.uses_ground_truth == (name == "gt_ocr")
    assert layer.uses_regions == (name != "gt_ocr")
    feats, regions = make_input(layer)
    mask = torch.zeros(2, 9, 11, dtype=torch.bool)
    mask[0, 7:] = True
    out = layer(feats, region_logits=regions, padding_mask=mask)
    assert out.shape == (2, layer.out_channels, 9, 11)
    assert layer.out_channels == 32 + NUM_CLASSES * (name == "label_refinement")
    classifier = torch.nn.Conv2d(layer.out_channels, NUM_CLASSES, kernel_size=1)
    final = layer.refine(classifier(out), regions)
    assert final.shape == (2, NUM_CLASSES, 9, 11)
    final.square().sum().backward()
    tensors = [feats, *layer.parameters(), *classifier.parameters()]
    if name not in ("gt_ocr", "ocr_unsupervised"):
        tensors.append(regions)
    assert all(tensor.grad.isfinite().all() for tensor in tensors)
    assert all(tensor.grad.abs().max() > 0 for tensor in tensors)


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - WITHOUT_KEYS))
def test_key_channels(name):
    widths = []
    for key_channels in (0, 8):
        layer = build(name, KEY_CHANNELS=key_channels)
        units = dict(layer.named_modules())
        width = "layers.0.encoder_attention.value" if name == "seg_transformer" else "value.0"
        widths.append(units[width].out_channels)
    assert widths == [16, 8]


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - WITHOUT_KEYS))
def test_dropout(name):
    assert build(name, DROPOUT=0.2).dropout.p == 0.2


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - OF_ONE_WIDTH))
def test_norm_and_output_channels(name):
    layer = build(name, out_channels=48, NORM="LN")
    assert layer.out_channels == 48
    assert type(layer.fuse[0].norm).__name__ == "LayerNorm"
    feats, regions = make_input(layer)
    assert layer(feats, region_logits=regions).shape == (2, 48, 9, 11)


@pytest.mark.parametrize("name", sorted(OF_ONE_WIDTH))
def test_schemes_that_keep_the_pixels_have_one_width(name):
    with pytest.raises(InputError) as error:
        build(name, out_channels=48)
    assert str(error.value) == (
        f"MODEL.SEM_SEG_HEAD.CONTEXT: {name} on 32 channels: it cannot give 48 channels, "
        "expected 32"
    )


def test_layers_and_heads_of_the_transformer():
    layer = build("seg_transformer", LAYERS=3, HEADS=4)
    assert len(layer.layers) == 3
    assert layer.layers[2].decoder_attention.num_heads == 4
    with pytest.raises(InputError, match="seg_transformer on 32 channels: number of layers is 0"):
        build("seg_transformer", LAYERS=0)
    with pytest.raises(InputError, match="5 heads for 16 channels of query and key, expected a"):
        build("seg_transformer", HEADS=5)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_backbone_has_no_regions(name):
    message = f"NAME: '{name}' needs regions of classes, expected a scheme without"
    with pytest.raises(InputError, match=message):
        build(name, num_classes=None)
