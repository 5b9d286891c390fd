"""Dual attention against its equations, as the whole head and alone."""

import pytest
import torch

from ocr_panoptic.layers import DANet
from ocr_panoptic.layers import danet as module

from ..reference.danet import danet
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
    make_masks,
    randomised,
)

SIZES = [(1, 1), (1, 6), (7, 13), (14, 19)]
BRANCHES = ("position_before", "position_after", "channel_before", "channel_after")

both_forms = pytest.mark.parametrize("fuse", [True, False])


def make_layer(fuse, norm="BN", channels=4, inside=3):
    # All widths differ, so that none can stand for another.
    widths = {"out_channels": 2 + inside, "channels": inside, "norm": norm} if fuse else {}
    layer = randomised(DANet(channels, key_channels=2, fuse=fuse, **widths), gain=1.2)
    torch.nn.init.constant_(layer.position.alpha, 0.7)
    torch.nn.init.constant_(layer.channel.beta, 1.3)
    if fuse:
        # Small numbers: else each channel would look at one channel only.
        for parameter in layer.channel_before.norm.parameters():
            parameter.data *= 0.1
    return layer


def as_layers(layer):
    layers = {name: as_layer(getattr(layer.position, name)) for name in ("query", "key", "value")}
    if layer.fuse:
        layers |= {name: as_local_layer(getattr(layer, name)) for name in BRANCHES}
    return layers


@both_forms
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(fuse, size, masked, monkeypatch):
    layer = make_layer(fuse)
    feats, mask = (1.0 if fuse else 0.1) * make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    monkeypatch.setattr(module, "TILE", 5)
    tiled = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5 if fuse else 4, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return danet(pixels, padding, size, as_layers(layer), 0.7, 1.3)

    assert_equals_reference([out, tiled], reference, feats, mask)


@torch.no_grad()
def test_a_channel_takes_from_those_least_like_it():
    layer = make_layer(False)
    layer.position.alpha.fill_(0)
    layer.channel.beta.fill_(1)
    feats = torch.ones(1, 4, 10, 10, dtype=torch.float64)
    feats[0, 3] = -1
    out = layer(feats)
    torch.testing.assert_close(out[0, :3], torch.full((3, 10, 10), -1.0).double())
    torch.testing.assert_close(out[0, 3], torch.ones(10, 10).double())


@both_forms
def test_gradcheck(fuse):
    gradcheck(make_layer(fuse, channels=2, inside=2), (2, 4), channels=2)


@both_forms
@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [((20, 33), (32, 40), 1e6), ((1, 1), (3, 2), 1e6), ((7, 13), (9, 13), -40)],
)
def test_output_does_not_depend_on_padding(fuse, size, padded_size, filling):
    assert_ignores_padding(make_layer(fuse), size, padded_size, filling)


@both_forms
@pytest.mark.parametrize("valid", [[(4, 4), (20, 20)], [(20, 20), (0, 0)]])
def test_trains_on_images_of_all_sizes(fuse, valid):
    assert_trains(make_layer(fuse), (20, 20), *valid)


@both_forms
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
@torch.no_grad()
def test_runs_in_half_precision(fuse, size):
    assert_runs_in_half_precision(make_layer(fuse), size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_channel_attention_is_exact_where_16_bits_cannot_hold_its_sums(dtype):
    # 2048 positions of about 8 * 8: sums of 131072, above the largest half, which differ by 1.
    layer = DANet(3, key_channels=2, fuse=False)
    layer.position.alpha.fill_(0)
    feats = torch.full((1, 3, 32, 64), 8.0)
    feats[0, 1, 0, 0] += 1 / 16
    feats[0, 2, 0, 1] -= 1 / 16
    expected = layer(feats)
    assert expected.isfinite().all()
    found = layer.to(dtype)(feats.to(dtype))
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=0)
    weights = torch.bmm(feats.flatten(2), feats.flatten(2).mT).neg().softmax(2)
    assert 0.05 < weights.min() < weights.max() < 0.9


@torch.no_grad()
def test_the_attentions_do_nothing_at_the_start():
    layer = DANet(4, 5, channels=3, norm="BN").eval()
    feats = make_feats((5, 6), dtype=torch.float32)
    position = layer.position_after(layer.position_before(feats))
    channel = layer.channel_after(layer.channel_before(feats))
    assert torch.equal(layer(feats), position + channel)
    # Behind a norm that starts at zero, another zero would stay for ever.
    alone = DANet(4, fuse=False)
    assert alone.position.alpha == alone.channel.beta == 1


def test_all_of_it_learns():
    torch.manual_seed(0)
    assert_all_learn_within(2, DANet(4, 5, channels=16, norm="BN"), channels=4)


def test_parameters_of_the_published_widths():
    attention = 2 * 512 * 64 + 64 + 512 * 512 + 2
    convs = 2 * 9 * (2048 * 512 + 512 * 512) + 4 * 2 * 512
    layer = DANet()
    assert layer.out_channels == 512
    assert isinstance(layer.position_before.norm, torch.nn.SyncBatchNorm)
    assert sum(p.numel() for p in layer.parameters()) == convs + attention
    alone = DANet(1024, fuse=False)
    expected = 2 * 1024 * 128 + 128 + 1024 * 1024 + 2
    assert sum(p.numel() for p in alone.parameters()) == expected
    assert alone(torch.zeros(1, 1024, 2, 3)).shape == (1, 1024, 2, 3)


@pytest.mark.parametrize("kwargs", [{"out_channels": 5}, {"channels": 5}])
def test_a_context_of_other_channels_is_refused(kwargs):
    with pytest.raises(ValueError, match="and 5, expected 4 as of the input, which looks itself"):
        DANet(4, fuse=False, **kwargs)
