"""Data sets that a config lists: no code, a few lines, both NUM_CLASSES from the data."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from ocr_panoptic.data.derived import CACHE_VARIABLE
from ocr_panoptic.data.register import is_registered, register_coco_panoptic
from ocr_panoptic.engine.setup import check_config, load_config
from ocr_panoptic.errors import BAD_INPUT, InputError

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY
from ..panoptic_sets import SPARSE, STUFF, THINGS, PanopticSet

NAME = "custom_test"


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """No cache of the user's, and no data set left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users_cache"))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


def write_config(folder, *data, base="ocr", name="mine.yaml", train=None, **more):
    """Write the config of a user and return its path."""
    names = [f"{NAME}{i or ''}" for i in range(len(data))]
    entries = [each.entry(name) for each, name in zip(data, names, strict=True)]
    content = {
        "_BASE_": str(TINY.get(base, base)),
        "DATASETS": {"CUSTOM": entries, "TRAIN": train or names[:1], "TEST": names[-1:]},
        **more,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def load(path, *overrides):
    return load_config(str(path), [str(word) for word in (*SMALL, *overrides)])


def check(cfg, tmp_path, **more):
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    return check_config(cfg, train=True, **more)


def num_classes(cfg):
    return cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES


def arguments(path, output, *overrides, options=()):
    steps = ("OUTPUT_DIR", output, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "(1,)")
    return ["--config-file", str(path), *options, *map(str, (*SMALL, *steps, *overrides))]


def read_metrics(output, name=NAME):
    return json.loads((output / "inference" / name / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("categories", "expected"), [(SPARSE, (3, 2)), (STUFF, (3, 1)), (THINGS, (1, 2))]
)
def test_both_numbers_of_classes_come_from_the_data(tmp_path, categories, expected):
    # The base sets others, for Shapes.
    cfg = load(write_config(tmp_path, PanopticSet(tmp_path / "data", categories)))
    assert num_classes(cfg) == expected
    changes = check(cfg, tmp_path)
    semantic, instances = expected
    assert changes[0] == (
        f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {semantic}, MODEL.ROI_HEADS.NUM_CLASSES {instances}:"
        f" as data set {NAME} has"
    )
    assert sum("NUM_CLASSES" in change for change in changes) == 1
    assert any("semantic labels and instances are in" in change for change in changes)
    assert any("has no things" in change for change in changes) == (categories is STUFF)
    # Found again, it is not told again.
    assert not any("are in" in change for change in check(load(tmp_path / "mine.yaml"), tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SEM_SEG_HEAD", 54, "3, the number of stuff_classes of dataset custom_test (things, gr"),
        ("ROI_HEADS", 80, "2, the number of thing_classes of dataset custom_test (dog, cat)"),
    ],
)
def test_another_number_of_the_users_own_is_an_error(tmp_path, key, value, expected):
    data = PanopticSet(tmp_path / "data")
    message = f"MODEL.{key}.NUM_CLASSES is {value}; expected {expected}"
    own = {"MODEL": {key: {"NUM_CLASSES": value}}}
    # In the file that lists the data set, in one based on it, and as an override.
    first = write_config(tmp_path, data, **own)
    plain = write_config(tmp_path, data, name="plain.yaml")
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump({"_BASE_": plain.name, **own}))
    third = tmp_path / "third.yaml"
    third.write_text(yaml.safe_dump({"_BASE_": first.name, "SEED": 1}))
    override = (f"MODEL.{key}.NUM_CLASSES", value)
    for path, overrides in ((first, ()), (second, ()), (third, ()), (plain, override)):
        with pytest.raises(InputError) as caught:
            check(load(path, *overrides), tmp_path)
        assert str(caught.value).startswith(message)
    # Told before anything was derived.
    assert [path.name for path in data.json.parent.iterdir()] == ["panoptic.json"]


def test_the_right_numbers_of_the_users_own_pass(tmp_path):
    own = {"MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 3}, "ROI_HEADS": {"NUM_CLASSES": 2}}}
    check(load(write_config(tmp_path, PanopticSet(tmp_path / "data"), **own)), tmp_path)


def test_the_model_zoo_as_base(tmp_path):
    base = REPOSITORY / "configs/COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x.yaml"
    data = PanopticSet(tmp_path / "data")
    assert num_classes(load(write_config(tmp_path, data, base=base))) == (3, 2)


def test_data_sets_in_overrides(tmp_path):
    data = PanopticSet(tmp_path / "data")
    names = ("DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,))
    custom = ("DATASETS.CUSTOM", [data.entry(NAME)])
    assert num_classes(load(TINY["ocr"], *custom, *names)) == (3, 2)
    wrong = load(TINY["ocr"], *custom, *names, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9)
    with pytest.raises(InputError, match="NUM_CLASSES is 9; expected 3"):
        check(wrong, tmp_path)


def test_a_data_set_registered_in_python(tmp_path):
    register_coco_panoptic(NAME, *PanopticSet(tmp_path / "data").arguments)
    path = tmp_path / "mine.yaml"
    names = {"TRAIN": [NAME], "TEST": [NAME]}
    path.write_text(yaml.safe_dump({"_BASE_": str(TINY["ocr"]), "DATASETS": names}))
    cfg = load(path)
    assert num_classes(cfg) == (3, 2)
    check(cfg, tmp_path)


def test_a_config_without_its_own_data_is_left_alone(datasets_root):
    before = load(TINY["ocr"])
    assert num_classes(before) == (7, 6)
    assert before.DATASETS.CUSTOM == []


def test_what_is_not_used_is_not_read(tmp_path):
    data, gone = PanopticSet(tmp_path / "data"), PanopticSet(tmp_path / "gone")
    path = write_config(tmp_path, data, gone)
    gone.json.unlink()
    names = ("DATASETS.TEST", (NAME,))
    check(load(path, *names), tmp_path)
    assert not is_registered(f"{NAME}1")
    with pytest.raises(InputError, match=r"gone/truth/panoptic\.json: No such file"):
        load(path)


def test_paths_with_variables_and_relative_ones(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path / "data")
    path = write_config(tmp_path, data)
    content = yaml.safe_load(path.read_text())
    monkeypatch.setenv("MY_DATA", str(data.folder))
    monkeypatch.setenv("HOME", str(data.folder))
    monkeypatch.chdir(data.folder)
    entry = content["DATASETS"]["CUSTOM"][0]
    entry.update(
        IMAGE_ROOT="$MY_DATA/images", PANOPTIC_JSON="~/truth/panoptic.json", PANOPTIC_ROOT="pngs"
    )
    content["DATASETS"]["CACHE"] = "${MY_DATA}/cache"
    path.write_text(yaml.safe_dump(content))
    check(load(path), tmp_path)
    assert len(list((data.folder / "cache").iterdir())) == 1
    assert len(DatasetCatalog.get(NAME)) == 2


GOOD = {"NAME": "n", "IMAGE_ROOT": "i", "PANOPTIC_JSON": "none.json", "PANOPTIC_ROOT": "p"}


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        (["n"], r"DATASETS.CUSTOM\[0\]: 'n', expected a mapping with NAME, IMAGE_ROOT"),
        ([{**GOOD, "IMAGE_RROT": 1}], "unknown key 'IMAGE_RROT', expected IMAGE_ROOT"),
        ([{"NAME": "n"}], r"DATASETS.CUSTOM\[0\]: IMAGE_ROOT is missing, expected text"),
        ([{**GOOD, "NAME": 7}], r"DATASETS.CUSTOM\[0\]: NAME is 7, expected text"),
        ([{**GOOD, "NAME": None}], r"DATASETS.CUSTOM\[0\]: NAME is None, expected text"),
        ([{**GOOD, "NAME": "../n"}], r"data set name '../n': expected letters, digits"),
        ([GOOD, GOOD], r"DATASETS.CUSTOM\[1\]: NAME n occurs twice"),
        ([GOOD], r"none.json: No such file or directory; expected a COCO panoptic"),
        (GOOD, "DATASETS.CUSTOM: .*, expected a list"),
        ("n", "DATASETS.CUSTOM: n, expected a list"),
        (None, "DATASETS.CUSTOM: None, expected a list"),
        ([{1: 2}], "unknown key 1, expected NAME or IMAGE_ROOT"),
    ],
)
def test_mistakes_in_the_list(tmp_path, custom, message):
    name = custom[0]["NAME"] if isinstance(custom, list) and "NAME" in custom[0] else "n"
    path = tmp_path / "mine.yaml"
    datasets = {"CUSTOM": custom, "TRAIN": [name], "TEST": []}
    path.write_text(yaml.safe_dump({"_BASE_": str(TINY["ocr"]), "DATASETS": datasets}))
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_names_of_another_type_are_left_to_the_check(tmp_path, key):
    path = write_config(tmp_path, PanopticSet(tmp_path / "data"))
    with pytest.raises(InputError, match=rf"DATASETS\.{key}: .*expected names of data sets"):
        check(load(path, f"DATASETS.{key}", "(1,)"), tmp_path)


def test_classes_must_agree(tmp_path):
    renamed = [{**row, "name": row["name"].replace("cat", "cow")} for row in SPARSE]
    train, val = PanopticSet(tmp_path / "a"), PanopticSet(tmp_path / "b", renamed)
    with pytest.raises(InputError) as caught:
        load(write_config(tmp_path, train, val))
    assert str(caught.value) == (
        f"data set {NAME}1: its thing_classes are 2 (dog, cow); expected those of {NAME},"
        " 2 (dog, cat)"
    )


def test_no_image_is_dropped_silently(tmp_path):
    data = PanopticSet(tmp_path / "data", names=["a.jpg", "b.jpg", "c.jpg"])
    for segment in data.data["annotations"][1]["segments_info"]:
        segment["category_id"] = 90
    data.save()
    path = write_config(tmp_path, data)
    filtering = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True)
    told = [change for change in check(load(path, *filtering), tmp_path) if "drops" in change]
    assert told == [
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS: True drops 1 of 3 images of data set custom_test,"
        " without instance, from training; False keeps them"
    ]
    assert not any("drops" in change for change in check(load(path), tmp_path))
    stuff = write_config(tmp_path, PanopticSet(tmp_path / "stuff", STUFF))
    with pytest.raises(InputError, match=f"no image of data set {NAME} has an instance; expected"):
        check(load(stuff, *filtering), tmp_path)


def test_wrong_areas_are_told(tmp_path):
    data = PanopticSet(tmp_path / "data")
    data.data["annotations"][0]["segments_info"][0]["area"] = 1
    data.save()
    changes = check(load(write_config(tmp_path, data)), tmp_path)
    assert any("another 'area' than the PNG for 1 segments" in change for change in changes)


def test_batch_norm_over_one_region_of_one_image(tmp_path):
    data = PanopticSet(tmp_path / "data", THINGS)
    path = write_config(tmp_path, data)
    one = ("SOLVER.IMS_PER_BATCH", 1)
    with pytest.raises(InputError, match="IMS_PER_BATCH: 1 for 1 processes, but data without"):
        check(load(path, *one), tmp_path)
    check(load(path, *one, "MODEL.SEM_SEG_HEAD.OCR.NORM", "GN"), tmp_path)
    with pytest.raises(InputError, match="IMS_PER_BATCH: 2 for 2 processes, but data without"):
        check(load(path), tmp_path, processes=2)
    check(load(path, "MODEL.SEM_SEG_HEAD.OCR.NORM", "SyncBN"), tmp_path, processes=2)
    check(load(write_config(tmp_path, data, base="baseline"), *one), tmp_path)


def test_mask_r_cnn_takes_the_instances(tmp_path):
    data = PanopticSet(tmp_path / "data")
    name = f"{NAME}_instances"
    path = write_config(tmp_path, data, base="mask_rcnn", train=[name])
    cfg = load(path, "DATASETS.TEST", (name,))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    check(cfg, tmp_path)


@pytest.mark.parametrize("categories", [SPARSE, STUFF, THINGS], ids=["both", "stuff", "things"])
@pytest.mark.parametrize("crop", [False, True])
def test_trains_and_is_evaluated_without_code(main, tmp_path, capsys, categories, crop):
    names = ["a.png", "deep/b.JPG", "deeper/b.jpg"]
    train = PanopticSet(tmp_path / "train", categories, names)
    val = PanopticSet(tmp_path / "val", categories, names[1:], size=(56, 72))
    # An image without any segment has no instance to crop to, and no label at all.
    train.id_maps["a.png"][:] = 0
    train.data["annotations"][0]["segments_info"] = []
    train.save()
    path = write_config(tmp_path, train, val)
    output = tmp_path / "run"
    overrides = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.2, 0.2]) if crop else ()
    assert main(arguments(path, output, *overrides)) == 0
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert np.isfinite(losses).all()
    metrics = read_metrics(output, f"{NAME}1")
    assert {"PQ", "mIoU"} <= set(metrics)
    # n/a where there is nothing to measure.
    assert ("PQ_th" in metrics) == ("box_AP" in metrics) == (categories is not STUFF)
    assert ("PQ_st" in metrics) == (categories is not THINGS)
    assert "as data set custom_test has" in (output / "log.txt").read_text()
    predictions = json.loads((output / f"inference/{NAME}1/predictions.json").read_text())
    assert len(predictions["annotations"]) == 2
    # The config that the run wrote trains and evaluates by itself.
    again = ["--config-file", str(output / "config.yaml"), "--eval-only", "MODEL.WEIGHTS"]
    assert main([*again, str(output / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "2")]) == 0
    assert read_metrics(tmp_path / "2", f"{NAME}1") == metrics


