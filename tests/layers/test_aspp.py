"""ASPP against its reference, and without a mask against Detectron2's own."""

import re

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import AtrousSpatialPyramidPooling

from ..reference.multi_scale import as_spatial, aspp
from ..reference.transforms import as_transform
from .test_ppm import hide
from .test_self_attention import (
    SIZES,
    assert_drops_whole_channels,
    assert_equals_reference,
    assert_ignores_padding,
    assert_runs_in_half_precision,
    assert_trains,
    gradcheck,
    make_feats,
    make_mask,
    make_masks,
    randomised,
)


def make_layer(channels=4, rates=(1, 4, 12), **kwargs):
    layer = AtrousSpatialPyramidPooling(channels, 5, rates=rates, **{"norm": "BN", **kwargs})
    return randomised(layer)


def assert_is_aspp(layer, feats, mask):
    point, *dilated, average = layer.aspp.convs

    def reference(wanted, pixels, padding):
        return aspp(
            wanted,
            pixels,
            padding,
            feats.shape[2:],
            as_transform([point]),
            [as_spatial(conv) for conv in dilated],
            as_transform([average[1]]),
            as_transform([layer.aspp.project]),
        )

    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *feats.shape[2:])
    assert torch.equal(feats, before)
    assert_equals_reference([hide(out, mask)], reference, feats, mask)


@pytest.mark.parametrize("size", [*SIZES, (2, 5)])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_paper(size, masked):
    assert_is_aspp(make_layer(), make_feats(size), make_masks(size)[masked])


@pytest.mark.parametrize("kwargs", [{"norm": ""}, {"rates": [2, 2, 2]}])
@torch.no_grad()
def test_variants_equal_the_paper(kwargs):
    assert_is_aspp(make_layer(**kwargs), make_feats((5, 6)), make_masks((5, 6))[1])


@torch.no_grad()
def test_padding_may_be_anywhere():
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[0, 2:5, 3:6] = False
    mask[1, 1:6, 1] = mask[1, 5, 1:6] = False
    assert_is_aspp(make_layer(), make_feats((6, 7)), mask)


@torch.no_grad()
def test_an_image_without_valid_position_gives_finite_numbers():
    layer, mask = make_layer(), make_mask((4, 5), (4, 5), (0, 0))
    feats = make_feats((4, 5))
    out = layer(feats, padding_mask=mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1], layer(feats[:1]), rtol=0, atol=1e-9)


@torch.no_grad()
def test_on_a_small_map_a_dilated_convolution_is_a_pointwise_one():
    layer, feats = make_layer(rates=(12, 24, 36)), make_feats((12, 9))
    out = layer(feats)
    for conv in layer.aspp.convs[1:4]:
        center = conv.weight[:, :, 1, 1].clone()
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = center
    torch.testing.assert_close(layer(feats), out, rtol=0, atol=1e-12)


def test_the_defaults_are_the_published_widths():
    layer = AtrousSpatialPyramidPooling()
    dense = 2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 256 * 256
    # The 1x1 on the average has a bias, the others have norms.
    parameters = dense + 2048 * 256 + 256 + 5 * 2 * 256
    assert sum(p.numel() for p in layer.parameters()) == parameters
    assert isinstance(layer.aspp.project.norm, nn.SyncBatchNorm)
    assert [conv.dilation for conv in layer.aspp.convs[1:4]] == [(12, 12), (24, 24), (36, 36)]
    # Table 4 of the OCR paper.
    assert parameters == pytest.approx(15.5e6, rel=0.03)
    assert 2 * dense * 128 * 128 == pytest.approx(492e9, rel=0.03)


@pytest.mark.parametrize("norm", ["", "BN"])
def test_gradcheck(norm):
    gradcheck(make_layer(channels=2, rates=(1, 2, 3), norm=norm), (3, 4))


@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [
        ((50, 84), (64, 96), 1e6),
        ((1, 1), (3, 2), 1e6),
        ((7, 13), (7, 20), 1e6),
        ((7, 13), (9, 13), -40),
    ],
)
def test_output_does_not_depend_on_padding(size, padded_size, filling):
    assert_ignores_padding(make_layer(), size, padded_size, filling)


@pytest.mark.parametrize("valid", [[(4, 4), (50, 50)], [(50, 50), (0, 0)]])
def test_trains_on_images_of_all_sizes(valid):
    assert_trains(make_layer(dropout=0.0), (50, 50), *valid)


@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
def test_runs_in_half_precision(size):
    assert_runs_in_half_precision(make_layer(), size)


def test_drops_whole_channels_in_training_only():
    assert_drops_whole_channels(make_layer(dropout=0.5, norm=""))
    assert AtrousSpatialPyramidPooling().dropout.p == 0.05


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((6, 12), "rates are (6, 12), expected three of them"),
        ((6, 12, 18, 24), "rates are (6, 12, 18, 24), expected three of them"),
        ((), "rates are (), expected integers from 1"),
        ((0, 12, 24), "rates are (0, 12, 24), expected integers from 1"),
        ((1.5, 12, 24), "rates are (1.5, 12, 24), expected integers from 1"),
        (12, "rates are 12, expected integers from 1"),
    ],
)
def test_bad_rates_are_refused(rates, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AtrousSpatialPyramidPooling(8, 4, rates=rates)
