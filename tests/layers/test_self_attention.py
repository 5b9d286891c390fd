"""The dense self-attention and the attention itself against their equations.

Also the layers, inputs and checks that the tests of the other context layers share.
"""

import copy
import random

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import SelfAttention, attention
from ocr_panoptic.layers.attention import relation

from ..reference.self_attention import relations as reference_relations
from ..reference.self_attention import stages_at
from ..reference.transforms import as_layer, as_transform, dot, mean, softmax

SIZES = [(1, 1), (7, 13), (45, 45), (50, 84)]


def randomised(layer, gain=1.6):
    """Return a layer in float64 and evaluation mode with random weights, biases and norms.

    With this gain some positions are looked at much more than others, but none alone.
    """
    torch.manual_seed(0)
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=gain * module.in_channels**-0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            # Positive, so that no channel is zero behind every ReLU.
            nn.init.uniform_(module.bias, 0.3, 1.5)
    return layer.double().eval()


def frozen_norms(layer):
    """Return a layer in training mode whose BatchNorms are in evaluation mode."""
    layer.train()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return layer


def make_layer(norm="BN", channels=4, **kwargs):
    # All widths differ, so that none can stand for another.
    widths = {"key_channels": 2, "value_channels": 3, "out_channels": 5}
    return randomised(SelfAttention(channels, norm=norm, **{**widths, **kwargs}))


def make_feats(size, batch=2, channels=4, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator).to(dtype)


def make_mask(size, *valid):
    """Return the padding mask of images of some (height, width) at the top left of a batch."""
    mask = torch.ones(len(valid), *size, dtype=torch.bool)
    for image, (height, width) in zip(mask, valid, strict=True):
        image[:height, :width] = False
    return mask


