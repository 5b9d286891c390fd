"""Soft object regions of a model while it predicts."""

import pytest
import torch

from ocr_panoptic.visualization.capture import predict_with_regions

from ..models import small_model

IMAGE = torch.randint(
    0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
INPUTS = {"image": IMAGE, "height": 50, "width": 70}


def test_regions_cover_the_image_and_nothing_else():
    model = small_model().eval()
    result, regions = predict_with_regions(model, INPUTS)
    # 50 and 70 pixels reach into 13 and 18 cells of 4.
    assert regions.shape == (7, 13, 18)
    torch.testing.assert_close(regions.sum(0), torch.ones(13, 18))
    assert (regions >= 0).all()
    with torch.no_grad():
        torch.testing.assert_close(result["sem_seg"], model([INPUTS])[0]["sem_seg"])


def test_hooks_are_gone_afterwards():
    model = small_model().eval()
    predict_with_regions(model, INPUTS)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_model_without_ocr_has_no_regions():
    _, regions = predict_with_regions(small_model("baseline").eval(), INPUTS)
    assert regions is None


def context_head(name):
    return small_model(
        "ocr",
        [
            *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
            *("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.5, "MODEL.SEM_SEG_HEAD.CONTEXT.NAME", name),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN", "MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 32),
        ],
    ).eval()


@pytest.mark.parametrize("name", ["acf", "ocr", "ocr_da_relation", "ocr_unsupervised"])
def test_every_scheme_with_regions_shows_its_own(name):
    model = context_head(name)
    given = {}
    layer = model.sem_seg_head.context
    layer.register_forward_pre_hook(
        lambda layer, args, kwargs: given.update(feats=args[0], **kwargs), with_kwargs=True
    )
    _, regions = predict_with_regions(model, INPUTS)
    scores = given["region_logits"]
    if name == "ocr_unsupervised":
        with torch.no_grad():
            scores = layer.region_predictor(given["feats"])
    torch.testing.assert_close(regions, scores[0].softmax(0)[:, :13, :18])


def test_the_ground_truth_is_no_prediction_of_regions():
    inputs = {**INPUTS, "sem_seg": torch.zeros(50, 70, dtype=torch.int64)}
    assert predict_with_regions(context_head("gt_ocr"), inputs)[1] is None
