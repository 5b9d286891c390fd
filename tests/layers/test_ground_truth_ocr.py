"""What ground-truth OCR promises beyond its equations: absent classes, and pixels without label."""

import copy

import pytest
import torch
from torch import nn

from ocr_panoptic.layers import GroundTruthOCR

from .test_self_attention import frozen_norms, make_feats, make_mask, randomised


def make_layer(channels=4, norm="BN"):
    return randomised(GroundTruthOCR(channels, 5, key_channels=6, norm=norm, dropout=0.0))


def one_hot(labels, num_classes, dtype=torch.float64):
    """Return maps (N, K, H, W) of labels (N, H, W); a label of -1 gives zeros."""
    return (labels.unsqueeze(1) == torch.arange(num_classes).view(1, -1, 1, 1)).to(dtype)


def make_labels(size=(5, 6), batch=2, seed=0):
    """Return labels of classes 0, 1 and 3, and of none."""
    torch.manual_seed(seed)
    return torch.tensor([0, 1, 3, -1])[torch.randint(0, 4, (batch, *size))]


def test_says_what_it_needs():
    layer = make_layer()
    assert layer.uses_ground_truth
    assert not layer.uses_regions


def test_regions_are_means_and_relations_are_labels():
    layer, labels = make_layer(), make_labels()
    feats, maps = make_feats((5, 6)), one_hot(labels, 5)
    regions, relations = layer.regions_and_relations(feats, maps)
    assert torch.equal(relations, maps)
    for n in range(2):
        for k in range(5):
            members = labels[n] == k
            assert torch.equal(regions[n, k], members.double() / max(1, members.sum()))
            assert (k in (2, 4)) == (members.sum() == 0)
    vectors = layer.region_vectors(feats, regions)
    torch.testing.assert_close(vectors[0, 3], feats[0, :, labels[0] == 3].mean(dim=1))
    # The zero vector before and behind delta, whose norm and bias make something of zeros.
    assert vectors[:, [2, 4]].count_nonzero() == 0
    assert layer.value(torch.zeros(1, 4, 1, 1).double()).abs().max() > 0.1
    for mode in (nn.Module.eval, frozen_norms):
        values = mode(layer).values(vectors, regions)
        assert values[:, [2, 4]].count_nonzero() == 0
        assert values[:, [0, 1, 3]].abs().amax(dim=2).min() > 0


@pytest.mark.parametrize("form", ["textbook", "folded"])
def test_a_pixel_without_label_has_a_zero_context(form):
    layer, labels = make_layer(), make_labels()
    feats, maps = make_feats((5, 6)), one_hot(labels, 5)
    out = getattr(layer, form)(feats, maps)
    nothing = torch.zeros(2, 6, 5, 6).double()
    expected = layer.fuse(torch.cat([layer.output(nothing), feats], dim=1))
    unlabelled = (labels == -1).unsqueeze(1).expand_as(out)
    torch.testing.assert_close(out[unlabelled], expected[unlabelled], rtol=0, atol=1e-12)
    assert (out - expected)[~unlabelled].abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_no_label_covers_changes_nothing_elsewhere(mode):
    layer, labels = make_layer(), make_labels()
    layer = frozen_norms(layer) if mode == "train" else layer
    feats, maps = make_feats((5, 6)), one_hot(labels, 5)
    other = torch.where((labels == -1).unsqueeze(1), 50.0, feats)
    labelled = (labels != -1).unsqueeze(1).expand(-1, 5, -1, -1)
    torch.testing.assert_close(
        layer(other, maps)[labelled], layer(feats, maps)[labelled], rtol=0, atol=1e-12
    )


def test_absent_classes_do_not_enter_the_statistics():
    feats, labels = make_feats((5, 6)), make_labels()
    results = []
    for num_classes in (4, 40):
        layer = make_layer().train()
        out = layer(feats, one_hot(labels, num_classes))
        results.append([out, *layer.state_dict().values()])
    for few, many in zip(*results, strict=True):
        torch.testing.assert_close(few, many, rtol=0, atol=1e-12)
    # They are those of the vectors that are there, of both images.
    vectors = [feats[n, :, labels[n] == k].mean(1) for n in range(2) for k in (0, 1, 3)]
    made = layer.value[0].weight.flatten(1) @ torch.stack(vectors, dim=1)
    before = make_layer().value[0].norm.running_mean
    torch.testing.assert_close(
        layer.value[0].norm.running_mean, 0.9 * before + 0.1 * made.mean(dim=1)
    )


@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_trains_where_too_few_classes_are_there_for_statistics(present, norm):
    layer = copy.deepcopy(make_layer(norm=norm)).train()
    labels = torch.full((1, 5, 6), -1)
    labels[:, :2] = 0 if present else -1
    layer(make_feats((5, 6), batch=1), one_hot(labels, 5)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert (layer.value[0].weight.grad.count_nonzero() > 0) == bool(present)


def test_labels_in_the_padding_count_for_nothing():
    layer, labels = make_layer(), make_labels()
    feats, maps, mask = make_feats((5, 6)), one_hot(labels, 5), make_mask((5, 6), (3, 4), (5, 2))
    without = maps.masked_fill(mask.unsqueeze(1), 0)
    assert (maps != without).any()
    assert torch.equal(layer(feats, maps, mask), layer(feats, without))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_takes_maps_of_any_type(dtype):
    layer, labels = make_layer(), make_labels()
    feats = make_feats((5, 6))
    out = layer(feats, one_hot(labels, 5, dtype))
    assert out.dtype == torch.float64
    assert torch.equal(out, layer(feats, one_hot(labels, 5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_counts_more_pixels_than_half_precision_can(dtype):
    # A region of 90000 pixels: the largest half is 65504, and bfloat16 counts to 256.
    layer = GroundTruthOCR(4, 5, key_channels=6, norm="").eval()
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.25)
    feats, maps = torch.ones(1, 4, 300, 300), torch.ones(1, 1, 300, 300)
    expected = layer(feats, maps)
    out = layer.to(dtype)(feats.to(dtype), maps)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0)
