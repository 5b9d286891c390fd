"""From the loader to the device: images, labels, and what is padding."""

import pytest
import torch

from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.modeling.meta_arch import padding_mask, true_labels
from ocr_panoptic.modeling.meta_arch.batch import batch_scope

from ..models import small_config
from .device import DEVICE, assert_close, needs_device

pytestmark = needs_device

TRAIN = "('test_shapes_train_separated',)"
OVERRIDES = [
    *("MODEL.DEVICE", DEVICE, "DATASETS.TRAIN", TRAIN, "DATASETS.TEST", "()"),
    *("MODEL.META_ARCHITECTURE", "PaddingAwarePanopticFPN", "SOLVER.IMS_PER_BATCH", 4),
    # Sizes that differ within a batch, and are no multiples of the largest stride.
    *("INPUT.MIN_SIZE_TRAIN", "(60, 75, 90)", "INPUT.MAX_SIZE_TRAIN", 200),
]
GROUND_TRUTH = [
    *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
    *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "gt_ocr", "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
    *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 64),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_padding_of_a_batch_is_known_on_the_device(datasets_root, workers):
    overrides = [*OVERRIDES, *GROUND_TRUTH, "DATALOADER.NUM_WORKERS", workers]
    cfg = small_config("baseline", overrides)
    model = Trainer.build_model(cfg)
    batch = next(iter(Trainer.build_train_loader(cfg)))
    sizes = [tuple(image["image"].shape[1:]) for image in batch]
    assert len(set(sizes)) > 1
    with batch_scope():
        images = model.preprocess_image(batch)
        assert images.tensor.device.type == DEVICE
        labels = true_labels()
        masks = {
            stride: padding_mask(images.tensor[:, :, ::stride, ::stride]) for stride in (4, 16)
        }
    for stride, mask in masks.items():
        assert mask.device.type == DEVICE
        for of_image, (height, width) in zip(mask.cpu(), sizes, strict=True):
            expected = torch.ones_like(of_image)
            expected[: -(-height // stride), : -(-width // stride)] = False
            assert torch.equal(of_image, expected)
    assert labels.device.type == DEVICE
    for found, image, (height, width) in zip(labels.cpu(), batch, sizes, strict=True):
        assert torch.equal(found[:height, :width], image["sem_seg"])
        assert (found[height:] == 255).all()
        assert (found[:, width:] == 255).all()


@torch.no_grad()
def test_an_image_does_not_see_the_padding_around_it(datasets_root):
    # With BatchNorm everywhere; the head's own 3x3 convolutions read one cell of it.
    cfg = small_config("ocr", [*OVERRIDES, "MODEL.SEM_SEG_HEAD.NORM", "BN"])
    model = Trainer.build_model(cfg).eval()
    images = [
        torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(size[0]))
        for size in ((64, 64), (96, 128))
    ]
    fused = torch.randn(2, 128, 24, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    logits = torch.randn(2, 7, 24, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    head = model.sem_seg_head
    with batch_scope():
        model.preprocess_image([{"image": image} for image in images])
        mask = head.padding_of(fused)
    together = head.ocr(fused, logits, mask)
    alone = head.ocr(fused[:1, :, :16, :16].contiguous(), logits[:1, :, :16, :16].contiguous())
    assert mask[0].sum() == 24 * 32 - 16 * 16
    assert not mask[1].any()
    assert_close(together[:1, :, :16, :16], alone, 1e-4)
