"""Compact generalized non-local against all pairs written out, fused and alone."""

import pytest
import torch

from ocr_panoptic.layers import CompactGeneralizedNonLocal

from ..reference.cgnl import cgnl
from ..reference.local import as_local_layer
from ..reference.transforms import as_layer
from .test_criss_cross import assert_all_learn_within
from .test_self_attention import (
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

SIZES = [(1, 1), (1, 6), (7, 13), (12, 9)]

both_forms = pytest.mark.parametrize("fuse", [True, False])


def make_layer(fuse, groups=2, norm="BN"):
    # All widths differ, so that none can stand for another.
    layer = CompactGeneralizedNonLocal(
        4, 5 if fuse else 6, key_channels=2, groups=groups, norm=norm, fuse=fuse
    )
    return randomised(layer)


def as_layers(layer):
    layers = {name: as_layer(getattr(layer, name)) for name in ("query", "key", "value")}
    layers["output"] = layer.output.weight.flatten(1).tolist()
    if layer.fuse is not None:
        layers["fuse"] = as_local_layer(layer.fuse)
    return layers


def norm_of(layer):
    if layer.fuse is None:
        return None
    return layer.norm.weight.tolist(), layer.norm.bias.tolist(), layer.norm.eps


@both_forms
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(fuse, groups, size, masked):
    layer = make_layer(fuse, groups)
    feats, mask = make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5 if fuse else 6, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return cgnl(pixels, padding, size, as_layers(layer), groups, norm_of(layer))

    assert_equals_reference([out], reference, feats, mask)


@both_forms
def test_gradcheck(fuse):
    gradcheck(make_layer(fuse), (2, 4))


@both_forms
@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [((50, 84), (64, 96), 1e3), ((1, 1), (3, 2), 1e3), ((7, 13), (9, 13), -40)],
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


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_does_not_overflow_in_half_precision(masked):
    # A sum of 150 * 150 * 16 products of about 1, and its length, are above the largest half.
    torch.manual_seed(0)
    layer = CompactGeneralizedNonLocal(16, key_channels=16, groups=1, fuse=False)
    layer.value.weight.copy_(layer.key.weight)
    size = (150, 150)
    mask = make_mask(size, (150, 149)) if masked else None
    feats = make_feats(size, batch=1, channels=16, dtype=torch.float32)
    expected = layer(feats, padding_mask=mask)
    found = layer.half()(feats.half(), padding_mask=mask)
    assert found.isfinite().all()
    assert (found.float() - expected).abs().max() < 0.005 * expected.abs().max()


@torch.no_grad()
def test_an_image_of_padding_has_no_context():
    layer = make_layer(False)
    feats = make_feats((5, 7))
    out = layer(feats, padding_mask=make_mask((5, 7), (5, 7), (0, 0)))
    assert out[0].abs().max() > 0
    assert out[1].count_nonzero() == 0


@torch.no_grad()
def test_the_block_does_nothing_at_the_start():
    layer = CompactGeneralizedNonLocal(16, norm="BN").eval()
    feats = make_feats((5, 6), channels=16, dtype=torch.float32)
    assert torch.equal(layer(feats), layer.fuse(feats))


def test_all_of_it_learns():
    torch.manual_seed(0)
    layer = CompactGeneralizedNonLocal(4, 5, groups=2, norm="BN")
    assert_all_learn_within(2, layer, channels=4)


@torch.no_grad()
def test_group_norm_leaves_the_sign_of_what_was_seen():
    # As the docstring says, in the fused form.
    layer = make_layer(True)
    feats = make_feats((5, 6))
    expected = layer(feats)
    layer.norm.eps = 0.0
    exact = layer(feats)
    layer.value.weight *= 100
    torch.testing.assert_close(layer(feats), exact)
    layer.value.weight *= -1
    assert (layer(feats) - expected).abs().max() > 0.1


def test_parameters_of_the_published_widths():
    context = 3 * 512 * 256 + 512 * 256 // 8
    layer = CompactGeneralizedNonLocal()
    assert layer.groups == layer.norm.num_groups == 8
    assert isinstance(layer.fuse.norm, torch.nn.SyncBatchNorm)
    expected = context + 2 * 512 + 9 * 512 * 512 + 2 * 512
    assert sum(p.numel() for p in layer.parameters()) == expected
    alone = CompactGeneralizedNonLocal(1024, fuse=False)
    assert sum(p.numel() for p in alone.parameters()) == 3 * 1024 * 512 + 1024 * 512 // 8
    assert alone(torch.zeros(1, 1024, 2, 3)).shape == (1, 1024, 2, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"groups": 0}, "4 channels inside and 8 of the context in 0 groups"),
        ({"groups": 3, "key_channels": 6}, "6 channels inside and 8 of the context in 3 groups"),
        ({"groups": 4, "key_channels": 6}, "6 channels inside and 8 of the context in 4 groups"),
    ],
)
def test_groups_that_do_not_divide_the_channels_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=f"{message}, expected multiples of their number"):
        CompactGeneralizedNonLocal(8, **kwargs)
