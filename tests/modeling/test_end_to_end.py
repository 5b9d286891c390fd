"""Whole models on the inputs that break models: odd sizes, nothing to see, half precision."""

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from ..models import small_config, small_model


def make_input(height, width, *, boxes=(), label=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    labels = torch.randint(0, 7, (height, width), generator=generator)
    if label is not None:
        labels[:] = label
    return {"image": image, "instances": instances, "sem_seg": labels}


BATCHES = {
    "ordinary": [make_input(64, 96, boxes=[(5, 5, 40, 50)])] * 2,
    "odd sizes": [make_input(61, 97, boxes=[(5, 5, 40, 50)]), make_input(50, 33)],
    "no instance": [make_input(64, 64), make_input(40, 64)],
    "all ignored": [make_input(64, 64, label=255), make_input(40, 64, label=255)],
    "one pixel high": [make_input(1, 64, boxes=[(0, 0, 9, 1)]), make_input(40, 64)],
}


@pytest.mark.parametrize("name", BATCHES)
def test_trains_on(name):
    model = small_model().train()
    with EventStorage():
        losses = model(BATCHES[name])
    assert {"loss_sem_seg", "loss_sem_seg_region"} <= set(losses)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("norm", ["SyncBN", "GN"])
def test_trains_with_the_norms_that_a_config_can_name(norm):
    widths = ["MODEL.SEM_SEG_HEAD.OCR.CHANNELS", 64, "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS", 64]
    model = small_model("ocr", [*widths, "MODEL.SEM_SEG_HEAD.OCR.NORM", norm]).train()
    with EventStorage():
        losses = model(BATCHES["ordinary"])
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.sem_seg_head.parameters())


@pytest.mark.parametrize("name", BATCHES)
@torch.no_grad()
def test_predicts(name):
    model = small_model().eval()
    for one, result in zip(BATCHES[name], model(BATCHES[name]), strict=True):
        panoptic_map, segments = result["panoptic_seg"]
        assert panoptic_map.shape == one["image"].shape[1:]
        assert result["sem_seg"].shape == (7, *one["image"].shape[1:])
        assert result["sem_seg"].isfinite().all()
        assert set(panoptic_map.unique().tolist()) - {0} == {s["id"] for s in segments}


@torch.no_grad()
def test_predicts_under_autocast():
    model = small_model().eval()
    exact = model(BATCHES["ordinary"])[0]["sem_seg"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(BATCHES["ordinary"])[0]["sem_seg"]
    assert rounded.isfinite().all()
    assert (rounded.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_detectron2s_predictor_takes_our_config(datasets_root):
    overrides = ["DATASETS.TEST", "('test_shapes_val_separated',)", "INPUT.MAX_SIZE_TEST", 96]
    predictor = DefaultPredictor(small_config("ocr", overrides))
    panoptic_map, _ = predictor(np.zeros((70, 90, 3), np.uint8))["panoptic_seg"]
    assert panoptic_map.shape == (70, 90)
