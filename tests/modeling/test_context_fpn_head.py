"""Panoptic-FPN's semantic head with any context scheme."""

import re

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model, build_sem_seg_head
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import ContextLayer
from ocr_panoptic.modeling import CONTEXT_REGISTRY, ContextSemSegFPNHead
from ocr_panoptic.modeling.meta_arch.batch import batch_scope, record_labels
from ocr_panoptic.modeling.sem_seg.context_fpn_head import one_hot_maps

from ..conftest import REPOSITORY
from ..models import small_config
from .test_ocr_fpn_head import ARGUMENTS, SHAPES, make_features, make_targets

SCHEMES = sorted(name for name, _ in CONTEXT_REGISTRY)


class Scheme(ContextLayer):
    """Remembers what it is given, and adds one channel."""

    def __init__(self, channels=24, *, regions=False, ground_truth=False):
        super().__init__()
        self.uses_regions, self.uses_ground_truth = regions, ground_truth
        self.out_channels = channels + 1

    def forward(self, feats, *, region_logits=None, padding_mask=None):
        self.given = feats, region_logits, padding_mask
        return torch.cat([feats, feats.mean(dim=1, keepdim=True)], dim=1)


def make_head(context, **kwargs):
    torch.manual_seed(0)
    arguments = {"context_channels": 24, "context_norm": "BN", "loss_weight": 0.5, **kwargs}
    return ContextSemSegFPNHead(SHAPES, **ARGUMENTS, ignore_value=255, context=context, **arguments)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_the_context_stands_between_the_fused_map_and_the_classifier(stride):
    head = make_head(Scheme(), context_stride=stride).eval()
    features = make_features()
    pixels = head.context_transform(head.fused(features))
    assert pixels.shape == (2, 24, 64 // stride, 96 // stride)
    logits, losses = head(features)
    assert losses == {}
    feats, region_logits, _ = head.context.given
    assert torch.equal(feats, pixels)
    assert region_logits is None
    expected = head.context_predictor(head.context(pixels))
    expected = F.interpolate(expected, scale_factor=stride, mode="bilinear", align_corners=False)
    assert torch.equal(logits, expected)
    assert logits.shape == (2, 5, 64, 96)


def test_the_fused_map_is_panoptic_fpns():
    head = make_head(Scheme(regions=True)).eval()
    stock = SemSegFPNHead(SHAPES, **ARGUMENTS)
    incompatible = stock.load_state_dict(head.state_dict(), strict=False)
    assert incompatible.missing_keys == []
    assert all(key.startswith("context") for key in incompatible.unexpected_keys)
    features = make_features()
    region_logits, refined = head.layers(features)
    assert torch.equal(region_logits, stock.layers(features))
    assert refined.shape == region_logits.shape


def test_a_scheme_without_regions_has_one_loss_and_no_original_prediction():
    head = make_head(Scheme()).train()
    features, targets = make_features(), make_targets()
    _, losses = head(features, targets)
    logits = F.interpolate(
        head.layers(features)[1], scale_factor=4, mode="bilinear", align_corners=False
    )
    expected = 0.5 * F.cross_entropy(logits, targets, ignore_index=255)
    assert set(losses) == {"loss_sem_seg"}
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    assert not any(name.startswith("predictor") for name, _ in head.named_parameters())


@pytest.mark.parametrize("stride", [4, 8])
def test_a_scheme_with_regions_shares_the_weight_among_two_losses(stride):
    head = make_head(
        Scheme(regions=True), loss_weight=0.75, region_loss_weight=0.25, context_stride=stride
    )
    features, targets = make_features(), make_targets()
    _, losses = head.train()(features, targets)
    region_logits, refined = head.layers(features)
    for name, weight, logits in (
        ("loss_sem_seg_region", 0.25, region_logits),
        ("loss_sem_seg", 0.5, refined),
    ):
        logits = F.interpolate(logits, targets.shape[1:], mode="bilinear", align_corners=False)
        expected = weight * F.cross_entropy(logits, targets, ignore_index=255)
        torch.testing.assert_close(losses[name], expected)
    assert set(losses) == {"loss_sem_seg_region", "loss_sem_seg"}
    given = head.context.given[1]
    assert given.shape[2:] == refined.shape[2:]
    if stride == 4:
        assert torch.equal(given, region_logits)
    else:
        expected = F.avg_pool2d(region_logits, 2)  # what bilinear is at half the size
        torch.testing.assert_close(given, expected)


def test_a_scheme_with_the_ground_truth_gets_one_hot_maps():
    head = make_head(Scheme(ground_truth=True)).eval()
    labels = make_targets()
    with batch_scope():
        record_labels(labels)
        head(make_features())
    given = head.context.given[1]
    middle = labels[:, 2::4, 2::4]
    assert given.shape == (2, 5, 16, 24)
    for k in range(5):
        assert torch.equal(given[:, k], (middle == k).float())
    assert (given.sum(dim=1) == (middle != 255)).all()
    with pytest.raises(InputError, match=r"CONTEXT\.NAME: the scheme looks at the true labels"):
        head(make_features())


@settings(max_examples=40, deadline=None)
@given(
    *(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([1, 2, 4, 8]),
)
def test_one_hot_maps_have_one_class_where_there_is_a_label(batch, classes, height, width, stride):
    generator = torch.Generator().manual_seed(height * 31 + width)
    labels = torch.randint(
        0, classes + 2, (batch, height * stride, width * stride), generator=generator
    )
    labels[labels > classes] = 255
    maps = one_hot_maps(labels, classes, (height, width))
    assert maps.shape == (batch, classes, height, width)
    middle = labels[:, stride // 2 :: stride, stride // 2 :: stride]
    assert torch.equal(maps.sum(dim=1), (middle < classes).float())
    assert torch.equal(maps.argmax(dim=1)[middle < classes], middle[middle < classes])


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("stride", [4, 8])
def test_checkpointed_activations_change_no_gradient(regions, stride):
    def gradients(switch):
        head = make_head(
            Scheme(regions=regions), checkpoint_activations=switch, context_stride=stride
        )
        _, losses = head.train()(make_features(), make_targets())
        sum(losses.values()).backward()
        return {name: parameter.grad for name, parameter in head.named_parameters()}

    plain, again = gradients(False), gradients(True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize(
    ("context", "kwargs", "message"),
    [
        (Scheme(), {"context_stride": 2}, r"CONTEXT\.STRIDE: 2, expected .*COMMON_STRIDE \(4\)"),
        (Scheme(), {"context_stride": 12}, r"CONTEXT\.STRIDE: 12, expected"),
        (Scheme(), {"context_stride": 64}, r"CONTEXT\.STRIDE: 64, expected .* at most 32, the"),
        (
            Scheme(regions=True),
            {"region_loss_weight": 0.6},
            r"REGION_LOSS_WEIGHT: 0\.6, expected 0 to MODEL\.SEM_SEG_HEAD\.LOSS_WEIGHT \(0\.5\)",
        ),
    ],
)
def test_values_that_cannot_be(context, kwargs, message):
    with pytest.raises(InputError, match=message):
        make_head(context, **kwargs)


def make_inputs(sizes=((64, 96), (96, 64))):
    generator = torch.Generator().manual_seed(4)
    inputs = []
    for size in sizes:
        sem_seg = torch.randint(0, 7, size, generator=generator)
        sem_seg[:8] = 255
        inputs.append(
            {
                "image": torch.randint(0, 256, (3, *size), generator=generator).float(),
                "sem_seg": sem_seg,
                "height": size[0],
                "width": size[1],
            }
        )
    return inputs


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_trains_and_predicts_in_a_panoptic_model(name):
    overrides = [
        *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.5),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", name, "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 32, "MODEL.SEM_SEG_HEAD.CONTEXT.DROPOUT", 0.0),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.STRIDE", 8, "MODEL.SEM_SEG_HEAD.CONTEXT.NUM_REGIONS", 6),
    ]
    torch.manual_seed(0)
    model = build_model(small_config("ocr", overrides))
    head = model.sem_seg_head
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3)
    silent = set(dict(head.named_parameters()))
    with batch_scope():
        inputs = make_inputs()
        images = model.preprocess_image(inputs)
        features = {key: feats.detach() for key, feats in model.backbone(images.tensor).items()}
        targets = torch.full((2, 96, 96), 255)
        for i, image in enumerate(inputs):
            height, width = image["sem_seg"].shape
            targets[i, :height, :width] = image["sem_seg"]
        # What is zero at the start lets gradients through from the second step on.
        for _ in range(3):
            _, losses = head.train()(features, targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            silent -= {
                name
                for name, parameter in head.named_parameters()
                if parameter.grad is not None and parameter.grad.abs().max() > 0
            }
            optimizer.step()
    assert silent == set()
    assert all(loss.isfinite() for loss in losses.values())
    assert ("loss_sem_seg_region" in losses) == head.context.uses_regions
    with torch.no_grad():
        for result, image in zip(model.eval()(inputs), inputs, strict=True):
            assert result["sem_seg"].shape == (7, *image["sem_seg"].shape)
            assert result["sem_seg"].isfinite().all()
            assert result["panoptic_seg"][0].shape == image["sem_seg"].shape


def test_the_readmes_scheme_of_ones_own():
    readme = (REPOSITORY / "README.md").read_text()
    (source,) = (
        block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "Nothing" in block
    )
    try:
        exec(source, {})
        head = build_sem_seg_head(
            small_config(
                "ocr",
                [
                    *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
                    *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "nothing"),
                    *("MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
                    *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 24),
                ],
            ),
            SHAPES,
        )
    finally:
        CONTEXT_REGISTRY._obj_map.pop("nothing", None)
    logits, _ = head.eval()(make_features())
    assert logits.shape == (2, 7, 64, 96)
