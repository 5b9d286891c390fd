"""COCO's test images: the lists, the registered data sets, and what is said when files miss."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ocr_panoptic.data.checks import check_dataset_files, check_num_classes
from ocr_panoptic.data.test_dev import TEST_LISTS, load_image_info, register_all_test_images
from ocr_panoptic.engine.setup import check_config
from ocr_panoptic.errors import InputError

from ..models import small_config

NAMES = list(TEST_LISTS)


@pytest.fixture
def coco(tmp_path):
    """A ``coco`` folder with two test images and both lists, registered."""
    kept = [MetadataCatalog.pop(name) for name in NAMES]
    for name in NAMES:
        DatasetCatalog.remove(name)
    folder = tmp_path / "coco"
    for name in ("annotations", "test2017"):
        (folder / name).mkdir(parents=True)
    images = [
        {"id": number, "file_name": f"{number:012}.jpg", "height": 20, "width": 30}
        for number in (581_918, 1)
    ]
    for image in images:
        Image.new("RGB", (30, 20)).save(folder / "test2017" / image["file_name"])
    categories = [{"id": 1, "name": "person", "supercategory": "person"}]
    for path in TEST_LISTS.values():
        content = {"images": images, "categories": categories}
        (tmp_path / path).write_text(json.dumps(content))
    register_all_test_images(tmp_path)
    yield folder
    for name, metadata in zip(NAMES, kept, strict=True):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        root = metadata.image_root.removesuffix("/coco/test2017")
    register_all_test_images(root)


@pytest.mark.parametrize("name", NAMES)
def test_the_classes_are_those_of_the_val_set(name):
    metadata = MetadataCatalog.get(name)
    like = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    for key in (
        *("thing_classes", "thing_dataset_id_to_contiguous_id", "thing_colors", "stuff_classes"),
        *("stuff_dataset_id_to_contiguous_id", "stuff_colors", "ignore_label"),
    ):
        assert metadata.get(key) == like.get(key) is not None
    assert metadata.evaluator_type == "coco_panoptic_results"
    assert metadata.get("panoptic_json") is None
    # Beside those of Detectron2.
    folder = like.json_file.removesuffix("instances_val2017.json")
    assert metadata.json_file.startswith(f"{folder}image_info_test")
    assert metadata.image_root.endswith("coco/test2017")


@pytest.mark.parametrize("name", NAMES)
def test_images_are_detectron2s_dicts(coco, name):
    check_dataset_files(name)
    assert DatasetCatalog.get(name) == [
        {
            "file_name": str(coco / "test2017" / f"{number:012}.jpg"),
            "image_id": number,
            "height": 20,
            "width": 30,
        }
        for number in (581_918, 1)
    ]
    cfg = small_config(
        "ocr",
        [
            *("DATASETS.TRAIN", (), "DATASETS.TEST", (name,)),
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54, "MODEL.ROI_HEADS.NUM_CLASSES", 80),
            *("OUTPUT_DIR", coco / "output"),
        ],
    )
    # What train_net.py --eval-only asks for.
    check_config(cfg, train=False)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 81
    with pytest.raises(InputError, match=f"is 81; expected 80, .* of dataset {name}"):
        check_num_classes(cfg)


def test_missing_files_are_one_line(coco):
    name = NAMES[0]
    image = coco / "test2017" / "000000000001.jpg"
    image.unlink()
    with pytest.raises(InputError) as caught:
        DatasetCatalog.get(name)
    assert str(caught.value) == f"{image}: missing; expected as image of dataset {name}"
    (coco / "test2017").rename(coco / "elsewhere")
    with pytest.raises(
        InputError, match=f"test2017: no such folder; expected each image of .*{name}"
    ):
        DatasetCatalog.get(name)
    image_list = coco / "annotations" / "image_info_test-dev2017.json"
    image_list.unlink()
    with pytest.raises(InputError) as caught:
        DatasetCatalog.get(name)
    assert str(caught.value) == f"{image_list}: No such file or directory; expected a json file"


def test_lists_keep_their_order(coco):
    images = load_image_info(coco / "annotations" / "image_info_test2017.json")
    assert list(images) == [581_918, 1]
    assert images[1] == {"id": 1, "file_name": "000000000001.jpg", "height": 20, "width": 30}


def test_images_of_several_folders_may_share_names(tmp_path):
    path = tmp_path / "list.json"
    names = ("a/1.jpg", "b/1.jpg", "b/1.png")
    rows = [{"id": i, "file_name": n, "height": 2, "width": 3} for i, n in enumerate(names)]
    path.write_text(json.dumps({"images": rows[:2]}))
    assert list(load_image_info(path)) == [0, 1]
    path.write_text(json.dumps({"images": rows}))
    with pytest.raises(InputError, match=r"image id 2: 'file_name' b/1.png occurs twice, but for"):
        load_image_info(path)
