"""What ACF's class centers are, beyond its equations."""

import torch

from ocr_panoptic.layers import AttentionalClassFeature

from .test_self_attention import make_feats, make_mask, make_masks, randomised

SIZE = (5, 6)


def make_layer():
    return randomised(AttentionalClassFeature(4, 5, key_channels=6, dropout=0.0))


def test_centers_are_means_weighted_by_class_probabilities():
    layer = make_layer()
    feats, logits = make_feats(SIZE), 3 * make_feats(SIZE, channels=3, seed=2)
    for mask in make_masks(SIZE):
        regions, relations = layer.regions_and_relations(feats, logits, mask)
        probabilities = logits.softmax(dim=1)
        torch.testing.assert_close(relations, probabilities)
        torch.testing.assert_close(regions.sum(dim=(2, 3)), torch.ones(2, 3).double())
        valid = torch.ones(2, *SIZE) if mask is None else (~mask).double()
        masses = (probabilities * valid.unsqueeze(1)).sum(dim=(2, 3))
        reduced = layer.value(feats)
        expected = torch.einsum("nkhw,nchw,nhw->nkc", probabilities, reduced, valid.double())
        centers = layer.region_vectors(feats, regions)
        torch.testing.assert_close(centers, expected / masses.unsqueeze(2))


def test_the_number_of_pixels_does_not_change_a_center():
    layer = make_layer()
    feats, logits = make_feats(SIZE), 3 * make_feats(SIZE, channels=3, seed=2)
    twice = [torch.cat([part, part], dim=2) for part in (feats, logits)]
    out = layer(feats, logits)
    torch.testing.assert_close(layer(*twice), torch.cat([out, out], dim=2), rtol=0, atol=1e-12)


def test_a_class_without_mass_gives_a_zero_center_and_finite_gradients():
    for dtype in (torch.float32, torch.float64):
        layer = make_layer().to(dtype).train()
        feats = make_feats(SIZE, dtype=dtype).requires_grad_()
        logits = (3 * make_feats(SIZE, channels=3, dtype=dtype, seed=2)).detach()
        logits[:, 1] = -1e5
        logits.requires_grad_()
        mask = make_mask(SIZE, SIZE, (0, 0))
        regions, _ = layer.regions_and_relations(feats, logits, mask)
        assert regions[:, 1].count_nonzero() == 0
        assert regions[1].count_nonzero() == 0
        assert layer.region_vectors(feats, regions)[0, 1].count_nonzero() == 0
        layer(feats, logits, mask).square().sum().backward()
        tensors = [feats, logits, *layer.parameters()]
        assert all(tensor.grad.isfinite().all() for tensor in tensors)
