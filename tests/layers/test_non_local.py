"""The non-local block against its equations, with maxima of keys and values and without."""

import pytest
import torch

from ocr_panoptic.layers import NonLocal

from ..reference.self_attention import non_local, non_local_relation
from ..reference.transforms import as_layer
from .test_self_attention import (
    SIZES,
    assert_equals_reference,
    assert_ignores_padding,
    assert_runs_in_half_precision,
    assert_trains,
    gradcheck,
    images,
    make_feats,
    make_mask,
    make_masks,
    randomised,
)

subsampling = pytest.mark.parametrize("subsample", [False, True])


def make_layer(subsample, channels=4, key_channels=3, **kwargs):
    layer = NonLocal(channels, 5, key_channels=key_channels, subsample=subsample, **kwargs)
    return randomised(layer)


def as_layers(layer):
    return {name: as_layer(getattr(layer, name)) for name in ("query", "key", "value", "output")}


@subsampling
@pytest.mark.parametrize("size", [*SIZES, (1, 2), (4, 6)])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(subsample, size, masked):
    layer = make_layer(subsample)
    feats, mask = make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return non_local(wanted, pixels, padding, size, as_layers(layer), subsample)

    assert_equals_reference([out], reference, feats, mask)


@subsampling
def test_gradcheck(subsample):
    gradcheck(make_layer(subsample, channels=3), (3, 5))


@subsampling
@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [
        ((50, 84), (64, 96), 1e6),
        ((1, 1), (4, 3), 1e6),
        ((7, 13), (12, 16), 1e6),
        ((7, 12), (8, 12), 1e6),
        ((7, 13), (8, 14), -1e6),
    ],
)
def test_output_does_not_depend_on_padding(subsample, size, padded_size, filling):
    assert_ignores_padding(make_layer(subsample), size, padded_size, filling)


@subsampling
@pytest.mark.parametrize("valid", [[(4, 4), (50, 50)], [(50, 50), (0, 0)]])
def test_trains_on_images_of_all_sizes(subsample, valid):
    assert_trains(make_layer(subsample), (50, 50), *valid)


@subsampling
def test_an_image_of_padding_has_no_gradient(subsample):
    layer = make_layer(subsample)
    feats = make_feats((5, 7)).requires_grad_()
    out = layer(feats, padding_mask=make_mask((5, 7), (5, 7), (0, 0)))
    assert out[1].count_nonzero() == 0
    out.square().sum().backward()
    assert feats.grad[0].abs().max() > 0
    assert feats.grad[1].count_nonzero() == 0


@subsampling
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
@torch.no_grad()
def test_runs_in_half_precision(subsample, size):
    assert_runs_in_half_precision(make_layer(subsample), size)


@subsampling
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
@pytest.mark.parametrize("masked", [False, True])
def test_relation_equals_the_equations(subsample, size, masked):
    layer = make_layer(subsample)
    feats, mask = make_feats(size), make_masks(size)[masked]
    for row, column in [(0, 0), (2, 3), (size[0] - 1, size[1] - 1)]:
        weights = layer.relation(feats, (row, column), mask)
        i = row * size[1] + column
        expected = [
            non_local_relation(i, *image, size, as_layers(layer), subsample)
            for image in images(feats, mask)
        ]
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(weights.flatten(1), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2).double())
        assert weights.std() > 1e-3
        assert not weights.requires_grad
        assert mask is None or weights[mask].count_nonzero() == 0


@subsampling
def test_relation_of_padding_only_is_zero(subsample):
    mask = make_mask((5, 7), (0, 0), (5, 7))
    weights = make_layer(subsample).relation(make_feats((5, 7)), (0, 0), mask)
    assert weights[0].count_nonzero() == 0
    torch.testing.assert_close(weights[1].sum().item(), 1.0)


def test_parameters_of_the_published_widths():
    # Sec. 3.3: half the channels inside; the query's bias is the only one.
    layer = NonLocal(1024)
    assert layer.subsample
    assert sum(p.numel() for p in layer.parameters()) == 4 * 1024 * 512 + 512
    assert layer(torch.zeros(1, 1024, 2, 3)).shape == (1, 1024, 2, 3)
