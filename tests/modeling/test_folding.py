"""Folded norms: the same function, and the norms that cannot be folded stay."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from ocr_panoptic.modeling.folding import fold_norms

from ..models import small_model


def randomise(model, seed=0):
    """Give norms statistics and weights as training does: far from 0 and 1, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if getattr(module, "running_var", None) is None:
            continue
        for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.data.copy_(drawn.square() + 0.1 if name == "running_var" else drawn)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "naiveSyncBN"])
def test_a_folded_convolution_is_the_same_function(norm, bias):
    torch.manual_seed(0)
    conv = Conv2d(
        *(6, 8, 3), padding=1, groups=2, bias=bias, norm=get_norm(norm, 8), activation=F.relu
    ).eval()
    randomise(conv)
    feats = torch.randn(2, 6, 9, 7)
    expected = conv.double()(feats.double())
    model = nn.Sequential(conv.float())
    assert fold_norms(model) == 1
    assert conv.norm is None
    assert conv.weight.dtype == conv.bias.dtype == torch.float32
    torch.testing.assert_close(model(feats).double(), expected, rtol=0, atol=1e-4)
    assert fold_norms(model) == 0


@pytest.mark.parametrize("norm", ["GN", "LN", "batch statistics"])
def test_a_norm_that_depends_on_its_input_stays(norm):
    made = get_norm(norm, 32) if norm != "batch statistics" else nn.BatchNorm2d(32)
    if norm == "batch statistics":
        made = nn.BatchNorm2d(32, track_running_stats=False)
    conv = Conv2d(3, 32, 1, norm=made).eval()
    before = copy.deepcopy(conv.state_dict())
    assert fold_norms(nn.Sequential(conv)) == 0
    assert conv.norm is made
    for key, value in conv.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["ocr", "baseline", "isa", "nl"])
@torch.no_grad()
def test_a_folded_model_computes_the_same_features(name):
    model = small_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # Of a trained model: they neither shrink nor blow up what passes through 18 layers.
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.uniform_(0.8, 1.2)
            module.bias.normal_(0, 0.1)
    folded = copy.deepcopy(model)
    assert fold_norms(folded) > 20
    left = [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # The norm in front of the sum is no convolution's.
    assert len(left) == (name in ("isa", "nl"))
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    features = model.backbone(images)
    for key, feats in folded.backbone(images).items():
        scale = features[key].abs().max().clamp(min=1)
        assert (feats - features[key]).abs().max() < 1e-4 * scale
    if name in ("ocr", "baseline"):
        logits, others = model.sem_seg_head(features)[0], folded.sem_seg_head(features)[0]
        assert (others - logits).abs().max() < 1e-4 * logits.abs().max().clamp(min=1)