@pytest.mark.parametrize(
    ("end", "base", "architecture", "metrics"),
    [
        ("_instances", "isa", "PaddingAwareGeneralizedRCNN", {"dtype", "box_AP", "mask_AP"}),
        ("_stuffonly", "baseline", "SemanticSegmentor", {"dtype", "mIoU"}),
    ],
)
def test_other_tasks_train_on_the_same_data(main, tmp_path, end, base, architecture, metrics):
    name = NAME + end
    data = PanopticSet(tmp_path / "data", names=["a.png", "deep/b.JPG"])
    path = write_config(tmp_path, data, base=base, train=[name])
    more = ("DATASETS.TEST", (name,), "MODEL.META_ARCHITECTURE", architecture)
    assert main(arguments(path, tmp_path / "run", *more)) == 0
    assert set(read_metrics(tmp_path / "run", name)) == metrics


def test_no_instance_is_predicted_without_things(tmp_path):
    cfg = load(write_config(tmp_path, PanopticSet(tmp_path / "data", STUFF)))
    found = []
    for threshold in (cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, 0.05):
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        image = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            (output,) = model([{"image": image.float(), "height": 64, "width": 64}])
        found.append(len(output["instances"]))
    # Random boxes would be taken for instances.
    assert found[0] == 0
    assert found[1] > 0


