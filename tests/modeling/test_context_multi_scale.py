"""The schemes of several scales by name: what a config node says is what is built."""

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from ocr_panoptic.config import add_context_keys
from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import (
    ASPOC,
    AtrousSpatialPyramidPooling,
    BaseOC,
    InterlacedSparseSelfAttention,
    PyramidOC,
    PyramidPooling,
    SelfAttention,
)
from ocr_panoptic.modeling.context import build_context

SCHEMES = {
    "ppm": (PyramidPooling, None),
    "aspp": (AtrousSpatialPyramidPooling, None),
    "base_oc_sa": (BaseOC, SelfAttention),
    "base_oc_isa": (BaseOC, InterlacedSparseSelfAttention),
    "pyramid_oc_sa": (PyramidOC, SelfAttention),
    "pyramid_oc_isa": (PyramidOC, InterlacedSparseSelfAttention),
    "asp_oc_sa": (ASPOC, SelfAttention),
    "asp_oc_isa": (ASPOC, InterlacedSparseSelfAttention),
}
names = pytest.mark.parametrize("name", SCHEMES)


def build(name, in_channels=16, out_channels=None, **values):
    node = CfgNode()
    add_context_keys(node)
    node.NAME = name
    node.NORM = "BN"
    for key, value in values.items():
        node[key] = value
    return build_context(node, in_channels, "MODEL.CONTEXT", out_channels=out_channels)


def inner(layer):
    return [m for m in layer.modules() if type(m) in (SelfAttention, InterlacedSparseSelfAttention)]


@names
@pytest.mark.parametrize("out_channels", [None, 12])
def test_is_built_and_runs(name, out_channels):
    layer = build(name, out_channels=out_channels, PARTITIONS=(2, 3))
    kind, context = SCHEMES[name]
    assert type(layer) is kind
    assert layer.out_channels == (out_channels or 16)
    assert not layer.uses_regions
    assert not layer.uses_ground_truth
    contexts = [module for module in inner(layer) if type(module) is context]
    assert len(contexts) == {PyramidOC: 4, BaseOC: 1, ASPOC: 1}.get(kind, 0)
    feats = torch.randn(2, 16, 15, 26, generator=torch.Generator().manual_seed(0))
    feats.requires_grad_()
    mask = torch.zeros(2, 15, 26, dtype=torch.bool)
    mask[1, 12:] = True
    for padding_mask in (None, mask):
        out = layer(feats, padding_mask=padding_mask)
        assert out.shape == (2, layer.out_channels, 15, 26)
        assert out.isfinite().all()
        layer.zero_grad()
        out.square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())
    assert feats.grad.isfinite().all()


@names
def test_reads_norm_and_dropout(name):
    layer = build(name, 64, NORM="GN", DROPOUT=0.3, BINS=(2, 3))
    assert not [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in layer.modules() if isinstance(module, nn.GroupNorm)]
    assert layer.dropout.p == 0.3


@pytest.mark.parametrize("name", ["ppm", "pyramid_oc_sa", "pyramid_oc_isa"])
def test_reads_bins(name):
    assert build(name).bins == (1, 2, 3, 6)
    layer = build(name, BINS=[2, 5])
    assert layer.bins == (2, 5)
    assert len(layer.branches if name == "ppm" else layer.contexts) == 2


@pytest.mark.parametrize("name", ["aspp", "asp_oc_sa", "asp_oc_isa"])
def test_reads_rates(name):
    def dilations(layer):
        convs = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
        return [conv.dilation[0] for conv in convs if conv.dilation[0] > 1]

    assert dilations(build(name)) == [12, 24, 36]
    assert dilations(build(name, RATES=[6, 12, 18])) == [6, 12, 18]


@pytest.mark.parametrize("name", [name for name, (_, context) in SCHEMES.items() if context])
def test_reads_key_channels(name):
    for key_channels, expected in ((0, 8), (6, 6)):
        layer = build(name, KEY_CHANNELS=key_channels)
        attentions = [m for m in layer.modules() if type(m) is SelfAttention]
        assert attentions
        assert {attention.key[0].out_channels for attention in attentions} == {expected}


@pytest.mark.parametrize("name", [name for name, (_, context) in SCHEMES.items() if context])
def test_reads_the_options_of_the_authors_code(name):
    layer = build(name, VALUE_CHANNELS=6, OUTPUT_NORM="BN")
    attentions = [m for m in layer.modules() if type(m) is SelfAttention]
    assert attentions
    assert {attention.value.out_channels for attention in attentions} == {6}
    assert all(type(attention.output.norm) is nn.BatchNorm2d for attention in attentions)


@pytest.mark.parametrize("name", ["base_oc_isa", "pyramid_oc_isa", "asp_oc_isa"])
def test_reads_what_interlaced_attention_has(name):
    layer = build(name, PARTITIONS=(4, 2), ORDER=("local",), MASK_PADDING=False)
    for context in inner(layer):
        if type(context) is InterlacedSparseSelfAttention:
            assert context.partitions == (4, 2)
            assert context.stages == ("local",)
            # The padding of parts is no padding of the batch.
            assert context.mask_padding is (name == "pyramid_oc_isa")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("ppm", {"BINS": (0,)}, "bins are (0,), expected different integers from 1"),
        ("ppm", {"BINS": 3}, "bins are 3, expected different integers from 1"),
        ("pyramid_oc_sa", {"BINS": 3}, "bins are 3, expected different integers from 1"),
        ("aspp", {"RATES": (1, 2)}, "rates are (1, 2), expected three of them"),
        ("asp_oc_isa", {"RATES": ()}, "rates are (), expected integers from 1"),
    ],
)
def test_a_value_that_cannot_be_is_named(name, values, message):
    with pytest.raises(InputError) as error:
        build(name, **values)
    assert str(error.value) == f"MODEL.CONTEXT: {name} on 16 channels: {message}"
