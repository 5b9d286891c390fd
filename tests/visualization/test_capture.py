"""Soft object regions of a model while it predicts."""

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
