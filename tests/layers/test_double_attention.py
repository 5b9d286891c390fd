"""Double attention against its equations, fused with the pixels and alone."""

import pytest
import torch

from ocr_panoptic.layers import DoubleAttention

from ..reference.double_attention import double_attention
from ..reference.transforms import as_layer, as_transform
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


def make_layer(fuse, channels=4, norm="BN"):
    # All widths differ, so that none can stand for another.
    layer = DoubleAttention(channels, 5, num_regions=3, value_channels=2, norm=norm, fuse=fuse)
    return randomised(layer)


def as_layers(layer):
    names = ("gather", "distribute", "value", "output")
    return {
        **{name: as_layer(getattr(layer, name)) for name in names},
        "fuse": None if layer.fuse is None else as_transform(layer.fuse),
    }


@both_forms
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(fuse, size, masked):
    layer = make_layer(fuse)
    feats, mask = make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return double_attention(wanted, pixels, padding, as_layers(layer))

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
    layer = make_layer(False)
    out = layer(make_feats((5, 7)), padding_mask=make_mask((5, 7), (5, 7), (0, 0)))
    assert out[0].abs().max() > 0
    assert out[1].count_nonzero() == 0


def test_parameters_of_the_published_widths():
    context = 512 * 256 + 512 * 64 + (512 * 64 + 64) + 256 * 512
    fused = DoubleAttention()
    assert isinstance(fused.fuse[0].norm, torch.nn.SyncBatchNorm)
    assert sum(p.numel() for p in fused.parameters()) == context + 1024 * 512 + 2 * 512
    alone = DoubleAttention(1024, fuse=False)
    context = 2 * 1024 * 512 + 2 * 1024 * 64 + 64
    assert sum(p.numel() for p in alone.parameters()) == context
    assert alone(torch.zeros(1, 1024, 2, 3)).shape == (1, 1024, 2, 3)


def test_dropout_is_in_the_fused_result_only():
    layer = DoubleAttention(8, norm="", dropout=1.0)
    feats = make_feats((3, 4), channels=8, dtype=torch.float32)
    assert layer(feats).count_nonzero() == 0
    assert layer.eval()(feats).count_nonzero() > 0


def test_a_wrong_number_of_regions_is_refused():
    with pytest.raises(ValueError, match="number of regions is 0, expected at least 1"):
        DoubleAttention(8, num_regions=0)
