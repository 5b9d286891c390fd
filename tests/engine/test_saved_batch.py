"""A batch of a training, saved and loaded: the same to a model, and a file that runs nothing."""

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from detectron2.utils.events import EventStorage

from ocr_panoptic.engine.safe_load import load_checkpoint_file
from ocr_panoptic.engine.saved_batch import load_batch, save_batch
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.errors import InputError

from ..models import SMALLEST, small_config

TRAIN = "('test_shapes_train_separated',)"


def flat(overrides):
    return [word for pair in overrides.items() for word in pair]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_model_sees_the_same(datasets_root, tmp_path, mask_format):
    overrides = {**SMALLEST, "DATASETS.TRAIN": TRAIN, "INPUT.MASK_FORMAT": mask_format}
    cfg = small_config("ocr", flat(overrides))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    batch = next(iter(Trainer.build_train_loader(cfg)))
    save_batch(batch, tmp_path / "batch.pth")
    again = load_batch(tmp_path / "batch.pth")
    assert [one["file_name"] for one in again] == [one["file_name"] for one in batch]

    def losses(batch):
        torch.manual_seed(1)
        return {key: loss.item() for key, loss in model(batch).items()}

    # torch's own safe reader takes it too.
    torch.load(tmp_path / "batch.pth", weights_only=True)
    with EventStorage():
        assert losses(again) == losses(batch)


def test_every_structure(tmp_path):
    polygons = [[np.array([1.0, 2, 5, 2, 5, 7.5])], [np.arange(6.0), np.arange(8.0)]]
    instances = Instances(
        (12, 10),
        gt_boxes=Boxes(torch.tensor([[1.0, 2, 3, 4], [0, 0, 5, 5]])),
        rotated=RotatedBoxes(torch.tensor([[1.0, 2, 3, 4, 30], [0, 0, 5, 5, 0]])),
        gt_masks=PolygonMasks(polygons),
        bits=BitMasks(torch.rand(2, 12, 10) > 0.5),
        gt_keypoints=Keypoints(torch.rand(2, 3, 3)),
        gt_classes=torch.tensor([3, 4]),
    )
    large = torch.arange(100000.0)
    one = {"image": large[:6].view(1, 2, 3), "instances": instances, "width": np.int64(10)}
    one |= {"size": (1, 2), "none": None, "other": {1, 2}, "array": np.ones(2), "flag": True}
    save_batch([one], tmp_path / "batch.pth")
    # Of a view, not all that it is a part of.
    assert (tmp_path / "batch.pth").stat().st_size < 20000
    (again,) = load_batch(tmp_path / "batch.pth")
    got = again["instances"]
    assert got.image_size == (12, 10)
    for key, field in instances.get_fields().items():
        assert type(got.get(key)) is type(field), key
        if key not in ("gt_masks", "gt_classes"):
            assert torch.equal(got.get(key).tensor, field.tensor), key
    assert torch.equal(got.gt_classes, instances.gt_classes)
    for mine, given in zip(got.gt_masks.polygons, polygons, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, given, strict=True))
    assert torch.equal(again["image"], one["image"])
    assert (again["width"], again["size"], again["none"], again["flag"]) == (10, [1, 2], None, True)
    assert again["other"] == "{1, 2}"
    assert load_checkpoint_file(tmp_path / "batch.pth").is_zip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"x": {"detectron2.structures": "Boxes", "tensor": torch.ones(2, 3)}}],
            "no batch ",
        ),
        ({"model": {}}, "expected a list with a dict for each image"),
        ([1], "expected a list with a dict for each image"),
        ([{"x": {"detectron2.structures": "Boxen", "tensor": 3}}], r"no batch \('Boxen'\)"),
        ([{"x": {"detectron2.structures": "Instances"}}], r"no batch \('image_size'\)"),
    ],
)
def test_another_file_is_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "batch.pth")
    with pytest.raises(InputError, match=rf"batch\.pth is no batch.*{message}|{message}") as caught:
        load_batch(tmp_path / "batch.pth")
    assert "\n" not in str(caught.value)


def test_nothing_is_run(tmp_path):
    torch.save([print], tmp_path / "batch.pth")
    with pytest.raises(InputError, match="is refused, as loading it could run any code"):
        load_batch(tmp_path / "batch.pth")
