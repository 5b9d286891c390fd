"""Object context modules against their references; Base-OC's fusion against the same by hand."""

import re

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import (
    ASPOC,
    BaseOC,
    InterlacedSparseSelfAttention,
    PyramidOC,
    SelfAttention,
)

from ..reference.multi_scale import as_spatial, asp_oc, pyramid_oc
from ..reference.transforms import as_layer, as_transform, transform
from .test_isa import as_stages
from .test_ppm import hide
from .test_self_attention import (
    SIZES,
    as_stage,
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

PADDINGS = [
    ((50, 84), (64, 96), 1e6),
    ((1, 1), (3, 2), 1e6),
    ((7, 13), (7, 20), 1e6),
    ((7, 13), (9, 13), -40),
]
inner_schemes = pytest.mark.parametrize("inner", ["sa", "isa"])


def make_context(inner, in_channels, out_channels, norm="BN"):
    widths = {"key_channels": 2, "value_channels": 3, "norm": norm}
    if inner == "sa":
        return SelfAttention(in_channels, out_channels, **widths)
    return InterlacedSparseSelfAttention(in_channels, out_channels, partitions=(2, 3), **widths)


def stages_of(context):
    """Return partitions and stages of a context as the references want them."""
    if isinstance(context, SelfAttention):
        return (1, 1), [("dense", as_stage(context))]
    return context.partitions, as_stages(context)


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


def make_pyramid(inner="sa", channels=4, bins=(1, 2, 3, 6), norm="BN", **kwargs):
    def context():
        return make_context(inner, channels, 3, norm)

    return randomised(PyramidOC(context, channels, 3, 5, bins=bins, norm=norm, **kwargs))


def assert_is_pyramid_oc(layer, feats, mask):
    def reference(wanted, pixels, padding):
        (partitions, *_), contexts = zip(*map(stages_of, layer.contexts), strict=True)
        widen, fuse = as_transform(layer.widen), as_transform(layer.fuse)
        size = tuple(feats.shape[2:])
        return pyramid_oc(
            wanted, pixels, padding, size, layer.bins, partitions, contexts, widen, fuse
        )

    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *feats.shape[2:])
    assert torch.equal(feats, before)
    assert_equals_reference([hide(out, mask)], reference, feats, mask)


@inner_schemes
@pytest.mark.parametrize("size", [*SIZES, (2, 5), (12, 6)])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_pyramid_oc_equals_the_paper(inner, size, masked):
    assert_is_pyramid_oc(make_pyramid(inner), make_feats(size), make_masks(size)[masked])


@inner_schemes
@pytest.mark.parametrize("kwargs", [{"norm": ""}, {"bins": [4, 2]}, {"bins": (5,), "channels": 5}])
@torch.no_grad()
def test_variants_of_pyramid_oc_equal_the_paper(inner, kwargs):
    layer = make_pyramid(inner, **kwargs)
    feats = make_feats((6, 7), channels=kwargs.get("channels", 4))
    assert_is_pyramid_oc(layer, feats, make_masks((6, 7))[1])


@torch.no_grad()
def test_in_pyramid_oc_padding_may_be_anywhere():
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[0, 2:5, 3:6] = False
    mask[1, 1:6, 1] = mask[1, 5, 1:6] = False
    assert_is_pyramid_oc(make_pyramid(), make_feats((6, 7)), mask)


def test_gradcheck_of_pyramid_oc():
    gradcheck(make_pyramid(channels=2, bins=(1, 2), norm=""), (3, 4))


@inner_schemes
@pytest.mark.parametrize(("size", "padded_size", "filling"), PADDINGS)
def test_pyramid_oc_does_not_depend_on_padding(inner, size, padded_size, filling):
    assert_ignores_padding(make_pyramid(inner), size, padded_size, filling)


@inner_schemes
@pytest.mark.parametrize("valid", [[(4, 4), (50, 50)], [(50, 50), (0, 0)]])
def test_pyramid_oc_trains_on_images_of_all_sizes(inner, valid):
    assert_trains(make_pyramid(inner, dropout=0.0), (50, 50), *valid)


@inner_schemes
def test_pyramid_oc_runs_in_half_precision(inner):
    assert_runs_in_half_precision(make_pyramid(inner), (7, 13))


