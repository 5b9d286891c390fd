"""The mapper: masks of every origin, empty images and crops, and errors that name the file."""

import copy
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from ocr_panoptic.data.mapper import PanopticDatasetMapper
from ocr_panoptic.errors import InputError

HEIGHT, WIDTH = 24, 32
SQUARE = [[4.0, 6.0, 12.0, 6.0, 12.0, 14.0, 4.0, 14.0]]


def rle(top=6, left=4, side=8, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    return mask_util.encode(mask)


def annotation(segmentation, **more):
    box = {"bbox": [4.0, 6.0, 8.0, 8.0], "bbox_mode": BoxMode.XYWH_ABS}
    return {**box, "category_id": 1, "iscrowd": 0, "segmentation": segmentation, **more}


@pytest.fixture
def record(tmp_path):
    image, label = tmp_path / "1.jpg", tmp_path / "1.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(image)
    save_label(label, rng.choice([0, 1, 2, 255], (HEIGHT, WIDTH)))
    return {
        "file_name": str(image),
        "sem_seg_file_name": str(label),
        "image_id": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [annotation(SQUARE)],
    }


def save_label(path, values):
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def mapper(is_train=True, augmentations=(), **more):
    arguments = {"image_format": "BGR", "use_instance_mask": True, "num_sem_seg_classes": 3}
    return PanopticDatasetMapper(
        is_train, augmentations=list(augmentations), **{**arguments, **more}
    )


def error_of(record, **more):
    with pytest.raises(InputError) as caught:
        mapper(**more)(record)
    return str(caught.value)


def test_from_config_reads_the_semantic_head():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 200
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.CROP.ENABLED = True
    made = PanopticDatasetMapper(cfg, is_train=True)
    assert (made.num_sem_seg_classes, made.ignore_value) == (7, 200)
    assert made.use_instance_mask
    assert made.recompute_boxes
    assert not PanopticDatasetMapper(cfg, is_train=False).is_train


def test_polygons_map_as_in_detectron2(record):
    stock = DatasetMapper(True, augmentations=[], image_format="BGR", use_instance_mask=True)
    expected, found = stock(record), mapper()(record)
    assert torch.equal(found["image"], expected["image"])
    assert torch.equal(found["sem_seg"], expected["sem_seg"])
    assert isinstance(found["instances"].gt_masks, PolygonMasks)
    assert np.array_equal(
        found["instances"].gt_masks.polygons[0][0], expected["instances"].gt_masks.polygons[0][0]
    )
    assert torch.equal(found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)


def test_rle_maps_to_bitmasks_under_polygon(record):
    record["annotations"] = [annotation(rle()), annotation(SQUARE)]
    before = copy.deepcopy(record)
    made = mapper(augmentations=[T.RandomFlip(prob=1.0)])
    masks = made(record)["instances"].gt_masks
    assert isinstance(masks, BitMasks)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[6:14, WIDTH - 12 : WIDTH - 4] = True
    assert np.array_equal(masks.tensor[0].numpy(), expected)
    assert np.array_equal(masks.tensor[1].numpy(), expected)
    assert record == before
    # One image's masks do not change how the next are read.
    record["annotations"] = [annotation(SQUARE)]
    assert isinstance(made(record)["instances"].gt_masks, PolygonMasks)


def test_crowds_do_not_change_the_format(record):
    record["annotations"].append(annotation(rle(), iscrowd=1))
    instances = mapper()(record)["instances"]
    assert len(instances) == 1
    assert isinstance(instances.gt_masks, PolygonMasks)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("recompute_boxes", [False, True])
@pytest.mark.parametrize("annotations", [[], [annotation(rle(), iscrowd=1)]])
def test_an_image_without_instance_has_empty_masks(
    record, annotations, mask_format, recompute_boxes
):
    record["annotations"] = annotations
    made = mapper(instance_mask_format=mask_format, recompute_boxes=recompute_boxes)
    instances = made(record)["instances"]
    assert len(instances) == len(instances.gt_masks) == len(instances.gt_boxes) == 0
    kind = PolygonMasks if mask_format == "polygon" else BitMasks
    assert isinstance(instances.gt_masks, kind)
    assert instances.gt_masks.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)


@pytest.mark.parametrize("segmentation", [SQUARE, rle()])
def test_a_crop_without_instance_has_empty_masks(record, segmentation):
    record["annotations"] = [annotation(segmentation)]
    crop = T.CropTransform(20, 0, 12, 24, orig_w=WIDTH, orig_h=HEIGHT)
    result = mapper(augmentations=[crop], recompute_boxes=True)(record)
    assert result["image"].shape == (3, 24, 12)
    assert len(result["instances"]) == len(result["instances"].gt_masks) == 0


def test_without_masks_none_are_asked_for(record):
    record["annotations"] = [annotation(SQUARE)]
    del record["annotations"][0]["segmentation"]
    instances = mapper(use_instance_mask=False)(record)["instances"]
    assert len(instances) == 1
    assert not instances.has("gt_masks")