def make_masks(size):
    """Return no mask, and one that leaves about a third of the second image."""
    return None, make_mask(size, size, (max(1, size[0] * 3 // 5), max(1, size[1] * 4 // 7)))


def as_stage(layer):
    """Return a SelfAttention as the reference wants it."""
    return {
        "query": as_transform(layer.query),
        "key": as_transform(layer.key),
        "value": as_layer(layer.value),
        "output": as_layer(layer.output),
        "relu": layer.output.norm is not None,
    }


def images(feats, mask):
    """Return pixels and padding, as the references want them, of each image of a batch."""
    if mask is None:
        mask = torch.zeros(len(feats), *feats.shape[2:], dtype=torch.bool)
    return [
        (pixels.flatten(1).t().tolist(), padding.flatten().tolist())
        for pixels, padding in zip(feats, mask, strict=True)
    ]


def assert_equals_reference(outputs, reference, feats, mask):
    """Compare outputs with a reference(wanted, pixels, padding); large maps at some positions."""
    count = feats.shape[2] * feats.shape[3]
    wanted = list(range(count))
    if count > 100:
        wanted = [0, count - 1, *random.Random(0).sample(wanted[1:-1], 10)]
    results = [reference(wanted, *image) for image in images(feats, mask)]
    expected = torch.tensor([[result[i] for i in wanted] for result in results], dtype=feats.dtype)
    assert expected.abs().max() > 1e-2
    # Positions differ, so neither zeros nor equal weights would do.
    assert count < 4 or expected.std(dim=1).max() > 1e-3
    for out in outputs:
        found = out.flatten(2)[:, :, wanted].mT
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def assert_ignores_padding(layer, size, padded_size, filling, channels=4):
    """Compare a map alone with the same at the top left of a larger one, full of something."""
    feats = make_feats(size, batch=1, channels=channels)
    padded = torch.full((1, feats.shape[1], *padded_size), float(filling), dtype=feats.dtype)
    padded[..., : size[0], : size[1]] = feats
    mask = make_mask(padded_size, size)
    with torch.no_grad():
        out = layer(padded, padding_mask=mask)[..., : size[0], : size[1]]
        torch.testing.assert_close(out, layer(feats), rtol=0, atol=1e-9)


def assert_trains(layer, size, *valid, channels=4):
    """Take one step's gradients in float32 of images of some sizes; all must be finite."""
    layer = copy.deepcopy(layer).float().train()
    feats = make_feats(size, batch=len(valid), channels=channels, dtype=torch.float32)
    feats.requires_grad_()
    mask = make_mask(size, *valid)
    out = layer(feats, padding_mask=mask)
    assert out.isfinite().all()
    out.masked_fill(mask.unsqueeze(1), 0).square().sum().backward()
    gradients = [feats.grad] + [parameter.grad for parameter in layer.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


def assert_drops_whole_channels(layer):
    """Check a layer with dropout 0.5 and without norms: in training, and in training only."""
    feats = make_feats((3, 4), dtype=torch.float32)
    kept = layer.float().eval()(feats)
    torch.manual_seed(0)
    dropped = layer.train()(feats)
    assert (dropped.flatten(2) == 0).all(dim=2).sum() > (kept.flatten(2) == 0).all(dim=2).sum()
    torch.testing.assert_close(dropped[dropped > 0], 2 * kept[dropped > 0])


def assert_runs_in_half_precision(layer, size, channels=4):
    """Compare bfloat16 under autocast and a float16 layer with float32, with and without mask."""
    for mask in make_masks(size):
        exact = layer.float()
        feats = 0.3 * make_feats(size, channels=channels, dtype=torch.float32)
        expected = exact(feats, padding_mask=mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            brain = exact(feats, padding_mask=mask)
        half = copy.deepcopy(exact).half()(feats.half(), padding_mask=mask)
        assert brain.dtype == torch.bfloat16
        assert half.dtype == torch.float16
        # They keep 8 and 11 bits.
        assert (brain.float() - expected).abs().max() < 0.04 * expected.abs().max()
        assert (half.float() - expected).abs().max() < 0.005 * expected.abs().max()


def gradcheck(layer, size, channels=None):
    """Check gradients of the input and of every parameter, with a padding mask."""
    channels = channels or next(layer.parameters()).shape[1]
    feats = make_feats(size, channels=channels).requires_grad_()
    mask = make_mask(size, size, (size[0] - 1, size[1] - 2))
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def compute(feats, *values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, given, (feats,), {"padding_mask": mask})

    assert torch.autograd.gradcheck(compute, (feats, *parameters))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(size, masked):
    layer = make_layer()
    feats, mask = make_feats(size), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *size)
    assert torch.equal(feats, before)

    def reference(wanted, pixels, padding):
        return stages_at(wanted, pixels, padding, size, (1, 1), [("dense", as_stage(layer))])

    assert_equals_reference([out], reference, feats, mask)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"norm": ""},
        {"transform_layers": 1},
        {"transform_layers": 3},
        {"value_channels": 4, "output_norm": "BN"},
    ],
)
@torch.no_grad()
def test_variants_equal_the_equations(kwargs):
    layer = make_layer(**kwargs)
    feats, mask = make_feats((5, 6)), make_masks((5, 6))[1]

    def reference(wanted, pixels, padding):
        return stages_at(wanted, pixels, padding, (5, 6), (1, 1), [("dense", as_stage(layer))])

    assert_equals_reference([layer(feats, padding_mask=mask)], reference, feats, mask)


def test_parameters_of_the_published_widths():
    transforms = 2 * (512 * 256 + 256 * 256 + 2 * 2 * 256)
    paper = SelfAttention(512)
    assert sum(p.numel() for p in paper.parameters()) == transforms + 2 * 512 * 256
    assert isinstance(paper.query[1].norm, nn.SyncBatchNorm)
    code = SelfAttention(512, value_channels=512, norm="BN", output_norm="BN")
    expected = transforms + 2 * 512 * 512 + 2 * 512
    assert sum(p.numel() for p in code.parameters()) == expected


@pytest.mark.parametrize("kwargs", [{"norm": ""}, {"norm": "BN", "output_norm": "BN"}])
def test_gradcheck(kwargs):
    gradcheck(make_layer(channels=3, **kwargs), (2, 4))


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
    assert_trains(make_layer(), (50, 50), *valid)


@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
def test_runs_in_half_precision(size):
    assert_runs_in_half_precision(make_layer(), size)


@pytest.mark.parametrize("masked", [False, True])
def test_relation_equals_the_equations(masked):
    layer, size = make_layer(), (4, 5)
    feats, mask = make_feats(size), make_masks(size)[masked]
    expected = torch.tensor(
        [
            reference_relations(*image, size, (1, 1), [("dense", as_stage(layer))])[0]
            for image in images(feats, mask)
        ],
        dtype=torch.float64,
    )
    for row, column in [(0, 0), (1, 3), (3, 4)]:
        weights = layer.relation(feats, (row, column), mask)
        torch.testing.assert_close(weights.flatten(1), expected[:, row * 5 + column])
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2).double())
        assert weights.std() > 1e-2
        assert not weights.requires_grad
        assert mask is None or weights[mask].count_nonzero() == 0


