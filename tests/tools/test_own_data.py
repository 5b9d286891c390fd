"""The whole way of a data set of one's own: checked, trained on, predicted, drawn, handed in."""

import contextlib
import io
import json
import re
import shlex
import zipfile

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.evaluation import pq_compute
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ocr_panoptic.data.derived import CACHE_VARIABLE
from ocr_panoptic.data.panoptic_json import (
    load_panoptic_json,
    read_panoptic_png,
    write_panoptic_png,
)
from ocr_panoptic.engine.checkpoint import Checkpointer

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY, small_model

# Random weights find something, and not the same for every class.
FOUND = [
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 16),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]


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


def run(tool, *words, status=0):
    assert load_tool(f"tools/{tool}.py").main([str(word) for word in words]) == status


# What the README says.


def write_stuff(folder):
    """Two splits in one folder of images; stuff alone, with ids far apart and 0 among them."""
    rng = np.random.default_rng(0)
    categories = [
        {"id": number, "name": f"stuff {number}", "isthing": 0} for number in (12000, 0, 300, 91)
    ]
    (folder / "images").mkdir(parents=True)
    for split, start in (("train", 0), ("val", 40)):
        images, annotations = [], []
        for position in range(3):
            name, image_id = f"{split}_{position}", 7 * position + start
            ids = np.repeat(np.repeat(rng.choice([0, 5, 300, 70000], (3, 4)), 16, 0), 16, 1)
            present = sorted(set(ids.ravel().tolist()) - {0})
            segments = []
            for segment_id, category in zip(present, rng.permutation(4), strict=False):
                ys, xs = np.nonzero(ids == segment_id)
                box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
                segments.append(
                    {
                        "id": segment_id,
                        "category_id": categories[category]["id"],
                        "iscrowd": 0,
                        "area": len(xs),
                        "bbox": [int(value) for value in box],
                    }
                )
            write_panoptic_png(folder / f"panoptic_{split}" / f"{name}.png", ids)
            pixels = rng.integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg")
            size = {"height": ids.shape[0], "width": ids.shape[1]}
            images.append({"id": image_id, "file_name": f"{name}.jpg", **size})
            annotations.append(
                {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))


def test_stuff_alone_is_trained_on_and_drawn_by_the_readme(tmp_path, monkeypatch, capsys):
    text = (REPOSITORY / "datasets" / "README.md").read_text()
    section = text.split("## Your own panoptic data", 1)[1].split("\n**In Python**", 1)[0]
    blocks = re.findall(r"^ *```(\w+)\n(.*?)^ *```", section, re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks] == ["bash", "yaml", "bash", "bash", "bash"]
    write_stuff(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    commands = []
    for kind, block in blocks:
        block = block.replace("/data/mine", str(tmp_path / "mine"))
        if kind == "yaml":
            # As it is written, but for the model and how long it trains.
            config = yaml.safe_load(block)
            assert (REPOSITORY / "configs" / config["_BASE_"]).is_file()
            config["_BASE_"] = str(TINY["ocr"])
            config["SOLVER"] |= {"MAX_ITER": 2, "STEPS": [1]}
            (tmp_path / "configs/mine.yaml").write_text(yaml.safe_dump(config))
        else:
            commands += map(shlex.split, block.replace("\\\n", " ").strip().splitlines())
    names = ["check_dataset", "train_net", "train_net", "predict", "visualize"]
    assert [command[:2] for command in commands] == [["python", f"tools/{n}.py"] for n in names]
    for name, command in zip(names, commands, strict=True):
        # The overrides are last in the commands of a model.
        run(name, *command[2:], *(SMALL if name in ("train_net", "predict") else ()))
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "output/mine/inference/mine_val/metrics.json").read_text())
    assert {"PQ", "PQ_st", "mIoU"} <= metrics.keys()
    assert not {"PQ_th", "box_AP"} & metrics.keys()
    predicted = json.loads((tmp_path / "output/mine/predicted/panoptic.json").read_text())
    truth = json.loads((tmp_path / "mine/panoptic_val.json").read_text())
    assert predicted["images"] == truth["images"]
    assert sorted(row["id"] for row in predicted["categories"]) == [0, 91, 300, 12000]
    found = {s["category_id"] for row in predicted["annotations"] for s in row["segments_info"]}
    assert found <= {0, 91, 300, 12000}
    pictures = [f"output/mine/pictures/val_{number}.png" for number in range(3)]
    assert printed.splitlines()[-4:] == [*pictures, "output/mine/pictures/index.html"]
    assert all((tmp_path / path).is_file() for path in pictures)
    # The page shows the PQ that the evaluation told.
    page = (tmp_path / "output/mine/pictures/index.html").read_text()
    assert f"<dd>{metrics['PQ']:.1f}</dd>" in page


