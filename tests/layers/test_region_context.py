"""What ACF, OCR's ablations and ground-truth OCR have in common, each against its equations."""

import functools

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import (
    ACFRelationOCR,
    AttentionalClassFeature,
    DARelationOCR,
    GroundTruthOCR,
    UnsupervisedOCR,
)

from ..reference import region_schemes
from ..reference.transforms import as_layer, as_transform
from .test_self_attention import (
    SIZES,
    assert_equals_reference,
    assert_ignores_padding,
    assert_runs_in_half_precision,
    assert_trains,
    gradcheck,
    make_feats,
    make_masks,
    randomised,
)
from .with_regions import WithRegions, one_hot_and_an_absent_class

NUM_REGIONS = 3

SCHEMES = {
    "acf": AttentionalClassFeature,
    "ocr_unsupervised": functools.partial(UnsupervisedOCR, num_classes=NUM_REGIONS),
    "ocr_da_relation": functools.partial(DARelationOCR, num_classes=NUM_REGIONS),
    "ocr_acf_relation": ACFRelationOCR,
    "gt_ocr": GroundTruthOCR,
}


def make_layer(name, form="forward", channels=4, norm="BN", **kwargs):
    """Return a scheme whose input has its pixels' channels, then those of the regions."""
    # All widths differ, so that none can stand for another.
    widths = {"out_channels": 5, "key_channels": 6, "dropout": 0.0}
    layer = randomised(SCHEMES[name](channels, norm=norm, **{**widths, **kwargs}))
    prepare = one_hot_and_an_absent_class if name == "gt_ocr" else None
    return WithRegions(layer, NUM_REGIONS, form, prepare)


def reference(name, wrapper):
    layer = wrapper.layer
    transforms = {part: as_transform(getattr(layer, part)) for part in ("value", "output", "fuse")}
    if name == "ocr_unsupervised":
        transforms |= {part: as_transform(getattr(layer, part)) for part in ("query", "key")}
        transforms["predictor"] = as_layer(layer.region_predictor)
    if name == "ocr_da_relation":
        transforms["query"] = as_layer(layer.query[0])
    function = {
        "acf": region_schemes.acf,
        "ocr_unsupervised": region_schemes.unsupervised,
        "ocr_da_relation": region_schemes.da_relation,
        "ocr_acf_relation": region_schemes.acf_relation,
        "gt_ocr": region_schemes.ground_truth,
    }[name]
    return wrapper.reference(function, **transforms)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("form", ["textbook", "forward"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(name, form, size, masked):
    layer = make_layer(name, form)
    feats, mask = make_feats(size, channels=4 + NUM_REGIONS), make_masks(size)[masked]
    before = feats.clone()
    out = layer(feats, padding_mask=mask)
    assert out.shape == (2, 5, *size)
    assert layer.layer.out_channels == 5
    assert torch.equal(feats, before)
    assert_equals_reference([out], reference(name, layer), feats, mask)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("form", ["textbook", "folded"])
@torch.no_grad()
def test_without_norms_equals_the_equations(name, form):
    layer = make_layer(name, form, norm="")
    feats, mask = make_feats((5, 6), channels=4 + NUM_REGIONS), make_masks((5, 6))[1]
    out = layer(feats, padding_mask=mask)
    assert_equals_reference([out], reference(name, layer), feats, mask)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("norm", ["BN", "GN", "LN", ""])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_inference_form_equals_training_form(name, norm, batch):
    widths = {"channels": 64, "out_channels": 64, "key_channels": 128} if norm == "GN" else {}
    textbook = make_layer(name, "textbook", norm=norm, **widths)
    folded = make_layer(name, "folded", norm=norm, **widths)
    folded.load_state_dict(textbook.state_dict())
    channels = widths.get("channels", 4) + NUM_REGIONS
    # More positions than a tile has.
    feats, mask = make_feats((47, 51), batch, channels), make_masks((47, 51))[1][:batch]
    for used in (None, mask):
        expected = textbook(feats, padding_mask=used)
        torch.testing.assert_close(folded(feats, padding_mask=used), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("form", ["textbook", "folded"])
def test_gradcheck(name, form):
    layer = make_layer(name, form, channels=2, out_channels=3, key_channels=2)
    gradcheck(layer, (3, 4), channels=2 + NUM_REGIONS)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    ("size", "padded_size", "filling"),
    [
        ((50, 84), (64, 96), 1e6),
        ((1, 1), (3, 2), 1e6),
        ((7, 13), (7, 20), 0),
        ((7, 13), (9, 13), -40),
    ],
)
def test_output_does_not_depend_on_padding(name, size, padded_size, filling):
    layer = make_layer(name)
    assert_ignores_padding(layer, size, padded_size, filling, channels=4 + NUM_REGIONS)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("valid", [[(4, 4), (20, 20)], [(20, 20), (0, 0)]])
def test_trains_on_images_of_all_sizes(name, valid):
    assert_trains(make_layer(name), (20, 20), *valid, channels=4 + NUM_REGIONS)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
@torch.no_grad()
def test_runs_in_half_precision(name, size):
    assert_runs_in_half_precision(make_layer(name), size, channels=4 + NUM_REGIONS)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_wrong_regions_are_refused(name, mode):
    layer = getattr(make_layer(name).layer.float(), mode)()
    feats = torch.zeros(2, 4, 3, 5)
    if name == "ocr_unsupervised":  # it does not look at them
        assert layer(feats).shape == (2, 5, 3, 5)
        return
    with pytest.raises(ValueError, match="region_logits is None, expected those of a coarse"):
        layer(feats)
    with pytest.raises(ValueError, match=r"width \(2, 3, 4\), expected \(2, 3, 5\) of feats"):
        layer(feats, region_logits=torch.zeros(2, NUM_REGIONS, 3, 4))
    if name == "ocr_da_relation":
        with pytest.raises(ValueError, match=r"has 2 classes, expected num_classes \(3\)"):
            layer(feats, region_logits=torch.zeros(2, 2, 3, 5))


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"acf"}))
def test_a_norm_that_erases_regions_is_refused(name):
    with pytest.raises(ValueError, match="GroupNorm of 32 groups over 32 channels"):
        make_layer(name, norm="GN", channels=64, out_channels=64, key_channels=32)


def test_acf_makes_no_region_vectors_that_a_norm_could_erase():
    layer = make_layer("acf", norm="GN", channels=64, out_channels=64, key_channels=32)
    out = layer(make_feats((5, 6), channels=64 + NUM_REGIONS))
    assert out.std() > 0


def test_parameters_of_the_published_widths():
    value = 512 * 256 + 2 * 256
    output = 256 * 512 + 2 * 512
    fuse = 1024 * 512 + 2 * 512
    shared = value + output + fuse
    query = key = 512 * 256 + 256 * 256 + 2 * 2 * 256
    expected = {
        AttentionalClassFeature(): shared,
        ACFRelationOCR(): shared,
        GroundTruthOCR(): shared,
        DARelationOCR(num_classes=19): shared + 512 * 19 + 19,
        UnsupervisedOCR(num_classes=19): shared + query + key + 512 * 19,
    }
    for layer, count in expected.items():
        assert sum(p.numel() for p in layer.parameters()) == count
        assert layer.out_channels == 512
        assert isinstance(layer.fuse[0].norm, nn.SyncBatchNorm)
