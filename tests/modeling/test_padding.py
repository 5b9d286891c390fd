"""The padding mask, from its definition and inside whole models."""

import logging

import pytest
import torch
from detectron2.structures import ImageList
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.modeling.meta_arch import batch as batch_module
from ocr_panoptic.modeling.meta_arch import padding, padding_mask

from ..models import small_config, small_model


def make_batch(sizes, divisibility):
    return ImageList.from_tensors([torch.zeros(3, *size) for size in sizes], divisibility)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3),
    stride=st.sampled_from([1, 2, 4, 8, 16, 32]),
)
def test_a_cell_is_valid_if_it_contains_a_pixel_of_the_image(sizes, stride):
    images = make_batch(sizes, 32)
    feats = torch.zeros(len(sizes), 1, *(size // stride for size in images.tensor.shape[-2:]))
    with batch_module.batch_scope():
        batch_module.record_images(images)
        mask = padding_mask(feats)
    has_pixel = torch.zeros(len(sizes), *feats.shape[-2:], dtype=torch.bool)
    for n, (height, width) in enumerate(sizes):
        for row in range(height):
            for column in range(0, width, min(stride, width)):
                has_pixel[n, row // stride, column // stride] = True
            has_pixel[n, row // stride, (width - 1) // stride] = True
    if mask is None:
        assert has_pixel.all()
        assert all(size == tuple(images.tensor.shape[-2:]) for size in sizes)
    else:
        assert torch.equal(mask, ~has_pixel)


def test_no_mask_outside_of_a_scope_and_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(padding._warn_once, "done", False)
    with caplog.at_level(logging.WARNING):
        assert padding_mask(torch.zeros(1, 1, 4, 4)) is None
        assert padding_mask(torch.zeros(1, 1, 4, 4)) is None
    assert len(caplog.records) == 1
    assert "padding is not masked: set MODEL.META_ARCHITECTURE" in caplog.text


def test_a_scope_forgets_its_batch_also_after_an_error():
    def fail():
        with batch_module.batch_scope():
            batch_module.record_images(make_batch([(5, 5)], 32))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert batch_module._batch.get() is None
    batch_module.record_images(make_batch([(5, 5)], 32))
    assert batch_module._batch.get() is None


@pytest.mark.parametrize("stock", ["PanopticFPN", "GeneralizedRCNN"])
def test_state_dict_is_that_of_the_stock_architecture(stock):
    ours = small_model("baseline", ["MODEL.META_ARCHITECTURE", f"PaddingAware{stock}"])
    theirs = small_model("baseline", ["MODEL.META_ARCHITECTURE", stock])
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def images_of(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
        for size in sizes
    ]


def masks_seen_by_ocr(model, batch, call=None):
    """Return the padding masks that the OCR layer gets, one for each call of the model."""
    masks = []
    hook = model.sem_seg_head.ocr.register_forward_pre_hook(
        lambda module, args, given: masks.append(given["padding_mask"]), with_kwargs=True
    )
    with torch.no_grad():
        (call or model)(batch)
    hook.remove()
    return masks


@pytest.mark.parametrize("call", ["forward", "inference"])
def test_a_model_masks_the_padding_of_its_batch(call):
    model = small_model().eval()
    batch = images_of((64, 96), (40, 70))
    (mask,) = masks_seen_by_ocr(model, batch, getattr(model, call))
    expected = torch.ones(2, 16, 24, dtype=torch.bool)
    expected[0, :16, :24] = False
    expected[1, :10, :18] = False  # 70 pixels are 17.5 cells of 4
    assert torch.equal(mask, expected)
    assert batch_module._batch.get() is None


def test_no_mask_without_padding_and_with_the_switch_off():
    model = small_model().eval()
    assert masks_seen_by_ocr(model, images_of((64, 96))) == [None]
    model.sem_seg_head.mask_padding = False
    assert masks_seen_by_ocr(model, images_of((64, 96), (40, 70))) == [None]
    config = small_config("ocr", ["MODEL.SEM_SEG_HEAD.OCR.MASK_PADDING", False])
    assert config.MODEL.SEM_SEG_HEAD.OCR.MASK_PADDING is False


def test_a_foreign_meta_architecture_runs_without_a_mask(monkeypatch, caplog):
    monkeypatch.setattr(padding._warn_once, "done", False)
    model = small_model("ocr", ["MODEL.META_ARCHITECTURE", "PanopticFPN"]).eval()
    with caplog.at_level(logging.WARNING):
        assert masks_seen_by_ocr(model, images_of((64, 96), (40, 70))) == [None]
        assert masks_seen_by_ocr(model, images_of((64, 96), (40, 70))) == [None]
    assert caplog.text.count("padding is not masked") == 1
