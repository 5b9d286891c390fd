"""The relational schemes by name: what a config node says is built, for head and backbone."""

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ocr_panoptic.config import add_context_keys
from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import (
    CompactGeneralizedNonLocal,
    CrissCrossAttention,
    DANet,
    DoubleAttention,
    EfficientAttention,
    InterlacedSparseSelfAttention,
    NonLocal,
    SelfAttention,
)
from ocr_panoptic.modeling.backbone import ResidualContext
from ocr_panoptic.modeling.context import build_context

CONTEXTS = {
    "isa": InterlacedSparseSelfAttention,
    "non_local": NonLocal,
    "self_attention": SelfAttention,
}
# These fuse pixels and context in a head.
FUSED = {
    "cgnl": CompactGeneralizedNonLocal,
    "criss_cross": CrissCrossAttention,
    "danet": DANet,
    "double_attention": DoubleAttention,
    "efficient_attention": EfficientAttention,
}
SCHEMES = {**CONTEXTS, **FUSED}
names = pytest.mark.parametrize("name", SCHEMES)


def build(name, in_channels=16, num_classes=7, out_channels=None, **values):
    node = CfgNode()
    add_context_keys(node)
    node.NAME = name
    node.NORM = "BN"
    for key, value in values.items():
        assert type(node[key]) is type(value)
        node[key] = value
    return build_context(
        node, in_channels, "MODEL.CONTEXT", out_channels=out_channels, num_classes=num_classes
    )


def make_feats(size=(9, 14), seed=0):
    return torch.randn(2, 16, *size, generator=torch.Generator().manual_seed(seed))


@names
@pytest.mark.parametrize("num_classes", [7, None])
def test_is_built_and_runs(name, num_classes):
    layer = build(name, num_classes=num_classes, PARTITIONS=(2, 3))
    assert type(layer) is SCHEMES[name]
    assert layer.out_channels == 16
    assert not layer.uses_regions
    assert not layer.uses_ground_truth
    if name in FUSED:
        assert bool(layer.fuse) == (num_classes is not None)
    feats, mask = make_feats().requires_grad_(), torch.zeros(2, 9, 14, dtype=torch.bool)
    mask[1, 7:] = True
    for padding_mask in (None, mask):
        out = layer(feats, padding_mask=padding_mask)
        assert out.shape == (2, 16, 9, 14)
        assert out.isfinite().all()
        out.square().sum().backward()
        assert feats.grad.isfinite().all()


@names
def test_what_is_not_relational_is_not_read(name):
    # Keys of other schemes, out of their range, change nothing.
    build(name, BINS=(), RATES=(), LAYERS=-1, HEADS=-1)


@names
def test_adds_nothing_to_a_backbone_at_first_and_learns_there(name):
    torch.manual_seed(0)
    layer = build(name, num_classes=None, PARTITIONS=(4, 4))
    block = ResidualContext(layer, 16, "BN", mask_padding=False).double().train()
    feats = make_feats((12, 12)).double()
    assert torch.equal(block(feats), feats)
    target = make_feats((12, 12), seed=1).double()
    for _ in range(2):
        block.zero_grad()
        (block(feats) - target).square().mean().backward()
        gradients = {name: p.grad.abs().max().item() for name, p in block.named_parameters()}
        with torch.no_grad():
            for parameter in block.parameters():
                parameter -= 0.1 * parameter.grad
    assert min(gradients.values()) > 1e-12, gradients