def test_attention_equals_its_equation():
    query, key = make_feats((4,), channels=3), make_feats((5,), channels=3, seed=2)
    value = make_feats((5,), channels=2, seed=3)
    query, key, value = query.mT, key.mT, value.mT
    mask = torch.tensor([[False, True, False, False, True], [False] * 5])
    for used in (None, mask):
        out, weights = attention(query, key, value, used), relation(query, key, used)
        for n, i in [(0, 0), (0, 3), (1, 2)]:
            seen = [j for j in range(5) if used is None or not used[n, j]]
            expected = softmax([dot(query[n, i], key[n, j]) / 3**0.5 for j in seen])
            torch.testing.assert_close(weights[n, i, seen].tolist(), expected)
            torch.testing.assert_close(weights[n, i].sum().item(), 1.0)
            expected = mean(expected, [value[n, j].tolist() for j in seen], 2)
            torch.testing.assert_close(out[n, i].tolist(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_attention_to_padding_only_is_zero(dtype, factor):
    tensors = [factor * make_feats((5,), channels=3, dtype=dtype, seed=n).mT for n in range(3)]
    query, key, value = (tensor.detach().requires_grad_() for tensor in tensors)
    mask = torch.tensor([[True] * 5, [False, True, False, False, True]])
    out = attention(query, key, value, mask)
    assert out[0].count_nonzero() == 0
    assert out[1].count_nonzero() == out[1].numel()
    out.sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad.isfinite().all()
        assert tensor.grad[0].count_nonzero() == 0
    assert value.grad[1, [1, 4]].count_nonzero() == 0
    # Every query's weights sum to 1.
    torch.testing.assert_close(value.grad[1].sum(0).tolist(), [5.0] * 3)
    assert relation(query, key, mask)[0].count_nonzero() == 0


@pytest.mark.parametrize("masked", [False, True])
def test_attention_does_not_overflow_in_half_precision(masked):
    # 17 * 17 * 256 = 73984 is above the largest half; over the root of 256 it is not.
    query = torch.full((1, 3, 256), 17.0, dtype=torch.float16)
    key = query.clone()
    key[:, 0] -= 1 / 16
    # As wide as the keys and contiguous, so that torch takes its fused kernel.
    value = make_feats((256,), batch=1, channels=3, dtype=torch.float16)
    mask = torch.tensor([[False, False, True]]) if masked else None
    exact = attention(query.float(), key.float(), value.float(), mask)
    torch.testing.assert_close(attention(query, key, value, mask).float(), exact, atol=1e-2, rtol=0)
    weights = relation(query, key, mask).float()
    exact = relation(query.float(), key.float(), mask)
    torch.testing.assert_close(weights, exact, atol=1e-2, rtol=0)
