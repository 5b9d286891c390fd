"""Pyramid pooling against its reference."""

import re

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import PyramidPooling

from ..reference.multi_scale import as_spatial, ppm
from ..reference.transforms import as_transform
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


def make_layer(channels=4, bins=(1, 2, 3, 6), **kwargs):
    return randomised(PyramidPooling(channels, 5, bins=bins, **{"norm": "BN", **kwargs}))


def hide(out, mask):
    return out if mask is None else out.masked_fill(mask.unsqueeze(1), 0)


def assert_is_ppm(layer, feats, mask):
    def reference(wanted, pixels, padding):
        branches = [as_transform(branch) for branch in layer.branches]
        fuse = as_spatial(layer.fuse)
        return ppm(wanted, pixels, padding, feats.shape[2:], layer.bins, branches, fuse)

    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *feats.shape[2:])
    assert torch.equal(feats, before)
    assert_equals_reference([hide(out, mask)], reference, feats, mask)


@pytest.mark.parametrize("size", [*SIZES, (2, 5), (12, 6)])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_paper(size, masked):
    assert_is_ppm(make_layer(), make_feats(size), make_masks(size)[masked])


@pytest.mark.parametrize(
    "kwargs", [{"norm": ""}, {"bins": (1,)}, {"bins": (4, 2), "channels": 5}, {"bins": [1, 9]}]
)
@torch.no_grad()
def test_variants_equal_the_paper(kwargs):
    layer = make_layer(**kwargs)
    feats = make_feats((5, 6), channels=kwargs.get("channels", 4))
    assert_is_ppm(layer, feats, make_masks((5, 6))[1])


@torch.no_grad()
def test_padding_may_be_anywhere():
    size = (6, 7)
    mask = torch.ones(2, *size, dtype=torch.bool)
    mask[0, 2:5, 3:6] = False
    # An L, whose upper right part has nothing.
    mask[1, 1:6, 1] = mask[1, 5, 1:6] = False
    assert_is_ppm(make_layer(), make_feats(size), mask)


@torch.no_grad()
def test_an_image_without_valid_position_gives_finite_numbers():
    layer, mask = make_layer(), make_mask((4, 5), (4, 5), (0, 0))
    feats = make_feats((4, 5))
    out = layer(feats, padding_mask=mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1], layer(feats[:1]), rtol=0, atol=1e-9)


def test_the_defaults_are_the_published_widths():
    layer = PyramidPooling()
    parameters = 4 * (2048 * 512) + 9 * 4096 * 512 + 5 * 2 * 512
    assert sum(p.numel() for p in layer.parameters()) == parameters
    assert isinstance(layer.fuse.norm, nn.SyncBatchNorm)
    # Table 4 of the OCR paper: 23.1 M; 619 G, of the 3x3 convolution alone.
    assert parameters == pytest.approx(23.1e6, rel=0.03)
    assert pytest.approx(619e9, rel=0.03) == 2 * 9 * 4096 * 512 * 128 * 128


@pytest.mark.parametrize("norm", ["", "BN"])
def test_gradcheck(norm):
    gradcheck(make_layer(channels=2, bins=(1, 2), norm=norm), (3, 3))


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
    assert PyramidPooling().dropout.p == 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": ()}, "bins are (), expected different integers from 1"),
        ({"bins": (1, 1)}, "bins are (1, 1), expected different integers from 1"),
        ({"bins": (2, 0)}, "bins are (2, 0), expected different integers from 1"),
        ({"bins": (1.0, 2)}, "bins are (1.0, 2), expected different integers from 1"),
        ({"bins": (True,)}, "bins are (True,), expected different integers from 1"),
        ({"bins": 6}, "bins are 6, expected different integers from 1"),
        ({"in_channels": 3}, "4 bins share 3 channels, expected more"),
        (
            {"in_channels": 128, "norm": "GN"},
            "GroupNorm of 32 groups over 32 channels erases the one part of bin 1, expected more "
            "channels",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PyramidPooling(**arguments)


def test_group_norm_with_more_channels_or_parts_is_taken():
    feats = make_feats((5, 6), channels=128, dtype=torch.float32)
    for bins in ((1, 2), (2, 3, 4, 6)):
        out = PyramidPooling(128, 32, bins=bins, norm="GN")(feats)
        assert out.std() > 0.1