def test_each_scale_has_one_context_of_its_own_for_all_parts():
    layer = make_pyramid(bins=(1, 2, 3, 6))
    assert len(set(layer.contexts)) == 4
    feats = make_feats((6, 6), batch=1)
    # The same part four times.
    feats = feats[:, :, :3, :3].repeat(1, 1, 2, 2)
    seen = []
    layer.contexts[1].register_forward_hook(lambda module, given, out: seen.append(out))
    layer(feats)
    (out,) = seen
    assert out.shape == (4, 3, 3, 3)
    torch.testing.assert_close(out, out[:1].expand(4, -1, -1, -1), rtol=0, atol=1e-12)


SA_PARAMETERS = {512: 2 * (512 * 256 + 256 * 256 + 4 * 256) + 2 * 512 * 256}
SA_PARAMETERS[256] = 2 * (256 * 128 + 128 * 128 + 4 * 128) + 2 * 256 * 128


@pytest.mark.parametrize(
    ("inner", "stages"), [(SelfAttention, 1), (InterlacedSparseSelfAttention, 2)]
)
def test_parameters_of_the_published_widths(inner, stages):
    base = BaseOC(inner(512))
    fuse = 1024 * 512 + 2 * 512
    assert sum(p.numel() for p in base.parameters()) == stages * SA_PARAMETERS[512] + fuse
    pyramid = PyramidOC(lambda: inner(512))
    wide = 512 * 2048 + 2 * 2048 + 4096 * 512 + 2 * 512
    assert sum(p.numel() for p in pyramid.parameters()) == 4 * stages * SA_PARAMETERS[512] + wide
    asp = ASPOC(inner(256))
    branches = 4 * 9 * 2048 * 256 + 2048 * 256 + 1280 * 256 + 6 * 2 * 256
    assert sum(p.numel() for p in asp.parameters()) == stages * SA_PARAMETERS[256] + branches
    for layer in (base, pyramid, asp):
        assert isinstance(layer.fuse[0].norm, nn.SyncBatchNorm)


def attention_cost(channels, *groups):
    """Return operations of attention with keys and values of some channels: (groups, positions)."""
    return sum(2 * 2 * count * positions**2 * channels for count, positions in groups)


def test_cost_of_the_published_widths():
    """Table 4 of OCNet at 2048x128x128, of convolutions and matrix products, within 3 %."""
    area, reduce = 128 * 128, 9 * 2048 * 512
    transforms = 2 * (512 * 256 + 256 * 256) + 2 * 512 * 256
    # 8 x 8 groups of 16 x 16 positions, then windows of 8 x 8.
    isa_groups = (64, 256), (256, 64)
    base = 2 * area * (reduce + 1024 * 512 + transforms)
    assert base + attention_cost(256, (1, area)) == pytest.approx(619e9, rel=0.03)
    base += 2 * area * transforms
    assert base + attention_cost(256, *isa_groups) == pytest.approx(386e9, rel=0.03)

    # Parts of 128, 64, 43 and 22, some of the last two with a padding of one row or column.
    steps = [(1, 128), (2, 64), (3, 43), (6, 22)]
    pyramid = 2 * area * (reduce + 512 * 2048 + 4096 * 512)
    of_transforms = 2 * transforms * sum((parts * step) ** 2 for parts, step in steps)
    attention = attention_cost(256, *((parts**2, step**2) for parts, step in steps))
    assert pyramid + of_transforms + attention == pytest.approx(880e9, rel=0.03)
    windows = [(parts, -(-step // 8)) for parts, step in steps]
    groups = [(parts**2 * 64, count**2) for parts, count in windows]
    groups += [(parts**2 * count**2, 64) for parts, count in windows]
    attention = attention_cost(256, *groups)
    assert pyramid + 2 * of_transforms + attention == pytest.approx(595e9, rel=0.03)

    asp = 2 * area * (4 * 9 * 2048 * 256 + 2048 * 256 + 1280 * 256)
    transforms = 2 * (256 * 128 + 128 * 128) + 2 * 256 * 128
    half = area // 4
    dense = 2 * half * transforms + attention_cost(128, (1, half))
    assert asp + dense == pytest.approx(656e9, rel=0.03)
    interlaced = 4 * half * transforms + attention_cost(128, (64, 64), (64, 64))
    assert asp + interlaced == pytest.approx(651e9, rel=0.03)
    # At full resolution self-attention is out of reach, its interlaced form is not.
    full = asp + 2 * area * transforms + attention_cost(128, (1, area))
    assert full == pytest.approx(1.2 * 656e9, rel=0.01)
    full = asp + 4 * area * transforms + attention_cost(128, *isa_groups)
    assert full == pytest.approx(651e9, rel=0.03)


def make_asp(inner="sa", channels=4, rates=(1, 4, 12), norm="BN", **kwargs):
    return randomised(
        ASPOC(make_context(inner, 5, 5, norm), channels, 5, rates=rates, norm=norm, **kwargs)
    )


def assert_is_asp_oc(layer, feats, mask):
    point, *dilated = layer.branches

    def reference(wanted, pixels, padding):
        return asp_oc(
            wanted,
            pixels,
            padding,
            tuple(feats.shape[2:]),
            layer.scale,
            *stages_of(layer.context),
            as_spatial(layer.reduce),
            as_transform(point),
            [as_spatial(conv) for conv in dilated],
            as_transform(layer.fuse),
        )

    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *feats.shape[2:])
    assert torch.equal(feats, before)
    assert_equals_reference([hide(out, mask)], reference, feats, mask)


@inner_schemes
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (12, 18), (2, 5)])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_asp_oc_equals_the_paper(inner, size, masked):
    assert_is_asp_oc(make_asp(inner), make_feats(size), make_masks(size)[masked])


