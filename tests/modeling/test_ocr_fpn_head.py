"""Panoptic-FPN's semantic head with OCR."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from ocr_panoptic.modeling import OCRSemSegFPNHead
from ocr_panoptic.modeling.losses import semantic_cross_entropy

SHAPES = {f"p{level}": ShapeSpec(channels=16, stride=2**level) for level in (2, 3, 4, 5)}
ARGUMENTS = {"num_classes": 5, "conv_dims": 32, "common_stride": 4, "norm": "GN"}


def make_head(**kwargs):
    torch.manual_seed(0)
    return OCRSemSegFPNHead(
        SHAPES,
        **ARGUMENTS,
        ignore_value=255,
        loss_weight=0.25,
        **{"ocr_channels": 24, "ocr_key_channels": 8, "ocr_norm": "BN", **kwargs},
    )


def make_features(height=64, width=96, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            batch,
            shape.channels,
            height // shape.stride,
            width // shape.stride,
            generator=generator,
        )
        for name, shape in SHAPES.items()
    }


def make_targets(height=64, width=96, batch=2):
    targets = torch.randint(
        0, 5, (batch, height, width), generator=torch.Generator().manual_seed(2)
    )
    targets[:, :10] = 255
    return targets


def test_inference_gives_the_refined_prediction_at_image_resolution():
    head = make_head().eval()
    features = make_features()
    logits, losses = head(features)
    assert losses == {}
    assert logits.shape == (2, 5, 64, 96)
    _, refined = head.layers(features)
    expected = F.interpolate(refined, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.equal(logits, expected)


def test_region_logits_are_the_original_prediction():
    head = make_head().eval()
    stock = SemSegFPNHead(SHAPES, **ARGUMENTS)
    incompatible = stock.load_state_dict(head.state_dict(), strict=False)
    assert incompatible.missing_keys == []
    assert all(key.startswith("ocr") for key in incompatible.unexpected_keys)
    features = make_features()
    region_logits, refined = head.layers(features)
    assert torch.equal(region_logits, stock.layers(features))
    assert not torch.equal(region_logits, refined)


def test_losses_are_cross_entropies_with_their_weights():
    head = make_head(region_loss_weight=0.125).train()
    features, targets = make_features(), make_targets()
    torch.manual_seed(5)  # dropout
    result, losses = head(features, targets)
    torch.manual_seed(5)
    predictions = head.layers(features)
    assert result is None
    for name, weight, logits in zip(
        ("loss_sem_seg_region", "loss_sem_seg"), (0.125, 0.25), predictions, strict=True
    ):
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        expected = weight * F.cross_entropy(logits, targets, ignore_index=255)
        torch.testing.assert_close(losses[name], expected)
    assert set(losses) == {"loss_sem_seg_region", "loss_sem_seg"}


def test_the_refined_loss_trains_the_region_logits_too():
    head = make_head().train()
    _, losses = head(make_features(), make_targets())
    losses["loss_sem_seg"].backward()
    assert head.predictor.weight.grad.abs().max() > 0


def test_every_parameter_learns():
    head = make_head(ocr_dropout=0.0).train()
    _, losses = head(make_features(), make_targets())
    sum(losses.values()).backward()
    silent = [
        name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert silent == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_pixels_ignored_is_loss_zero(dtype):
    logits = torch.randn(2, 5, 4, 4, dtype=dtype, requires_grad=True)
    targets = torch.full((2, 16, 16), 255)
    loss = semantic_cross_entropy(logits, targets, stride=4, ignore_value=255)
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad.count_nonzero() == 0


def test_all_pixels_ignored_in_the_head():
    head = make_head().train()
    _, losses = head(make_features(), torch.full((2, 64, 96), 255))
    assert all(loss.item() == 0.0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_the_ocr_stage_has_its_own_norm(norm):
    head = make_head(ocr_channels=64, ocr_key_channels=64, ocr_norm=norm)
    kinds = {"BN": nn.BatchNorm2d, "GN": nn.GroupNorm, "": type(None)}
    assert isinstance(head.ocr_transform.norm, kinds[norm])
    assert isinstance(head.ocr.query[0].norm, kinds[norm])
    assert isinstance(head.p2[0].norm, nn.GroupNorm)
    # A bias before a norm would never get a gradient.
    assert (head.ocr_transform.bias is None) == bool(norm)
