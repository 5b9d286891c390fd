"""Every registered context scheme computes on the device what it computes on the CPU."""

import copy

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from ocr_panoptic.benchmark.measure import count_flops
from ocr_panoptic.config import add_context_keys
from ocr_panoptic.modeling.context import CONTEXT_REGISTRY, build_context

from .device import DEVICE, assert_close, needs_device

pytestmark = needs_device

SCHEMES = sorted(name for name, _ in CONTEXT_REGISTRY)
CHANNELS, CLASSES, HEIGHT, WIDTH = 64, 5, 20, 26
# Parts of the largest number of a tensor: results and gradients. In float64 a wrong formula cannot
# hide; in float32 the kernels are those of a training. There a BatchNorm over few values magnifies
# what is rounded: by 3e-3 in the gradient of CGNL's values, on the CPU too.
TOLERANCES = {torch.float64: (1e-9, 1e-8), torch.float32: (1e-4, 2e-2)}
# Mixed precision: what is rounded to 11 or 8 bits on the way; only results.
HALF = {torch.float16: 0.03, torch.bfloat16: 0.2}


def build(name):
    node = CfgNode()
    add_context_keys(node)
    # BatchNorm, as SyncBN of one process is.
    node.NAME, node.NORM, node.DROPOUT = name, "BN", 0.0
    torch.manual_seed(0)
    layer = build_context(node, CHANNELS, "scheme", num_classes=CLASSES)
    with torch.no_grad():
        for parameter_name, parameter in layer.named_parameters():
            # Factors that are zero at the start would hide what is behind them.
            if not parameter.any() and "bias" not in parameter_name:
                parameter.fill_(0.5)
    return layer


def draw(layer, masked):
    generator = torch.Generator().manual_seed(1)
    feats = torch.randn(2, CHANNELS, HEIGHT, WIDTH, generator=generator)
    regions = None
    if layer.uses_ground_truth:
        labels = torch.randint(CLASSES, (2, HEIGHT, WIDTH), generator=generator)
        regions = nn.functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
    elif layer.uses_regions:
        regions = torch.randn(2, CLASSES, HEIGHT, WIDTH, generator=generator)
    mask = None
    if masked:
        mask = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
        mask[0, 17:] = mask[1, :, 21:] = True
    return feats, regions, mask


def run(layer, inputs, device, dtype, training):
    """Return the result, and in training the gradients of input and weights by name."""
    layer = copy.deepcopy(layer).to(device, dtype).train(training)
    feats, regions, mask = inputs
    feats = feats.to(device, dtype).requires_grad_(training)
    if regions is not None:
        learns = training and not layer.uses_ground_truth
        regions = regions.to(device, dtype).requires_grad_(learns)
    mask = None if mask is None else mask.to(device)
    with torch.set_grad_enabled(training):
        out = layer(feats, region_logits=regions, padding_mask=mask)
    if not training:
        return out, {}
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weights.to(out)).sum().backward()
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    grads |= {"feats": feats.grad, "regions": None if regions is None else regions.grad}
    return out, {name: grad for name, grad in grads.items() if grad is not None}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", SCHEMES)
def test_forward_and_backward_are_the_cpus(name, training, masked, dtype):
    layer = build(name)
    inputs = draw(layer, masked)
    exact, exact_grads = run(layer, inputs, "cpu", torch.float64, training)
    found, grads = run(layer, inputs, DEVICE, dtype, training)
    assert found.device.type == DEVICE
    of_result, of_gradient = TOLERANCES[dtype]
    assert_close(found, exact, of_result)
    assert grads.keys() == exact_grads.keys()
    largest = max((grad.abs().max().item() for grad in exact_grads.values()), default=0)
    for key, grad in grads.items():
        # Some are zero but for rounding, such as that of a weight in front of a norm.
        if exact_grads[key].abs().max() > 1e-6 * largest:
            assert_close(grad, exact_grads[key], of_gradient)


@pytest.mark.parametrize("dtype", HALF, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", SCHEMES)
def test_mixed_precision_is_close(name, dtype):
    layer = build(name).train()
    feats, regions, mask = draw(layer, masked=True)
    exact, _ = run(layer, (feats, regions, mask), "cpu", torch.float64, True)
    layer = layer.to(DEVICE)
    feats = feats.to(DEVICE).requires_grad_()
    regions = None if regions is None else regions.to(DEVICE)
    with torch.autocast(DEVICE, dtype=dtype):
        found = layer(feats, region_logits=regions, padding_mask=mask.to(DEVICE))
    # What padding holds may be anything, and a norm over few values magnifies it.
    kept = ~mask.unsqueeze(1).expand_as(exact)
    assert_close(found[kept.to(DEVICE)], exact[kept], HALF[dtype])
    found.float().mean().backward()
    for parameter in (feats, *layer.parameters()):
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", SCHEMES)
@torch.no_grad()
def test_flops_do_not_depend_on_the_device(name):
    layer = build(name).eval()
    inputs = draw(layer, masked=False)

    def count(device):
        feats, regions, _ = (None if part is None else part.to(device) for part in inputs)
        placed = copy.deepcopy(layer).to(device)
        return count_flops(lambda: placed(feats, region_logits=regions))

    counted = count(DEVICE)
    # Only these have nothing to multiply.
    assert (counted == 0) == (name in ("label_ensemble", "label_refinement"))
    assert counted == count("cpu")
