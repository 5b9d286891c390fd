"""The segmentation transformer against its equations."""

import copy

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import SegmentationTransformer

from ..reference.seg_transformer import seg_transformer
from ..reference.transforms import as_layer
from .test_self_attention import (
    SIZES,
    assert_equals_reference,
    assert_ignores_padding,
    assert_trains,
    gradcheck,
    make_feats,
    make_masks,
    randomised,
)
from .with_regions import WithRegions

K = 3


def make_layer(num_layers=1, channels=4, **kwargs):
    """Return a layer whose input has its pixels' channels, then those of the regions."""
    widths = {"key_channels": 6, "ffn_channels": 5, "num_heads": 2, "dropout": 0.0}
    layer = SegmentationTransformer(
        channels, num_classes=K, num_layers=num_layers, **{**widths, **kwargs}
    )
    layer = randomised(layer)
    nn.init.normal_(layer.queries)
    for name, parameter in layer.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        if name.endswith("norm.bias"):
            nn.init.normal_(parameter, std=0.3)
    return WithRegions(layer, K)


def reference(wrapper):
    names = ("query", "key", "value", "output")
    layers = []
    for index, layer in enumerate(wrapper.layer.layers):
        units = {}
        for name, unit in layer.named_children():
            if name.endswith("norm"):
                units[name] = unit.weight.tolist(), unit.bias.tolist(), unit.eps
            elif name.endswith("ffn"):
                units[name] = [as_layer(conv) for conv in unit]
            elif name.endswith("attention"):
                units[name] = {part: as_layer(getattr(unit, part)) for part in names}
        if index == 0:
            units["decoder_attention"] = {
                "value": as_layer(layer.region_value),
                "output": as_layer(layer.region_output),
            }
        layers.append(units)
    heads = wrapper.layer.layers[0].encoder_attention.num_heads
    queries = wrapper.layer.queries.tolist()
    return wrapper.reference(seg_transformer, queries=queries, layers=layers, heads=heads)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(size, masked):
    layer = make_layer()
    feats, mask = make_feats(size, channels=4 + K), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 4, *size)
    assert layer.layer.out_channels == 4
    assert layer.layer.uses_regions
    assert torch.equal(feats, before)
    assert_equals_reference([out], reference(layer), feats, mask)


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_more_layers_and_heads_equal_the_equations(num_layers, num_heads, size, masked):
    layer = make_layer(num_layers, num_heads=num_heads)
    feats, mask = make_feats(size, channels=4 + K), make_masks(size)[masked]
    out = layer(feats, padding_mask=mask)
    assert_equals_reference([out], reference(layer), feats, mask)


@pytest.mark.parametrize("num_layers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_gradcheck(num_layers):
    layer = make_layer(num_layers, channels=2, key_channels=2, ffn_channels=3, num_heads=1)
    gradcheck(layer, (2, 3), channels=2 + K)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [
        ((50, 84), (64, 96), 1e6),
        ((1, 1), (3, 2), 1e6),
        ((7, 13), (7, 20), 0),
        ((7, 13), (9, 13), -40),
    ],
)
def test_output_does_not_depend_on_padding(num_layers, size, padded_size, filling):
    assert_ignores_padding(make_layer(num_layers), size, padded_size, filling, channels=4 + K)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("valid", [[(4, 4), (20, 20)], [(20, 20), (0, 0)]])
def test_trains_on_images_of_all_sizes(num_layers, valid):
    assert_trains(make_layer(num_layers), (20, 20), *valid, channels=4 + K)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
@torch.no_grad()
def test_runs_in_half_precision(num_layers, size):
    layer = make_layer(num_layers).float()
    feats = make_feats(size, channels=4 + K, dtype=torch.float32)
    for mask in make_masks(size):
        expected = layer(feats, padding_mask=mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            brain = layer(feats, padding_mask=mask)
        half = copy.deepcopy(layer).half()(feats.half(), padding_mask=mask)
        # Autocast leaves the norms, and with them the sums, in float32.
        assert brain.dtype == torch.float32
        assert half.dtype == torch.float16
        # They keep 8 and 11 bits.
        assert (brain - expected).abs().max() < 0.05 * expected.abs().max()
        assert (half.float() - expected).abs().max() < 0.01 * expected.abs().max()


def test_only_the_first_layer_looks_at_the_coarse_prediction():
    layer = make_layer(2).layer
    feats, logits = make_feats((5, 6)), make_feats((5, 6), channels=K, seed=2).requires_grad_()
    out = layer(feats, region_logits=logits)
    (gradient,) = torch.autograd.grad(out.square().sum(), logits)
    # A softmax over the positions: no class changes by a number added to all of its logits.
    assert gradient.abs().amax(dim=(2, 3)).min() > 0
    torch.testing.assert_close(gradient.sum(dim=(2, 3)), torch.zeros(2, K).double())
    # Without what it says, later layers still find regions of their own.
    nn.init.zeros_(layer.layers[0].region_output.weight)
    assert torch.equal(layer(feats, region_logits=logits), layer(feats, region_logits=-logits))
    assert layer(feats, region_logits=logits).std(dim=(2, 3)).min() > 0.1


def test_queries_interact_from_the_second_layer_on():
    names = [
        {name for name, _ in layer.named_children() if "self" in name}
        for layer in make_layer(3).layer.layers
    ]
    self_attention = {"decoder_self_attention", "decoder_self_norm"}
    assert names == [set(), self_attention, self_attention]


def test_dropout_drops_channels_of_the_result():
    layer = make_layer(dropout=0.5).layer.train()
    torch.manual_seed(0)
    out = layer(make_feats((5, 6)), region_logits=make_feats((5, 6), channels=K))
    dropped = out.flatten(2).abs().sum(2) == 0
    assert 0 < dropped.sum() < dropped.numel()


def test_wrong_arguments_are_refused():
    layer = make_layer().layer
    feats, logits = make_feats((5, 6)), make_feats((5, 6), channels=K)
    with pytest.raises(ValueError, match="region_logits is None, expected those of a coarse"):
        layer(feats)
    with pytest.raises(ValueError, match=r"\(2, 5, 5\), expected \(2, 5, 6\) of feats"):
        layer(feats, region_logits=logits[..., :5])
    with pytest.raises(ValueError, match=r"has 2 classes, expected num_classes \(3\)"):
        layer(feats, region_logits=logits[:, :2])
    with pytest.raises(ValueError, match="number of layers is 0, expected at least 1"):
        make_layer(0)
    for heads in (0, 4):
        with pytest.raises(ValueError, match=f"{heads} heads for 6 channels of query and key"):
            make_layer(num_heads=heads)


def test_parameters_of_the_default_widths():
    norm = 2 * 512
    attention = 3 * 512 * 256 + 256 * 512
    given = 512 * 256 + 256 * 512
    ffn = 512 * 2048 + 2048 + 2048 * 512 + 512
    encoder = attention + norm + ffn + norm
    first = given + norm + ffn + norm + encoder
    later = attention + norm + attention + norm + ffn + norm + encoder
    for num_layers in (1, 3):
        layer = SegmentationTransformer(num_classes=54, num_layers=num_layers)
        expected = 54 * 512 + first + (num_layers - 1) * later
        assert sum(p.numel() for p in layer.parameters()) == expected