@pytest.mark.parametrize("name", FUSED)
@torch.no_grad()
def test_a_head_sees_the_pixels_a_backbone_the_context_only(name):
    # Where nothing has a value only the pixels are left.
    outs = []
    for num_classes in (7, None):
        layer = build(name, num_classes=num_classes).eval()
        values = [m for path, m in layer.named_modules() if path.split(".")[-1] == "value"]
        assert len(values) == 1
        values[0].weight.zero_()
        if name == "danet":
            layer.channel.beta.zero_()
        outs.append(layer(make_feats()))
    in_head, in_backbone = outs
    assert in_head.std() > 0.01
    assert in_backbone.count_nonzero() == 0


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("cgnl", {"GROUPS": 4}, lambda layer: layer.output.groups == layer.groups == 4),
        ("cgnl", {"KEY_CHANNELS": 24}, lambda layer: layer.query.out_channels == 24),
        ("criss_cross", {"RECURRENCE": 3}, lambda layer: layer.recurrence == 3),
        ("criss_cross", {"KEY_CHANNELS": 5}, lambda layer: layer.attention.key.out_channels == 5),
        ("danet", {"KEY_CHANNELS": 5}, lambda layer: layer.position.key.out_channels == 5),
        ("double_attention", {"NUM_REGIONS": 9}, lambda layer: layer.gather.out_channels == 9),
        ("double_attention", {"KEY_CHANNELS": 5}, lambda layer: layer.value.out_channels == 5),
        ("efficient_attention", {"KEY_CHANNELS": 5}, lambda layer: layer.key.out_channels == 5),
        ("isa", {"PARTITIONS": (2, 3)}, lambda layer: layer.partitions == (2, 3)),
        ("isa", {"ORDER": ("local",)}, lambda layer: layer.stages == ("local",)),
        ("isa", {"MASK_PADDING": False}, lambda layer: not layer.mask_padding),
        *(
            row
            for name, of in (
                ("isa", lambda layer: layer.relations["local"]),
                ("self_attention", lambda layer: layer),
            )
            for row in (
                (name, {"VALUE_CHANNELS": 5}, lambda m, of=of: of(m).value.out_channels == 5),
                (name, {"OUTPUT_NORM": "BN"}, lambda m, of=of: of(m).output.norm is not None),
            )
        ),
        ("non_local", {"SUBSAMPLE": False}, lambda layer: not layer.subsample),
        ("non_local", {"KEY_CHANNELS": 5}, lambda layer: layer.key.out_channels == 5),
        ("self_attention", {"KEY_CHANNELS": 5}, lambda layer: layer.key[0].out_channels == 5),
    ],
)
def test_reads_its_keys(name, values, found):
    assert found(build(name, **values))
    assert not found(build(name))


@pytest.mark.parametrize(
    ("name", "in_channels", "flops", "params"),
    [
        # As published: 338 G and 10.2 M, 331 G, 804 G, 1110 G.
        ("double_attention", 512, 338.2, 10.291),
        ("efficient_attention", 512, 330.7, 9.963),
        ("criss_cross", 2048, 804.2, 23.924),
        ("danet", 2048, 1110.2, 23.925),
        # 412 G.
        ("cgnl", 512, 400.0, 12.209),
    ],
)
def test_costs_what_its_docstring_says(name, in_channels, flops, params):
    layer = build(name, in_channels, out_channels=512).eval().to("meta")
    feats = torch.zeros(1, in_channels, 128, 128, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert layer(feats).shape == (1, 512, 128, 128)
    found = [counter.get_total_flops(), sum(p.numel() for p in layer.parameters())]
    if in_channels == 512:
        # Behind a 3x3 convolution, norm and ReLU.
        found[0] += 2 * 9 * 2048 * 512 * 128 * 128
        found[1] += 9 * 2048 * 512 + 2 * 512
    assert round(found[0] / 1e9, 1) == flops
    assert round(found[1] / 1e6, 3) == params


@pytest.mark.parametrize("name", ["cgnl", "criss_cross", "danet", "double_attention"])
def test_reads_dropout(name):
    assert build(name, DROPOUT=0.3).dropout.p == 0.3


@pytest.mark.parametrize("name", sorted({*SCHEMES} - {"non_local", "efficient_attention"}))
def test_reads_norm(name):
    layer = build(name, 64, NORM="GN")
    assert not [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in layer.modules() if isinstance(module, nn.GroupNorm)]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("cgnl", {"GROUPS": 3}, "cgnl on 16 channels: 8 channels inside and 16 of the context"),
        ("criss_cross", {"RECURRENCE": 0}, "criss_cross on 16 channels: recurrence is 0, expect"),
        ("criss_cross", {"num_classes": None, "out_channels": 8}, "and 8, expected 16 as of the"),
        ("danet", {"num_classes": None, "out_channels": 8}, "and 8, expected 16 as of the input"),
        ("double_attention", {"NUM_REGIONS": 0}, "number of regions is 0, expected at least 1"),
        ("efficient_attention", {"out_channels": 8}, "channels of the result are 8, expected 16"),
        ("isa", {"PARTITIONS": (0, 2)}, r"partitions are \(0, 2\), expected two integers from 1"),
    ],
)
def test_values_it_cannot_be_built_with_are_named(name, kwargs, message):
    with pytest.raises(InputError, match=rf"^MODEL\.CONTEXT: .*{message}"):
        build(name, **kwargs)
