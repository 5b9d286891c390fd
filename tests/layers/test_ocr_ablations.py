"""What each of OCR's ablations leaves out."""

import torch

from ocr_panoptic.layers import (
    ACFRelationOCR,
    DARelationOCR,
    OCRModule,
    UnsupervisedOCR,
    soft_object_regions,
)

from .test_self_attention import make_feats, make_masks, randomised

SIZE = (5, 6)


def make_input(num_regions=3):
    feats, logits = make_feats(SIZE), 3 * make_feats(SIZE, channels=num_regions, seed=2)
    return feats, logits, make_masks(SIZE)[1]


def test_unsupervised_regions_come_from_the_pixels_alone():
    layer = randomised(UnsupervisedOCR(4, 5, key_channels=6, num_classes=3, dropout=0.0))
    feats, logits, mask = make_input()
    logits.requires_grad_()
    out = layer(feats, region_logits=logits, padding_mask=mask)
    assert torch.equal(out, layer(feats, region_logits=-logits, padding_mask=mask))
    assert torch.equal(out, layer(feats, padding_mask=mask))
    regions, _ = layer.regions_and_relations(feats, logits, mask)
    expected = soft_object_regions(layer.region_predictor(feats), mask)
    assert torch.equal(regions, expected)
    # The caller's own loss goes on as the auxiliary one, but this layer's reaches nothing of it.
    assert layer.uses_regions
    assert torch.autograd.grad(out.sum(), logits, allow_unused=True) == (None,)


def test_unsupervised_is_ocr_on_its_own_prediction():
    layer = randomised(UnsupervisedOCR(4, 5, key_channels=6, num_classes=3, dropout=0.0))
    plain = OCRModule(4, 6, 5, dropout=0.0, norm="SyncBN").double().eval()
    weights = layer.state_dict()
    predictor = weights.pop("region_predictor.weight")
    plain.load_state_dict(weights)
    feats, _, mask = make_input()
    logits = torch.einsum("kc,nchw->nkhw", predictor.flatten(1), feats)
    torch.testing.assert_close(
        layer(feats, padding_mask=mask), plain(feats, logits, mask), rtol=0, atol=1e-12
    )


def test_da_relations_come_from_the_pixels_alone():
    layer = randomised(DARelationOCR(4, 5, key_channels=6, num_classes=3, dropout=0.0))
    feats, logits, mask = make_input()
    regions, relations = layer.regions_and_relations(feats, logits, mask)
    other_regions, other_relations = layer.regions_and_relations(feats, -logits, mask)
    assert torch.equal(relations, other_relations)
    assert not torch.allclose(regions, other_regions)
    assert torch.equal(regions, soft_object_regions(logits, mask))
    torch.testing.assert_close(relations.sum(dim=1), torch.ones(2, *SIZE).double())
    assert relations.std() > 0.1


def test_acf_relations_are_the_coarse_prediction():
    layer = randomised(ACFRelationOCR(4, 5, key_channels=6, dropout=0.0))
    feats, logits, mask = make_input()
    regions, relations = layer.regions_and_relations(feats, logits, mask)
    torch.testing.assert_close(relations, logits.softmax(dim=1))
    assert torch.equal(regions, soft_object_regions(logits, mask))


def test_both_relations_train_what_makes_them():
    feats, logits, mask = make_input()
    for layer in (
        DARelationOCR(4, 5, key_channels=6, num_classes=3, dropout=0.0),
        ACFRelationOCR(4, 5, key_channels=6, dropout=0.0),
    ):
        given = logits.clone().requires_grad_()
        randomised(layer)(feats, given, mask).square().sum().backward()
        assert given.grad.abs().max() > 0
        # In the padding a pixel's relation has a gradient, where it is the prediction; a region
        # has none.
        in_padding = given.grad.masked_select(mask.unsqueeze(1))
        assert (in_padding.count_nonzero() > 0) == isinstance(layer, ACFRelationOCR)
