"""Recurrent criss-cross attention against its equations, as the whole head and alone."""

import pytest
import torch

from ocr_panoptic.layers import CrissCrossAttention

from ..reference.criss_cross import criss_cross, cross_of
from ..reference.local import as_local_layer
from ..reference.transforms import as_layer
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

SIZES = [(1, 1), (1, 6), (5, 1), (7, 13), (18, 23)]

both_forms = pytest.mark.parametrize("fuse", [True, False])


def make_layer(fuse, recurrence=2, norm="BN", channels=4, inside=3):
    # All widths differ, so that none can stand for another.
    widths = {"out_channels": 2 + inside, "channels": inside, "norm": norm} if fuse else {}
    layer = CrissCrossAttention(
        channels, key_channels=2, recurrence=recurrence, fuse=fuse, **widths
    )
    layer = randomised(layer, gain=1.2)
    torch.nn.init.constant_(layer.gamma, 0.7)
    return layer


def as_layers(layer):
    layers = {name: as_layer(getattr(layer.attention, name)) for name in ("query", "key", "value")}
    if layer.fuse is not None:
        for name in ("before", "after", "fuse"):
            layers[name] = as_local_layer(getattr(layer, name))
    return layers


def assert_all_learn_within(steps, layer, channels):
    """Take steps of gradient descent from the start; by then no gradient may be zero."""
    layer = layer.double().train()
    feats = make_feats((6, 7), channels=channels)
    target = make_feats((6, 7), channels=layer.out_channels, seed=2)
    for _ in range(steps):
        layer.zero_grad()
        (layer(feats) - target).square().mean().backward()
        gradients = {name: p.grad.abs().max().item() for name, p in layer.named_parameters()}
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 0.1 * parameter.grad
    assert min(gradients.values()) > 1e-12, gradients


@both_forms
@pytest.mark.parametrize("recurrence", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(fuse, recurrence, size, masked):
    layer = make_layer(fuse, recurrence)
    feats, mask = make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5 if fuse else 4, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return criss_cross(pixels, padding, size, as_layers(layer), 0.7, recurrence)

    assert_equals_reference([out], reference, feats, mask)


@torch.no_grad()
def test_a_mask_anywhere_equals_the_equations():
    layer, size = make_layer(True), (6, 7)
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[1, 2] = mask[1, :, 3] = True  # one pixel sees nothing
    feats = make_feats(size)

    def reference(wanted, pixels, padding):
        return criss_cross(pixels, padding, size, as_layers(layer), 0.7, 2)

    assert_equals_reference([layer(feats, padding_mask=mask)], reference, feats, mask)


@pytest.mark.parametrize("recurrence", [1, 2])
def test_one_round_sees_a_cross_and_two_see_everything(recurrence):
    layer, size = make_layer(False, recurrence), (4, 5)
    feats = make_feats(size, batch=1).requires_grad_()
    layer(feats)[0, :, 1, 2].sum().backward()
    seen = set(feats.grad[0].abs().sum(0).flatten().nonzero().flatten().tolist())
    assert seen == (set(cross_of(7, size)) if recurrence == 1 else set(range(20)))
    assert len(cross_of(7, size)) == 4 + 5 - 1


@torch.no_grad()
def test_the_pixel_counts_once():
    # All scores are equal, so each of H + W - 1 positions has the same weight.
    layer = make_layer(False, recurrence=1)
    for conv in (layer.attention.query, layer.attention.key):
        torch.nn.init.zeros_(conv.weight)
    layer.gamma.fill_(1.0)
    feats = torch.zeros(1, 4, 3, 5, dtype=torch.float64)
    feats[0, :, 1, 2] = 1
    share = layer(feats)[0, :, 1, 2] / layer.attention.value(feats)[0, :, 1, 2]
    torch.testing.assert_close(share, torch.full((4,), 1 / 7).double())


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


@torch.no_grad()
def test_does_not_overflow_in_half_precision():
    # 64 * 40 * 40 is above the largest half.
    layer = CrissCrossAttention(64, key_channels=64, recurrence=1, fuse=False)
    for conv in (layer.attention.query, layer.attention.key):
        conv.weight.copy_(torch.eye(64).view(64, 64, 1, 1))
    feats = torch.full((1, 64, 2, 3), 40.0)
    feats[0, :, 1, 1] += 1 / 32
    expected, found = layer(feats), layer.half()(feats.half())
    assert found.isfinite().all()
    assert (found.float() - expected).abs().max() < 0.005 * expected.abs().max()


@torch.no_grad()
def test_the_attention_does_nothing_at_the_start():
    layer = CrissCrossAttention(4, 5, channels=3, norm="BN").eval()
    feats = make_feats((5, 6), dtype=torch.float32)
    expected = layer.after(layer.before(feats))
    expected = layer.fuse(torch.cat([feats, expected], dim=1))
    assert torch.equal(layer(feats), expected)
    # Behind a norm that starts at zero, another zero would stay for ever.
    assert CrissCrossAttention(4, fuse=False).gamma == 1


def test_all_of_it_learns():
    torch.manual_seed(0)
    assert_all_learn_within(2, CrissCrossAttention(4, 5, channels=16, norm="BN"), channels=4)


def test_parameters_of_the_published_widths():
    attention = 2 * 512 * 64 + 64 + 512 * 512 + 1
    convs = 9 * (2048 * 512 + 512 * 512 + (2048 + 512) * 512) + 3 * 2 * 512
    layer = CrissCrossAttention()
    assert layer.recurrence == 2
    assert layer.out_channels == 512
    assert isinstance(layer.fuse.norm, torch.nn.SyncBatchNorm)
    assert sum(p.numel() for p in layer.parameters()) == convs + attention
    alone = CrissCrossAttention(1024, fuse=False)
    expected = 2 * 1024 * 128 + 128 + 1024 * 1024 + 1
    assert sum(p.numel() for p in alone.parameters()) == expected
    assert alone(torch.zeros(1, 1024, 2, 3)).shape == (1, 1024, 2, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"recurrence": 0}, "recurrence is 0, expected an integer from 1"),
        ({"recurrence": 1.5}, "recurrence is 1.5, expected an integer from 1"),
        ({"out_channels": 5, "fuse": False}, "inside are 5 and 5, expected 4 as of the input"),
        ({"channels": 5, "fuse": False}, "inside are 4 and 5, expected 4 as of the input"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CrissCrossAttention(4, **kwargs)
