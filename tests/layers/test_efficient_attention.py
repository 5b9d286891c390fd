"""Efficient attention against its equations, with the pixels added and alone."""

import pytest
import torch

from ocr_panoptic.layers import EfficientAttention

from ..reference.double_attention import efficient_attention
from ..reference.transforms import as_layer
from .test_self_attention import (
    SIZES,
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

both_forms = pytest.mark.parametrize("fuse", [True, False])


def make_layer(fuse, channels=4):
    # All widths differ, so that none can stand for another.
    out_channels = channels if fuse else 5
    layer = EfficientAttention(channels, out_channels, key_channels=2, value_channels=3, fuse=fuse)
    return randomised(layer)


def as_layers(layer):
    return {name: as_layer(getattr(layer, name)) for name in ("query", "key", "value", "output")}


@both_forms
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(fuse, size, masked):
    layer = make_layer(fuse)
    feats, mask = make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 4 if fuse else 5, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return efficient_attention(wanted, pixels, padding, as_layers(layer), fuse)

    assert_equals_reference([out], reference, feats, mask)


@both_forms
def test_gradcheck(fuse):
    gradcheck(make_layer(fuse, channels=3), (2, 4))


@both_forms
@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [((50, 84), (64, 96), 1e6), ((1, 1), (3, 2), 1e6), ((7, 13), (9, 13), -40)],
)
def test_output_does_not_depend_on_padding(fuse, size, padded_size, filling):
    assert_ignores_padding(make_layer(fuse), size, padded_size, filling)


@both_forms
@pytest.mark.parametrize("valid", [[(4, 4), (30, 30)], [(30, 30), (0, 0)]])
def test_trains_on_images_of_all_sizes(fuse, valid):
    assert_trains(make_layer(fuse), (30, 30), *valid)


@both_forms
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
@torch.no_grad()
def test_runs_in_half_precision(fuse, size):
    assert_runs_in_half_precision(make_layer(fuse), size)


def test_an_image_of_padding_has_no_context():
    feats = make_feats((5, 7))
    mask = make_mask((5, 7), (5, 7), (0, 0))
    assert make_layer(False)(feats, padding_mask=mask)[1].count_nonzero() == 0
    assert torch.equal(make_layer(True)(feats, padding_mask=mask)[1], feats[1])


def test_parameters_of_the_published_widths():
    assert sum(p.numel() for p in EfficientAttention().parameters()) == 4 * 512 * 256 + 256
    layer = EfficientAttention(1024, fuse=False)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 1024 * 512 + 512
    assert layer(torch.zeros(1, 1024, 2, 3)).shape == (1, 1024, 2, 3)


def test_pixels_of_other_channels_are_not_added():
    with pytest.raises(ValueError, match="channels of the result are 5, expected 4 as of the pix"):
        EfficientAttention(4, 5)
    assert EfficientAttention(4, 5, fuse=False).out_channels == 5
