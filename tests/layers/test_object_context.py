"""The fusion of a map with its context against the same by hand."""

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import BaseOC, SelfAttention

from ..reference.transforms import as_layer, transform
from .test_self_attention import (
    assert_ignores_padding,
    assert_trains,
    images,
    make_feats,
    make_masks,
    randomised,
)


def make_layer(**kwargs):
    context = SelfAttention(4, 3, norm="BN")
    return randomised(BaseOC(context, 4, 3, 5, norm="BN", **kwargs))


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_fuses_the_input_with_its_context(masked):
    size, layer = (4, 5), make_layer()
    feats, mask = make_feats(size), make_masks(size)[masked]
    out = layer(feats, padding_mask=mask)
    both = zip(
        images(feats, None), images(layer.context(feats, padding_mask=mask), None), strict=True
    )
    fuse = [as_layer(layer.fuse[0])]
    expected = [
        [transform(fuse, pixel + around) for pixel, around in zip(pixels, contexts, strict=True)]
        for (pixels, _), (contexts, _) in both
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert expected.abs().max() > 0.1
    assert len(layer.fuse) == 1
    torch.testing.assert_close(out.flatten(2).mT, expected, rtol=0, atol=1e-9)


def test_passes_the_padding_mask_on():
    class Context(nn.Module):
        def forward(self, feats, *, padding_mask=None):
            self.given = padding_mask
            return feats

    layer = BaseOC(Context(), 4, 4, 5, norm="")
    mask = make_masks((3, 4))[1]
    feats = make_feats((3, 4), dtype=torch.float32)
    layer(feats, padding_mask=mask)
    assert layer.context.given is mask
    layer(feats)
    assert layer.context.given is None


@pytest.mark.parametrize("filling", [-40, 1e6])
def test_output_does_not_depend_on_padding(filling):
    assert_ignores_padding(make_layer(), (5, 7), (8, 9), filling)


def test_trains_on_images_of_all_sizes():
    assert_trains(make_layer(dropout=0.0), (50, 50), (4, 4), (50, 50))


def test_drops_whole_channels_in_training_only():
    layer = BaseOC(nn.Identity(), 4, 4, 64, dropout=0.5, norm="")
    layer.context.forward = lambda feats, padding_mask=None: feats
    nn.init.uniform_(layer.fuse[0].weight, 0.1, 1.0)
    feats = make_feats((3, 4), dtype=torch.float32).abs()
    kept = layer.eval()(feats)
    assert kept.count_nonzero() == kept.numel()
    torch.manual_seed(0)
    dropped = layer.train()(feats)
    channels = dropped.flatten(2).count_nonzero(dim=2)
    assert set(channels.flatten().tolist()) == {0, 12}
    torch.testing.assert_close(dropped[dropped > 0], 2 * kept[dropped > 0])


def test_default_dropout_is_the_authors():
    assert BaseOC(nn.Identity()).dropout.p == 0.05