def test_the_config_of_a_run_predicts_without_its_data(tmp_path):
    data = PanopticSet(tmp_path / "data", STUFF)
    cfg = load(write_config(tmp_path, data))
    dumped = tmp_path / "config.yaml"
    dumped.write_text(cfg.dump())
    data.json.unlink()
    again = load_config(str(dumped), [])
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    with pytest.raises(InputError, match=r"panoptic\.json: No such file or directory"):
        check(again, tmp_path)


def test_a_16_bit_image_is_one_line(main, tmp_path, capsys):
    data = PanopticSet(tmp_path / "data", names=["a.png", "b.png"])
    Image.fromarray(np.full((48, 64), 700, np.uint16)).save(data.image_root / "b.png")
    assert main(arguments(write_config(tmp_path, data), tmp_path / "run")) == BAD_INPUT
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {data.image_root / 'b.png'}: image of Pillow's mode I;16")
    assert not (tmp_path / "run").exists()


def test_an_image_that_changed_since_is_told_in_training(main, tmp_path, capsys, monkeypatch):
    data = PanopticSet(tmp_path / "data", names=["a.png", "b.png"])
    path = write_config(tmp_path, data)
    check(load(path), tmp_path)
    monkeypatch.setattr("ocr_panoptic.data.derived._fingerprint", lambda source: "0" * 16)
    for folder in data.json.parent.glob("*.derived-*"):
        folder.rename(folder.with_name("panoptic.derived-" + "0" * 16))
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((48, 64), 700, np.uint16)).save(data.image_root / name)
    assert main(arguments(path, tmp_path / "run")) == BAD_INPUT
    assert "image of Pillow's mode I;16; expected 8 bits" in capsys.readouterr().err


@pytest.mark.slow
def test_every_process_knows_the_data(tmp_path):
    data = PanopticSet(tmp_path / "data", STUFF)
    path = write_config(tmp_path, data)
    argv = arguments(path, tmp_path / "run", options=["--num-gpus", "2"])
    done = subprocess.run(
        [sys.executable, "tools/train_net.py", *argv],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(read_metrics(tmp_path / "run")) >= {"PQ", "PQ_st", "mIoU"}
    assert len(list(data.json.parent.glob("*.derived-*"))) == 1
