"""The coarse-to-fine schemes, whose equations are one line each."""

import pytest
import torch

from ocr_panoptic.layers import LabelEnsemble, LabelRefinement

from .test_self_attention import make_feats, make_masks

SIZES = [(1, 1), (7, 13)]
K = 3


def make_input(size, dtype=torch.float64):
    return make_feats(size, dtype=dtype), make_feats(size, channels=K, dtype=dtype, seed=2)


@pytest.mark.parametrize("size", SIZES)
def test_refinement_puts_the_coarse_maps_behind_the_pixels(size):
    layer = LabelRefinement(4, num_classes=K)
    assert layer.uses_regions
    assert layer.out_channels == 4 + K
    feats, logits = make_input(size)
    before = feats.clone(), logits.clone()
    for mask in make_masks(size):
        out = layer(feats, region_logits=logits, padding_mask=mask)
        for n in range(2):
            for row in range(size[0]):
                for column in range(size[1]):
                    expected = (
                        feats[n, :, row, column].tolist() + logits[n, :, row, column].tolist()
                    )
                    assert out[n, :, row, column].tolist() == expected
    assert torch.equal(feats, before[0])
    assert torch.equal(logits, before[1])
    assert layer.refine(logits, None) is logits


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [None, 0.0, 0.25, 1.0])
def test_ensemble_sums_both_maps(size, weight):
    layer = LabelEnsemble(4) if weight is None else LabelEnsemble(4, region_weight=weight)
    weight = 0.5 if weight is None else weight
    assert layer.uses_regions
    assert layer.out_channels == 4
    feats, coarse = make_input(size)
    for mask in make_masks(size):
        assert layer(feats, region_logits=coarse, padding_mask=mask) is feats
    fine = make_feats(size, channels=K, seed=3)
    final = layer.refine(fine, coarse)
    for found, one, other in zip(
        final.flatten().tolist(), fine.flatten().tolist(), coarse.flatten().tolist(), strict=True
    ):
        assert found == pytest.approx((1 - weight) * one + weight * other, rel=0, abs=1e-12)


def test_an_ensemble_is_a_refinement_with_a_certain_classifier():
    feats, coarse = make_input((5, 6))
    classifier = make_feats((4,), batch=1, channels=K)[0]
    fine = torch.einsum("kc,nchw->nkhw", classifier, feats)
    both = LabelRefinement(4, num_classes=K)(feats, region_logits=coarse)
    weights = torch.cat([0.5 * classifier, 0.5 * torch.eye(K)], dim=1)
    torch.testing.assert_close(
        torch.einsum("kc,nchw->nkhw", weights, both), LabelEnsemble(4).refine(fine, coarse)
    )


def test_gradcheck():
    feats, coarse = (tensor.requires_grad_() for tensor in make_input((2, 3)))
    refinement, ensemble = LabelRefinement(4, num_classes=K), LabelEnsemble(4, region_weight=0.3)
    assert torch.autograd.gradcheck(
        lambda feats, coarse: refinement(feats, region_logits=coarse), (feats, coarse)
    )
    fine = make_feats((2, 3), channels=K, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(ensemble.refine, (fine, coarse))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_runs_in_half_precision(dtype):
    feats, coarse = make_input((5, 6), dtype)
    assert LabelRefinement(4, num_classes=K)(feats, region_logits=coarse).dtype == dtype
    final = LabelEnsemble(4).refine(coarse, -coarse)
    assert final.dtype == dtype
    assert final.count_nonzero() == 0


def test_there_is_nothing_to_learn():
    assert not list(LabelRefinement(4, num_classes=K).parameters())
    assert not list(LabelEnsemble(4).parameters())


def test_wrong_arguments_are_refused():
    feats, coarse = make_input((5, 6))
    for layer in (LabelRefinement(4, num_classes=K), LabelEnsemble(4)):
        with pytest.raises(ValueError, match="region_logits is None, expected those of a coarse"):
            layer(feats)
        with pytest.raises(ValueError, match=r"\(2, 5, 5\), expected \(2, 5, 6\) of feats"):
            layer(feats, region_logits=coarse[..., :5])
    with pytest.raises(ValueError, match=r"has 2 classes, expected num_classes \(3\)"):
        LabelRefinement(4, num_classes=K)(feats, region_logits=coarse[:, :2])
    with pytest.raises(ValueError, match=r"has 2 classes, expected num_classes \(3\)"):
        LabelEnsemble(4).refine(coarse, coarse[:, :2])
    with pytest.raises(ValueError, match="region_logits is None"):
        LabelEnsemble(4).refine(coarse, None)
    for weight in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"region_weight is {weight}, expected 0 to 1"):
            LabelEnsemble(4, region_weight=weight)
