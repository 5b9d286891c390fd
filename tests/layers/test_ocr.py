"""The OCR layer against its equations, and its inference form against its training form."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ocr_panoptic.layers import OCRModule, soft_object_regions

from ..reference.ocr import ocr as reference_ocr

SIZES = [(1, 1), (1, 7), (5, 3), (7, 13)]
NORMS = ["BN", "GN", "LN", ""]


def make_layer(norm="BN", channels=6, key_channels=4, seed=0, **kwargs):
    """Return a layer in float64 and evaluation mode whose norms are not the identity."""
    torch.manual_seed(seed)
    if norm == "GN":  # get_norm's GroupNorm has 32 groups
        channels, key_channels = 64, 128
    layer = OCRModule(channels, key_channels, channels, norm=norm, **kwargs).double().eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return layer


def make_input(size, batch=1, num_regions=5, channels=6, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(batch, channels, *size, dtype=dtype, generator=generator)
    logits = 3 * torch.randn(batch, num_regions, *size, dtype=dtype, generator=generator)
    return feats, logits


def as_lists(transform):
    """Return a transform as the reference wants it: weight, scale and shift of each convolution."""
    layers = []
    for conv in transform:
        weight = conv.weight.flatten(1).tolist()
        norm = conv.norm
        if norm is None:
            layers.append((weight, [1.0] * len(weight), conv.bias.tolist()))
            continue
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        layers.append((weight, scale.tolist(), (norm.bias - norm.running_mean * scale).tolist()))
    return layers


def run_reference(layer, feats, logits, padding_mask=None):
    batch, _, height, width = feats.shape
    if padding_mask is None:
        padding_mask = torch.zeros(batch, height, width, dtype=torch.bool)
    names = ("query", "key", "value", "output", "fuse")
    transforms = {name: as_lists(getattr(layer, name)) for name in names}
    out = [
        reference_ocr(
            feats[n].flatten(1).t().tolist(),
            logits[n].flatten(1).tolist(),
            padding_mask[n].flatten().tolist(),
            **transforms,
        )
        for n in range(batch)
    ]
    out = torch.tensor(out, dtype=torch.float64)
    return out.transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("form", ["textbook", "folded", "forward"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("batch", "num_regions"), [(1, 1), (1, 5), (3, 4)])
@pytest.mark.parametrize("norm", ["BN", ""])
def test_equals_the_equations(form, size, batch, num_regions, norm):
    layer = make_layer(norm)
    feats, logits = make_input(size, batch, num_regions)
    out = getattr(layer, form)(feats, logits)
    expected = run_reference(layer, feats, logits)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["textbook", "folded"])
@pytest.mark.parametrize("transform_layers", [1, 2, 3])
def test_equals_the_equations_with_padding(form, transform_layers):
    layer = make_layer(transform_layers=transform_layers)
    feats, logits = make_input((5, 7), batch=3)
    padding_mask = torch.zeros(3, 5, 7, dtype=torch.bool)
    padding_mask[0, 3:] = True
    padding_mask[1, :, 2:] = True
    out = getattr(layer, form)(feats, logits, padding_mask)
    expected = run_reference(layer, feats, logits, padding_mask)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    unmasked = getattr(layer, form)(feats, logits)
    assert (unmasked - expected)[0].abs().max() > 1e-3


@pytest.mark.parametrize("form", ["textbook", "folded"])
def test_no_valid_position_gives_finite_output_and_gradients(form):
    layer = make_layer()
    feats, logits = make_input((3, 4), batch=2)
    feats.requires_grad_()
    logits.requires_grad_()
    padding_mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding_mask[1] = True
    assert torch.equal(soft_object_regions(logits, padding_mask)[1], torch.zeros(5, 3, 4))
    out = getattr(layer, form)(feats, logits, padding_mask)
    expected = run_reference(layer, feats, logits, padding_mask)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    out.square().sum().backward()
    assert feats.grad.isfinite().all()
    assert logits.grad.isfinite().all()
    assert logits.grad[1].count_nonzero() == 0
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("form", ["textbook", "folded"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(form, masked):
    layer = make_layer(channels=4, key_channels=3)
    feats, logits = make_input((2, 3), batch=2, num_regions=3, channels=4)
    padding_mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    padding_mask[0, :, 2] = masked
    inputs = (feats.requires_grad_(), logits.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda feats, logits: getattr(layer, form)(feats, logits, padding_mask), inputs
    )


def test_gradcheck_of_parameters():
    layer = make_layer(channels=3, key_channels=2)
    feats, logits = make_input((2, 3), num_regions=2, channels=3)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(*values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, given, (feats, logits))

    assert torch.autograd.gradcheck(run, parameters)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@torch.no_grad()
def test_inference_form_equals_training_form(norm, batch, memory_format, dtype, tolerance):
    layer = make_layer(norm).to(dtype)
    channels = layer.query[0].in_channels
    feats, logits = make_input((9, 11), batch, 7, channels, dtype=dtype)
    feats = feats.contiguous(memory_format=memory_format)
    padding_mask = torch.zeros(batch, 9, 11, dtype=torch.bool)
    padding_mask[0, 7:] = True
    before = feats.clone()
    expected = layer.textbook(feats, logits, padding_mask)
    difference = (layer(feats, logits, padding_mask) - expected).abs().max()
    assert difference <= tolerance * expected.abs().max()
    assert torch.equal(feats, before)


def test_group_norm_does_not_mix_regions():
    layer = make_layer("GN")
    feats, logits = make_input((4, 5), num_regions=3, channels=64)
    _, relations = layer.regions_and_relations(feats, logits)
    other = logits.clone()
    other[:, 2] = -logits[:, 2]
    _, other_relations = layer.regions_and_relations(feats, other)
    # Relations to regions 0 and 1 keep their ratio when only region 2 changes.
    torch.testing.assert_close(
        relations[:, 0] / relations[:, 1], other_relations[:, 0] / other_relations[:, 1]
    )
    assert not torch.allclose(relations[:, 2], other_relations[:, 2])


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    below=st.integers(0, 5),
    right=st.integers(0, 5),
    filling=st.sampled_from([0.0, 1.0, -40.0, 1000.0]),
    form=st.sampled_from(["textbook", "folded"]),
)
def test_output_does_not_depend_on_padding(height, width, below, right, filling, form):
    layer = make_layer()
    feats, logits = make_input((height, width))
    alone = getattr(layer, form)(feats, logits)

    def pad(tensor):
        return nn.functional.pad(tensor, (0, right, 0, below), value=filling)

    padding_mask = torch.ones(1, height + below, width + right, dtype=torch.bool)
    padding_mask[:, :height, :width] = False
    padded = getattr(layer, form)(pad(feats), pad(logits), padding_mask)
    torch.testing.assert_close(padded[:, :, :height, :width], alone, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), num_regions=st.integers(1, 9))
def test_regions_and_relations_are_distributions(height, width, num_regions):
    layer = make_layer()
    feats, logits = make_input((height, width), 2, num_regions)
    regions, relations = layer.regions_and_relations(feats, logits)
    assert regions.shape == relations.shape == logits.shape
    assert (regions >= 0).all()
    assert (relations >= 0).all()
    torch.testing.assert_close(regions.sum((2, 3)), torch.ones(2, num_regions).double())
    torch.testing.assert_close(relations.sum(1), torch.ones(2, height, width).double())


def test_one_region_gives_every_pixel_the_same_context():
    layer = make_layer()
    feats, logits = make_input((4, 6), num_regions=1)
    _, relations = layer.regions_and_relations(feats, logits)
    assert torch.equal(relations, torch.ones_like(relations))


def test_training_form_differs_only_by_batch_statistics_and_dropout():
    layer = make_layer(dropout=0.5)
    feats, logits = make_input((6, 6), batch=2)
    layer.train()
    torch.manual_seed(0)
    dropped = layer(feats, logits)
    # Dropout2d drops whole channels.
    channels = dropped.flatten(2).abs().sum(2)
    assert 0 < (channels == 0).sum() < channels.numel()
    layer.dropout.p = 0.0
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(layer(feats, logits), layer.folded(feats, logits))


def test_regions_are_not_detached():
    layer = make_layer().train()
    feats, logits = make_input((6, 6), batch=2)
    logits.requires_grad_()
    layer(feats, logits).sum().backward()
    assert logits.grad.abs().max() > 0


def test_every_parameter_learns():
    layer = make_layer(dropout=0.0).train()
    feats, logits = make_input((8, 8), batch=4)
    layer(feats, logits).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


def test_traces_with_other_sizes_afterwards():
    layer = make_layer()
    traced = torch.jit.trace(
        layer, (*make_input((4, 5)), torch.zeros(1, 4, 5, dtype=torch.bool)), check_trace=False
    )
    feats, logits = make_input((7, 6), seed=3)
    padding_mask = torch.zeros(1, 7, 6, dtype=torch.bool)
    padding_mask[:, 5:] = True
    torch.testing.assert_close(
        traced(feats, logits, padding_mask), layer(feats, logits, padding_mask)
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_runs_under_autocast(mode):
    layer = make_layer(dropout=0.0).float()
    getattr(layer, mode)()
    feats, logits = make_input((8, 8), batch=2, dtype=torch.float32)
    padding_mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    padding_mask[0, 6:] = True
    exact = copy.deepcopy(layer)(feats, logits, padding_mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(feats, logits, padding_mask)
    assert out.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits.
    assert (out.float() - exact).abs().max() < 0.05 * exact.abs().max()
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_half_precision_does_not_overflow():
    # Queries and keys of 17 in 256 channels: their product, 73984, is above the largest half.
    layer = OCRModule(256, 256, 256, norm="", transform_layers=1).eval()
    with torch.no_grad():
        for transform in (layer.query, layer.key):
            transform[0].weight.copy_(torch.eye(256)[:, :, None, None])
            transform[0].bias.zero_()
        feats = torch.full((1, 256, 2, 2), 17.0)
        logits = torch.zeros(1, 3, 2, 2)
        exact = layer(feats, logits)
        layer.half()
        for form in (layer.textbook, layer.folded):
            out = form(feats.half(), logits.half())
            assert out.isfinite().all()
            torch.testing.assert_close(out.float(), exact, rtol=0.01, atol=0.1)
        _, relations = layer.regions_and_relations(feats.half(), logits.half())
        torch.testing.assert_close(
            relations.float(), torch.full((1, 3, 2, 2), 1 / 3), atol=1e-3, rtol=0
        )


def test_wrong_sizes_are_named():
    layer = make_layer()
    feats, logits = make_input((4, 5))
    with pytest.raises(ValueError, match=r"region_logits .* \(1, 4, 4\), expected \(1, 4, 5\)"):
        layer(feats, logits[..., :4])
    with pytest.raises(ValueError, match=r"padding_mask .* \(1, 3, 5\), expected \(1, 4, 5\)"):
        layer(feats, logits, torch.zeros(1, 3, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="depth of a transform is 0, expected at least 1"):
        OCRModule(transform_layers=0)
    with pytest.raises(ValueError, match="GroupNorm of 32 groups over 32 channels"):
        OCRModule(key_channels=32, norm="GN")


def test_parameters_of_the_published_widths():
    # Weights, and two numbers of BatchNorm for each output channel.
    query = key = 512 * 256 + 256 * 256 + 2 * 2 * 256
    value = 512 * 256 + 2 * 256
    output = 256 * 512 + 2 * 512
    fuse = 1024 * 512 + 2 * 512
    expected = query + key + value + output + fuse
    assert sum(p.numel() for p in OCRModule(norm="BN").parameters()) == expected