def test_inference_has_no_instances(record):
    result = mapper(is_train=False)(record)
    assert "instances" not in result
    assert "annotations" not in result


def test_dataset_without_labels_or_size(record):
    for key in ("sem_seg_file_name", "height", "width"):
        del record[key]
    result = mapper()(record)
    assert "sem_seg" not in result
    assert (result["height"], result["width"]) == (HEIGHT, WIDTH)


# What bad input is told.


def test_label_out_of_range(record):
    values = np.full((HEIGHT, WIDTH), 255)
    values[3, 4], values[5, 6] = 3, 202
    save_label(record["sem_seg_file_name"], values)
    assert error_of(record) == (
        f"{record['sem_seg_file_name']}: semantic label 3, 202; expected 0 to 2"
        " (MODEL.SEM_SEG_HEAD.NUM_CLASSES 3) or 255 (IGNORE_VALUE)"
    )
    mapper(num_sem_seg_classes=203)(record)
    assert "semantic label 202, 255; expected" in error_of(record, ignore_value=3)


def test_many_labels_out_of_range_make_a_short_message(record):
    save_label(record["sem_seg_file_name"], np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 250)
    assert "semantic label 3, 4, 5, 6, 7, ...; expected 0 to 2" in error_of(record)


@pytest.mark.parametrize(
    ("mode", "meaning"),
    [
        ("RGB", "an RGB image, such as a panoptic PNG"),
        ("RGBA", "an RGBA image, such as a panoptic PNG"),
        ("P", "a palette image, of which Detectron2 would read the colours"),
        ("1", "a 1-bit image"),
        ("I;16", "an image of mode I;16"),
    ],
)
def test_label_of_another_kind(record, mode, meaning):
    Image.new(mode, (WIDTH, HEIGHT)).save(record["sem_seg_file_name"])
    assert error_of(record) == (
        f"{record['sem_seg_file_name']}: {meaning}; expected an 8-bit greyscale semantic label"
        " (datasets/prepare_coco_panoptic.py derives them from panoptic PNGs)"
    )


@pytest.mark.parametrize(
    ("key", "kind"), [("file_name", "image"), ("sem_seg_file_name", "semantic label")]
)
def test_missing_and_truncated_files(record, tmp_path, key, kind):
    path = tmp_path / record[key]
    content = path.read_bytes()
    for kept in (len(content) // 2, 10, 0):
        path.write_bytes(content[:kept])
        message = error_of(record)
        assert message.startswith(f"{path}: truncated or no image (")
        assert message.endswith(f"); expected the {kind}")
        assert "\n" not in message
    path.unlink()
    assert error_of(record) == f"{path}: missing; expected the {kind}"


@pytest.mark.parametrize(
    ("key", "kind"), [("file_name", "image"), ("sem_seg_file_name", "semantic label")]
)
def test_a_pipe_is_not_waited_for(record, tmp_path, key, kind):
    path = tmp_path / record[key]
    path.unlink()
    os.mkfifo(path)
    assert error_of(record) == f"{path}: no regular file; expected the {kind}"


def test_image_of_another_size(record):
    record["width"] = 33
    assert error_of(record) == (
        f"{record['file_name']}: image of 32x24 pixels; expected 33x24, as its annotation says"
    )


@pytest.mark.parametrize("augmentations", [[], [T.Resize((48, 64))]])
def test_label_of_another_size(record, augmentations):
    save_label(record["sem_seg_file_name"], np.zeros((HEIGHT, WIDTH + 1)))
    expected = (
        f"{record['sem_seg_file_name']}: semantic label of 33x24 pixels; expected 32x24, as its"
        f" image {record['file_name']}"
    )
    assert error_of(record, augmentations=augmentations) == expected


def test_rle_of_another_size(record):
    record["annotations"] = [annotation(rle(height=20))]
    assert error_of(record) == (
        f"{record['file_name']}: an instance's RLE has size [20, 32]; expected the image's"
        " [24, 32] (height, width)"
    )


def test_instance_without_mask(record):
    del record["annotations"][0]["segmentation"]
    assert error_of(record) == (
        f"{record['file_name']}: an instance has no 'segmentation'; expected polygons or RLE, as"
        " MODEL.MASK_ON is True"
    )


def test_a_bug_keeps_its_own_exception(record):
    record["annotations"] = [{**annotation(SQUARE), "bbox_mode": None}]
    with pytest.raises(Exception) as caught:  # noqa: PT011 whichever Detectron2 raises
        mapper()(record)
    assert not isinstance(caught.value, InputError)


class Mapped(torch.utils.data.Dataset):
    def __init__(self, record):
        self.record, self.mapper = record, mapper()

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.mapper(self.record)


def test_a_worker_of_a_data_loader_tells_the_same_line(record):
    save_label(record["sem_seg_file_name"], np.full((HEIGHT, WIDTH), 77))
    expected = error_of(record)
    loader = torch.utils.data.DataLoader(
        Mapped(record), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(InputError) as caught:
        list(loader)
    assert str(caught.value) == expected
    assert "\n" not in expected