@inner_schemes
@pytest.mark.parametrize(
    "kwargs", [{"norm": ""}, {"scale": 1}, {"scale": 3}, {"rates": [2]}, {"rates": (1, 2, 3, 4)}]
)
@torch.no_grad()
def test_variants_of_asp_oc_equal_the_paper(inner, kwargs):
    assert_is_asp_oc(make_asp(inner, **kwargs), make_feats((6, 7)), make_masks((6, 7))[1])


def test_gradcheck_of_asp_oc():
    gradcheck(make_asp(channels=2, rates=(2,), norm=""), (3, 4))


@inner_schemes
@pytest.mark.parametrize(("size", "padded_size", "filling"), PADDINGS)
def test_asp_oc_does_not_depend_on_padding(inner, size, padded_size, filling):
    assert_ignores_padding(make_asp(inner), size, padded_size, filling)


@inner_schemes
@pytest.mark.parametrize("valid", [[(4, 4), (50, 50)], [(50, 50), (0, 0)]])
def test_asp_oc_trains_on_images_of_all_sizes(inner, valid):
    assert_trains(make_asp(inner, dropout=0.0), (50, 50), *valid)


@inner_schemes
def test_asp_oc_runs_in_half_precision(inner):
    assert_runs_in_half_precision(make_asp(inner), (7, 13))


@pytest.mark.parametrize("make", [make_pyramid, make_asp])
@torch.no_grad()
def test_an_image_without_valid_position_gives_finite_numbers(make):
    layer, mask = make(), make_mask((4, 5), (4, 5), (0, 0))
    feats = make_feats((4, 5))
    out = layer(feats, padding_mask=mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1], layer(feats[:1]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [make_pyramid, make_asp])
def test_pyramids_drop_whole_channels_in_training_only(make):
    layer = make(dropout=0.5).float()
    feats = make_feats((4, 5), dtype=torch.float32)
    kept = layer(feats)
    layer.dropout.train()
    torch.manual_seed(0)
    dropped = layer(feats)
    assert (dropped.flatten(2) == 0).all(dim=2).sum() > (kept.flatten(2) == 0).all(dim=2).sum()
    torch.testing.assert_close(dropped[dropped > 0], 2 * kept[dropped > 0])


def test_default_dropouts():
    assert PyramidOC(nn.Identity).dropout.p == 0.05
    assert ASPOC(nn.Identity()).dropout.p == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PyramidOC(nn.Identity, bins=(1, 1)),
            "bins are (1, 1), expected different integers from 1",
        ),
        (lambda: PyramidOC(nn.Identity, bins=2), "bins are 2, expected different integers from 1"),
        (lambda: ASPOC(nn.Identity(), rates=(0, 1)), "rates are (0, 1), expected integers from 1"),
        (lambda: ASPOC(nn.Identity(), scale=0), "scale is 0, expected an integer from 1"),
        (lambda: ASPOC(nn.Identity(), scale=2.0), "scale is 2.0, expected an integer from 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
