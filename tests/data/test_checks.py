"""Checks of registered datasets and numbers of classes, before anything is loaded."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_coco_panoptic_separated
from panopticapi.utils import id2rgb
from PIL import Image

from ocr_panoptic.data.checks import check_dataset_files, check_num_classes
from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic
from ocr_panoptic.errors import InputError

NAME = "checks_separated"
STUFF_ONLY = "checks_stuffonly"
INSTANCES = "checks_instances"
METADATA = {
    "thing_classes": ["cat"],
    "thing_dataset_id_to_contiguous_id": {1: 0},
    "stuff_classes": ["things", "sky", "road"],
    "stuff_dataset_id_to_contiguous_id": {0: 0, 2: 1, 3: 2},
}


@pytest.fixture
def folder(tmp_path):
    """Three images with panoptic ground truth, prepared and registered."""
    for name in ("images", "panoptic_val"):
        (tmp_path / name).mkdir()
    ids = np.array([[1, 1, 2], [3, 3, 0]])
    stems = ["a", "b", "c"]
    for stem in stems:
        Image.new("RGB", (3, 2)).save(tmp_path / "images" / f"{stem}.jpg")
        Image.fromarray(id2rgb(ids)).save(tmp_path / "panoptic_val" / f"{stem}.png")
    segments = [{"id": i, "category_id": i, "iscrowd": 0} for i in (1, 2, 3)]
    data = {
        "images": [
            {"id": i, "file_name": f"{stem}.jpg", "height": 2, "width": 3}
            for i, stem in enumerate(stems)
        ],
        "annotations": [
            {"image_id": i, "file_name": f"{stem}.png", "segments_info": segments}
            for i, stem in enumerate(stems)
        ],
        "categories": [
            {"id": 1, "name": "cat", "isthing": 1},
            {"id": 2, "name": "sky", "isthing": 0},
            {"id": 3, "name": "road", "isthing": 0},
        ],
    }
    (tmp_path / "panoptic_val.json").write_text(json.dumps(data))
    prepare_coco_panoptic(
        tmp_path / "panoptic_val.json", tmp_path / "panoptic_val", num_processes=1
    )
    images, instances = str(tmp_path / "images"), str(tmp_path / "instances_val.json")
    register_coco_panoptic_separated(
        "checks",
        METADATA,
        images,
        str(tmp_path / "panoptic_val"),
        str(tmp_path / "panoptic_val.json"),
        str(tmp_path / "panoptic_stuff_val"),
        instances,
    )
    register_coco_instances(INSTANCES, {}, instances, images)
    yield tmp_path
    for name in (NAME, STUFF_ONLY, INSTANCES):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def error_of(name):
    with pytest.raises(InputError) as caught:
        check_dataset_files(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whole_datasets_pass_and_load(folder):
    for name in (NAME, STUFF_ONLY, INSTANCES):
        check_dataset_files(name)
        assert len(DatasetCatalog.get(name)) == 3


@pytest.mark.parametrize(
    ("place", "kind", "name"),
    [
        ("images", "image", "{}.jpg"),
        ("panoptic_stuff_val", "semantic PNG", "{}.png"),
        ("panoptic_val", "panoptic PNG", "{}.png"),
    ],
)
def test_missing_files_are_named_and_counted(folder, place, kind, name):
    first, second = folder / place / name.format("b"), folder / place / name.format("c")
    second.unlink()
    assert error_of(NAME) == f"{second}: missing; expected as {kind} of dataset {NAME}"
    first.unlink()
    assert error_of(NAME) == f"{first} and 1 more: missing; expected as {kind} of dataset {NAME}"


@pytest.mark.parametrize(
    ("place", "kind"),
    [("images", "image"), ("panoptic_stuff_val", "semantic PNG"), ("panoptic_val", "panoptic PNG")],
)
def test_missing_folders_are_named(folder, place, kind):
    (folder / place).rename(folder / "moved")
    assert error_of(NAME) == (
        f"{folder / place}: no such folder; expected each {kind} of dataset {NAME}"
        " (the data folder is $DETECTRON2_DATASETS, ./datasets by default)"
    )


@pytest.mark.parametrize("name", ["instances_val.json", "panoptic_val.json"])
def test_missing_and_broken_jsons_are_named(folder, name):
    (folder / name).write_text('{"images": [')
    assert error_of(NAME).startswith(f"{folder / name}: broken json (")
    (folder / name).write_text("{}")
    assert error_of(NAME).startswith(f"{folder / name}: 'images' is missing; expected")
    (folder / name).unlink()
    assert error_of(NAME) == f"{folder / name}: No such file or directory; expected a json file"


def test_image_without_panoptic_annotation(folder):
    path = folder / "panoptic_val.json"
    data = json.loads(path.read_text())
    del data["annotations"][1:]
    path.write_text(json.dumps(data))
    assert error_of(NAME) == (
        f"{path}: no annotation of image id 1 and 1 more; expected one for each image of dataset"
        f" {NAME}"
    )


def test_image_without_file_name(folder):
    path = folder / "instances_val.json"
    data = json.loads(path.read_text())
    del data["images"][2]["file_name"]
    path.write_text(json.dumps(data))
    for name in (NAME, INSTANCES):
        assert error_of(name) == (
            f"dataset {name}: an entry of its json, id 2, has no 'file_name'; expected text"
        )


def test_semantic_dataset_pairs_images_with_labels(folder):
    image, label = folder / "images" / "b.jpg", folder / "panoptic_stuff_val" / "b.png"
    content = image.read_bytes()
    image.unlink()
    assert error_of(STUFF_ONLY) == f"{image}: missing; expected as image of dataset {STUFF_ONLY}"
    image.write_bytes(content)
    label.unlink()
    assert (
        error_of(STUFF_ONLY)
        == f"{label}: missing; expected as semantic PNG of dataset {STUFF_ONLY}"
    )
    for path in (folder / "images").iterdir():
        path.unlink()
    assert error_of(STUFF_ONLY) == (
        f"{folder / 'images'}: holds no image; expected those of dataset {STUFF_ONLY}"
    )


def test_names_that_are_not_registered(folder):
    assert error_of("checks_seperated").startswith(
        "dataset 'checks_seperated' is not registered; did you mean checks_separated"
    )
    assert "did you mean coco_2017_val_panoptic_separated or" in error_of(
        "coco_2017_val_panoptic_seperated"
    )
    assert error_of("?") == "dataset '?' is not registered; no name is close to it"


def config(architecture, semantic=3, things=1, train=(NAME,), test=()):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = semantic
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = things
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    return cfg


@pytest.mark.parametrize(
    ("architecture", "semantic", "things"),
    [
        ("PanopticFPN", 3, 1),
        ("OtherPanopticFPN", 3, 1),
        ("GeneralizedRCNN", 54, 1),
        ("SemanticSegmentor", 3, 80),
    ],
)
def test_right_numbers_of_classes_pass(folder, architecture, semantic, things):
    check_num_classes(config(architecture, semantic, things, test=(NAME,)))


@pytest.mark.parametrize("architecture", ["PanopticFPN", "SemanticSegmentor"])
def test_wrong_number_of_semantic_classes(folder, architecture):
    with pytest.raises(InputError) as caught:
        check_num_classes(config(architecture, semantic=54))
    assert str(caught.value) == (
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 54; expected 3, the number of stuff_classes of dataset"
        f" {NAME} (things, sky, road)"
    )


@pytest.mark.parametrize("architecture", ["PanopticFPN", "GeneralizedRCNN"])
def test_wrong_number_of_things(folder, architecture):
    with pytest.raises(InputError) as caught:
        check_num_classes(config(architecture, things=80, train=(), test=(NAME,)))
    assert str(caught.value) == (
        "MODEL.ROI_HEADS.NUM_CLASSES is 80; expected 1, the number of thing_classes of dataset"
        f" {NAME} (cat)"
    )


def test_classes_that_detectron2_learns_only_at_loading(folder):
    check_num_classes(config("GeneralizedRCNN", train=(INSTANCES,)))
    with pytest.raises(InputError, match="NUM_CLASSES is 2; expected 1, the number of thing_class"):
        check_num_classes(config("GeneralizedRCNN", things=2, train=(INSTANCES,)))
    with pytest.raises(InputError) as caught:
        check_num_classes(config("PanopticFPN", train=(INSTANCES,)))
    assert str(caught.value) == (
        f"dataset {INSTANCES}: its metadata has no stuff_classes; expected the class names that"
        " MODEL.SEM_SEG_HEAD.NUM_CLASSES counts"
    )


def test_numbers_of_classes_of_a_dataset_that_is_not_registered(folder):
    with pytest.raises(InputError, match="dataset 'nowhere' is not registered"):
        check_num_classes(config("PanopticFPN", train=("nowhere",)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_detectron2s_coco_asks_for_54_and_80(split):
    name = f"coco_2017_{split}_panoptic_separated"
    check_num_classes(config("PanopticFPN", semantic=54, things=80, train=(name,)))
    with pytest.raises(InputError, match=f"is 53; expected 54, .* of dataset {name} .things, "):
        check_num_classes(config("PanopticFPN", semantic=53, things=80, train=(name,)))