# From predictions to a result file, and its score.


@pytest.fixture
def model(tmp_path):
    """Weights, and a data set of which they know the greater part: what they predict, spoiled."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c", "d"):
        pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(tmp_path / "images" / f"{name}.png")
    Checkpointer(small_model("ocr", seed=7), str(tmp_path)).save("model")
    weights = ["MODEL.WEIGHTS", tmp_path / "model.pth"]
    opts = [*SMALL, *FOUND, *weights]
    known = tmp_path / "known"
    given = ("--config-file", TINY["ocr"], "--input", tmp_path / "images", "--output", known)
    run("predict", *given, "--no-pictures", "--opts", *opts)
    data = load_panoptic_json(known / "panoptic.json")
    ids = {row["id"]: 1000 - 300 * row["id"] for row in data["images"]}
    for row in data["images"]:
        row["id"] = ids[row["id"]]
    for row in data["annotations"]:
        row["image_id"] = ids[row["image_id"]]
        pixels = read_panoptic_png(known / "panoptic" / row["file_name"])
        # Half of it moved, and some joined to others: void would not count.
        pixels[:, 48:] = np.roll(pixels[:, 48:], 1, axis=0)
        first, *others = (segment["id"] for segment in row["segments_info"])
        pixels[np.isin(pixels, others[::4])] = first
        areas = {s["id"]: int((pixels == s["id"]).sum()) for s in row["segments_info"]}
        row["segments_info"] = [
            {**segment, "area": areas[segment["id"]]}
            for segment in row["segments_info"]
            if areas[segment["id"]]
        ]
        write_panoptic_png(tmp_path / "panoptic" / row["file_name"], pixels)
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(data))
    entry = {
        "NAME": "own_val",
        "IMAGE_ROOT": str(tmp_path / "images"),
        "PANOPTIC_JSON": str(truth),
        "PANOPTIC_ROOT": str(tmp_path / "panoptic"),
    }
    datasets = {"CUSTOM": [entry], "TRAIN": ["own_val"], "TEST": ["own_val"]}
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"_BASE_": str(TINY["ocr"]), "DATASETS": datasets}))
    return config, opts, truth


def test_what_predict_writes_is_handed_in_and_scores_the_same(model, tmp_path, capsys):
    config, opts, truth = model
    given = ("--config-file", config)
    run("train_net", *given, "--eval-only", *opts, "OUTPUT_DIR", tmp_path / "run")
    metrics = json.loads((tmp_path / "run/inference/own_val/metrics.json").read_text())
    predicted = tmp_path / "predicted"
    images = ("--input", tmp_path / "images", "--image-info", truth)
    run("predict", *given, *images, "--output", predicted, "--opts", *opts)
    results = json.loads((predicted / "instances.json").read_text())
    assert results[0].keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}
    segments = json.loads((predicted / "panoptic.json").read_text())["annotations"][0]
    assert {"id", "category_id", "area", "iscrowd"} <= segments["segments_info"][0].keys()
    (instances,) = tmp_path.glob("truth.derived-*/instances.json")

    scores = {}
    for task, kind in (("panoptic", "panoptic"), ("segm", "detections"), ("bbox", "detections")):
        options = ("--split", "val2017", "--alg", task, "--image-info", truth)
        source = ("--task", task, "--predictions", predicted)
        run("submission", "build", *source, *options, "--output", tmp_path / "zips")
        name = f"{kind}_val2017_{task}_results"
        capsys.readouterr()
        run("submission", "check", tmp_path / "zips" / f"{name}.zip", "--image-info", truth)
        assert capsys.readouterr().out.endswith(", no problems\n")
        folder = tmp_path / "unpacked" / task
        with zipfile.ZipFile(tmp_path / "zips" / f"{name}.zip") as archive:
            archive.extractall(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            if task == "panoptic":
                pngs = str(tmp_path / "panoptic"), str(folder / name)
                quality = pq_compute(str(truth), str(folder / f"{name}.json"), *pngs)
                scores["PQ"], scores["PQ_th"] = (
                    100 * quality[part]["pq"] for part in ("All", "Things")
                )
            else:
                expected = COCO(str(instances))
                found = expected.loadRes(str(folder / f"{name}.json"))
                scored = COCOeval(expected, found, task)
                scored.evaluate()
                scored.accumulate()
                scored.summarize()
                scores[{"segm": "mask_AP", "bbox": "box_AP"}[task]] = 100 * scored.stats[0]
    # To the last digit, and of something.
    assert {key: metrics[key] for key in scores} == scores
    assert all(1 < value < 99 for value in scores.values())
