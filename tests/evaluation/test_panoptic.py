"""The evaluators of panoptic predictions: figures, files, memory, and what they say to mistakes."""

import contextlib
import csv
import gc
import io
import json
import math
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from panopticapi.evaluation import pq_compute

from ocr_panoptic.data.panoptic_json import read_panoptic_png, write_panoptic_png
from ocr_panoptic.data.register import register_coco_panoptic
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.build import build_evaluators
from ocr_panoptic.evaluation.metrics import format_metrics, summarise
from ocr_panoptic.evaluation.panoptic import COUNTERS, PanopticEvaluator, PanopticResults

from ..models import small_config
from ..panoptic_sets import STUFF, THINGS, PanopticSet

VAL = "test_shapes_val_separated"
PER_CLASS = {"panoptic_per_class.csv", "panoptic_per_class.json"}


def predictions(name=VAL, seed=0):
    """Yield inputs and outputs of a model, in Detectron2's form, that is partly right."""
    metadata = MetadataCatalog.get(name)
    truth = json.loads(Path(metadata.panoptic_json).read_text())
    rows = {row["image_id"]: row for row in truth["annotations"]}
    rng = np.random.default_rng(seed)
    labels = {
        True: metadata.thing_dataset_id_to_contiguous_id,
        False: metadata.stuff_dataset_id_to_contiguous_id,
    }
    for record in DatasetCatalog.get(name):
        row = rows[record["image_id"]]
        ids = read_panoptic_png(Path(metadata.panoptic_root) / row["file_name"])
        found, segments = np.zeros_like(ids), []
        for segment in row["segments_info"]:
            if rng.random() < 0.2:
                continue
            isthing = segment["category_id"] in labels[True]
            label = labels[isthing][segment["category_id"]]
            segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
            found[ids == segment["id"]] = len(segments)
        # Detectron2's evaluator does not bear segments without pixels.
        shifted = np.roll(found, 2, 1)
        segments = [segment for segment in segments if (shifted == segment["id"]).any()]
        yield record, {"panoptic_seg": (torch.from_numpy(shifted.astype(np.int32)), segments)}


def run(evaluator, pairs):
    evaluator.reset()
    for record, output in pairs:
        segment_ids, segments = output["panoptic_seg"]
        # Detectron2's evaluator writes into what it is given.
        copied = {"panoptic_seg": (segment_ids.clone(), [dict(row) for row in segments])}
        evaluator.process([record], [copied])
    return evaluator.evaluate()


@pytest.fixture(scope="module")
def reference(datasets_root, tmp_path_factory):
    """Detectron2's results and predictions.json."""
    folder = tmp_path_factory.mktemp("detectron2")
    results = run(COCOPanopticEvaluator(VAL, str(folder)), predictions())
    assert 1 < results["panoptic_seg"]["PQ"] < 99
    return results, json.loads((folder / "predictions.json").read_text())


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("counter", COUNTERS)
def test_results_are_detectron2s(reference, tmp_path, counter, save):
    results, written = reference
    evaluator = PanopticEvaluator(VAL, tmp_path, counter=counter, save=save, num_processes=2)
    ours = run(evaluator, predictions())
    assert ours.keys() == results.keys()
    assert list(ours["panoptic_seg"]) == list(results["panoptic_seg"])
    assert ours["panoptic_seg"] == pytest.approx(results["panoptic_seg"], rel=1e-14)

    content = json.loads((tmp_path / "predictions.json").read_text())
    assert content.keys() == written.keys()
    for row, expected in zip(content["annotations"], written["annotations"], strict=True):
        assert (row["image_id"], row["file_name"]) == (expected["image_id"], expected["file_name"])
        assert [(s["id"], s["category_id"]) for s in row["segments_info"]] == [
            (s["id"], s["category_id"]) for s in expected["segments_info"]
        ]
    names = {path.name for path in tmp_path.iterdir()}
    saved = {"panoptic", "panoptic.json", *PER_CLASS} if save else set()
    assert names == {"predictions.json", *saved}


def test_without_a_folder_nothing_is_written(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(PanopticEvaluator(VAL), predictions())["panoptic_seg"] == pytest.approx(
        reference[0]["panoptic_seg"], rel=1e-14
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="without output_dir"):
        PanopticEvaluator(VAL, save=True).reset()


def test_what_is_kept_is_what_was_counted(datasets_root, tmp_path):
    (tmp_path / "panoptic").mkdir()
    (tmp_path / "panoptic/of_another_run.png").write_text("old")
    ours = run(PanopticEvaluator(VAL, tmp_path, save=True), predictions())["panoptic_seg"]
    metadata = MetadataCatalog.get(VAL)
    with contextlib.redirect_stdout(io.StringIO()):
        untouched = pq_compute(
            *(metadata.panoptic_json, str(tmp_path / "panoptic.json")),
            *(metadata.panoptic_root, str(tmp_path / "panoptic")),
        )
    for part, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("pq", "sq", "rq"):
            value = ours[f"{key.upper()}{suffix}"]
            assert value == pytest.approx(100 * untouched[part][key], rel=1e-14)
    assert len(list((tmp_path / "panoptic").iterdir())) == 5

    rows = json.loads((tmp_path / "panoptic_per_class.json").read_text())
    assert {row["category_id"] for row in rows} == set(untouched["per_class"])
    occurring = [row["pq"] for row in rows if row["pq"] is not None]
    assert sum(occurring) / len(occurring) == pytest.approx(ours["PQ"])
    assert sum(row["true_positives"] for row in rows) > 5
    with open(tmp_path / "panoptic_per_class.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for cells, row in zip(table, rows, strict=True):
        assert (cells["name"], cells["false_negatives"]) == (
            row["name"],
            str(row["false_negatives"]),
        )
        assert cells["pq"] == ("" if row["pq"] is None else str(row["pq"]))


@pytest.mark.parametrize("counter", COUNTERS)
def test_the_number_of_processes_changes_nothing(datasets_root, tmp_path, monkeypatch, counter):
    expected = run(PanopticEvaluator(VAL, counter=counter, output_dir=tmp_path), predictions())
    pairs = list(predictions())
    evaluators = []
    # The third process got no image.
    for part in (pairs[:2], pairs[2:], []):
        evaluators.append(PanopticEvaluator(VAL, tmp_path, counter=counter))
        if part == pairs[:2]:
            evaluators[0].reset()
        for record, output in part:
            evaluators[-1].process([record], [output])
    states = []
    monkeypatch.setattr(comm, "gather", lambda state: states.append(state) or [state])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    for evaluator in evaluators[1:]:
        assert evaluator.evaluate() is None
    others = list(states)
    monkeypatch.setattr(comm, "gather", lambda state: [state, *others])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    assert evaluators[0].evaluate() == expected


def test_memory_does_not_grow_with_the_images(tmp_path):
    name, size, num_images = "test_memory", 128, 200
    ids = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((size // 2, size // 2), int))
    write_panoptic_png(tmp_path / "truth/0.png", ids)
    row = {"iscrowd": 0, "area": size**2 // 4, "category_id": 1}
    segments = [{**row, "id": segment_id} for segment_id in range(1, 5)]
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": f"{i}.jpg", "height": size, "width": size}
                    for i in range(num_images)
                ],
                "annotations": [
                    {"image_id": i, "file_name": "0.png", "segments_info": segments}
                    for i in range(num_images)
                ],
                "categories": [{"id": 1, "name": "cat", "isthing": 1}],
            }
        )
    )
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "truth.json"),
        panoptic_root=str(tmp_path / "truth"),
        thing_dataset_id_to_contiguous_id={1: 0},
        stuff_dataset_id_to_contiguous_id={},
    )
    found = [{"id": i, "isthing": True, "category_id": 0, "score": 0.9} for i in range(1, 5)]
    evaluator = PanopticEvaluator(name, tmp_path / "results")
    evaluator.reset()
    used = {}
    tracemalloc.start()
    try:
        for image_id in range(num_images):
            record = {"image_id": image_id, "file_name": f"{image_id}.jpg"}
            panoptic = (torch.from_numpy(ids.astype(np.int32)), found)
            evaluator.process([record], [{"panoptic_seg": panoptic}])
            if image_id + 1 in (10, num_images):
                gc.collect()
                used[image_id + 1] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    per_image = (used[num_images] - used[10]) / (num_images - 10)
    # A map has 64 KiB, its PNG some hundred bytes beside the same json entry.
    assert per_image < 3000
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100
    assert len(list((tmp_path / "results").iterdir())) == 1


@pytest.fixture
def damaged(datasets_root, tmp_path):
    """A function that registers a copy of the ground truth, changed; returns its name and path."""
    names = []

    def change(edit):
        source = MetadataCatalog.get(VAL)
        data = json.loads(Path(source.panoptic_json).read_text())
        shutil.copytree(source.panoptic_root, tmp_path / "pngs")
        edit(data, tmp_path / "pngs")
        path = tmp_path / "panoptic.json"
        path.write_text(json.dumps(data))
        name = f"test_damaged_{tmp_path.name}"
        names.append(name)
        MetadataCatalog.get(name).set(
            **{
                **source.as_dict(),
                "name": name,
                "panoptic_json": str(path),
                "panoptic_root": str(tmp_path / "pngs"),
            }
        )
        return name, path

    yield change
    for name in names:
        MetadataCatalog.remove(name)


def small_area(data, pngs):
    data["annotations"][0]["segments_info"][0]["area"] = 2


def no_pixels(data, pngs):
    segment = {"id": 99, "category_id": data["categories"][0]["id"], "iscrowd": 0, "area": 0}
    data["annotations"][0]["segments_info"].append(segment)


def unlisted_pixels(data, pngs):
    del data["annotations"][0]["segments_info"][0]


def other_size(data, pngs):
    path = pngs / data["annotations"][0]["file_name"]
    write_panoptic_png(path, read_panoptic_png(path)[:50])


def broken_png(data, pngs):
    path = pngs / data["annotations"][0]["file_name"]
    path.write_bytes(path.read_bytes()[:200])


def no_annotation(data, pngs):
    del data["annotations"][0], data["images"][0]


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (small_area, r"png: segment id \d+ has \d+ pixels, but 'area' 2 in .*panoptic.json"),
        (no_pixels, r"png: no pixel with id 99; expected at least one"),
        (unlisted_pixels, r"png: pixels with id \d+; expected 0 or an id in the segments_info"),
        (broken_png, r"png: truncated or broken"),
        (no_annotation, r"panoptic.json: no annotation of image id \d+; expected one"),
    ],
)
def test_a_ground_truth_that_contradicts_itself(damaged, tmp_path, counter, edit, message):
    name, _ = damaged(edit)
    evaluator = PanopticEvaluator(name, tmp_path / "results", counter=counter)
    with pytest.raises(InputError, match=message) as caught:
        run(evaluator, predictions())
    assert "\n" not in str(caught.value)


def test_a_ground_truth_of_another_size(damaged, tmp_path):
    name, _ = damaged(other_size)
    with pytest.raises(InputError, match=r"png: 96x50 pixels; expected 96x96, as the prediction"):
        run(PanopticEvaluator(name), predictions())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("iscrowd", None, "'iscrowd' is missing; expected 0 or 1"),
        ("area", None, "'area' is missing; expected its number of pixels"),
        ("area", "12", "'area' is '12'; expected its number of pixels"),
    ],
)
def test_fields_that_panoptic_quality_needs(damaged, key, value, message):
    def edit(data, pngs):
        segment = data["annotations"][1]["segments_info"][0]
        if value is None:
            del segment[key]
        else:
            segment[key] = value

    name, path = damaged(edit)
    with pytest.raises(InputError, match=message) as caught:
        PanopticEvaluator(name)
    assert str(caught.value).startswith(f"{path}: annotation of image_id ")
    assert "segment id " in str(caught.value)


def test_images_that_were_not_predicted(datasets_root, tmp_path):
    with pytest.raises(InputError, match=r"no prediction for image id \d+ and 1 more; expected"):
        run(PanopticEvaluator(VAL, tmp_path), list(predictions())[:3])


def test_a_class_that_the_json_does_not_have(damaged):
    def edit(data, pngs):
        used = {s["category_id"] for a in data["annotations"] for s in a["segments_info"]}
        unused = {c["id"] for c in data["categories"]} - used
        category_id = min(unused) if unused else data["categories"][0]["id"]
        data["categories"] = [c for c in data["categories"] if c["id"] != category_id]
        for annotation in data["annotations"]:
            for segment in annotation["segments_info"]:
                if segment["category_id"] == category_id:
                    segment["category_id"] = data["categories"][0]["id"]

    name, path = damaged(edit)
    ids = {c["id"] for c in json.loads(path.read_text())["categories"]}
    things = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    stuff = MetadataCatalog.get(name).stuff_dataset_id_to_contiguous_id
    (gone,) = {*things, *stuff} - {0} - ids
    record, output = next(predictions())
    segment_ids = torch.ones_like(output["panoptic_seg"][0])
    label = things.get(gone, stuff.get(gone))
    segments = [{"id": 1, "isthing": gone in things, "category_id": label}]
    evaluator = PanopticEvaluator(name)
    with pytest.raises(InputError, match=rf"no category id {gone}, which is predicted; expected"):
        evaluator.process([record], [{"panoptic_seg": (segment_ids, segments)}])


def test_an_evaluation_that_fails_leaves_nothing_that_looks_complete(datasets_root, tmp_path):
    run(PanopticEvaluator(VAL, tmp_path, save=True), predictions())
    (tmp_path / "panoptic.partial").mkdir()
    (tmp_path / "panoptic.partial/of_a_killed_run.png").write_text("old")
    evaluator = PanopticEvaluator(VAL, tmp_path, save=True)
    evaluator.reset()
    record, output = next(predictions())
    evaluator.process([record], [output])
    assert {path.name for path in tmp_path.iterdir()} == {"panoptic", "panoptic.partial"}
    assert len(list((tmp_path / "panoptic.partial").iterdir())) == 1
    with pytest.raises(InputError, match="no prediction for image id"):
        evaluator.evaluate()
    del evaluator
    gc.collect()
    assert {path.name for path in tmp_path.iterdir()} == {"panoptic"}


def test_results_need_no_ground_truth(datasets_root, tmp_path):
    source = MetadataCatalog.get(VAL).as_dict()
    kept = ("image_root", "thing_classes", "stuff_classes")
    ids = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
    name = "test_results_only"
    MetadataCatalog.get(name).set(**{key: source[key] for key in (*kept, *ids)})
    assert run(PanopticResults(name, tmp_path), predictions()) == {}
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"] == []
    classes = {row["name"]: row["isthing"] for row in content["categories"]}
    assert set(classes) == {*source["thing_classes"], *source["stuff_classes"]} - {"things"}
    for (record, output), row in zip(predictions(), content["annotations"], strict=True):
        assert row["image_id"] == record["image_id"]
        written = read_panoptic_png(tmp_path / "panoptic" / row["file_name"])
        assert (written == output["panoptic_seg"][0].numpy()).all()
        assert {s["id"] for s in row["segments_info"]} == set(np.unique(written)) - {0}


def test_names_of_pngs(datasets_root, tmp_path):
    name = "test_png_names"
    things = {"thing_dataset_id_to_contiguous_id": {1: 0}, "thing_classes": ["cat"]}
    MetadataCatalog.get(name).set(image_root="/images", **things)
    nothing = {"panoptic_seg": (torch.zeros(2, 2, dtype=torch.int32), [])}
    evaluator = PanopticResults(name, tmp_path)
    files = ["/images/a.jpg", "/images/b/a.jpeg", "/elsewhere/c.png", "/images/../../d.jpg"]
    evaluator.reset()
    for image_id, file_name in enumerate(files):
        evaluator.process([{"image_id": image_id, "file_name": file_name}], [nothing])
    evaluator.evaluate()
    names = [
        row["file_name"]
        for row in json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    ]
    assert names == ["a.png", "b/a.png", "c.png", "d.png"]
    assert all((tmp_path / "panoptic" / each).is_file() for each in names)

    evaluator.reset()
    for image_id, file_name in enumerate(("/images/a.jpg", "/images/a.png")):
        evaluator.process([{"image_id": image_id, "file_name": file_name}], [nothing])
    with pytest.raises(InputError, match="images 0 and 1 are both named a; expected different"):
        evaluator.evaluate()

    evaluator.reset()
    evaluator.process([{"image_id": 0, "file_name": "/images/a.jpg"}], [nothing])
    (tmp_path / "panoptic.partial/a.png").unlink()
    with pytest.raises(InputError, match=r"a.png: written, but not here; expected OUTPUT_DIR"):
        evaluator.evaluate()


def test_a_folder_that_cannot_be_written(datasets_root, tmp_path):
    evaluator = PanopticEvaluator(VAL, tmp_path, save=True)
    evaluator.reset()
    (tmp_path / "panoptic.partial").write_text("in the way")
    record, output = next(predictions())
    with pytest.raises(InputError, match=r"partial/.*png: .*; expected a folder with room"):
        evaluator.process([record], [output])
    (tmp_path / "panoptic").rmdir()
    (tmp_path / "panoptic").write_text("in the way")
    with pytest.raises(InputError, match=rf"{tmp_path}/panoptic: File exists, expected a folder"):
        evaluator.reset()
    with pytest.raises(InputError, match=r"panoptic/below: .*, expected a folder to write to"):
        PanopticEvaluator(VAL, tmp_path / "panoptic/below").reset()


@pytest.mark.parametrize("predicted", ["nothing", "instances", "truth"])
@pytest.mark.parametrize(
    ("categories", "absent"), [(THINGS, "PQ_st"), (STUFF, "PQ_th")], ids=["things", "stuff"]
)
def test_things_only_and_stuff_only(tmp_path, categories, absent, predicted):
    name = f"test_only_{absent}_{predicted}"
    register_coco_panoptic(name, *PanopticSet(tmp_path / "data", categories).arguments)
    metadata = MetadataCatalog.get(name)
    evaluators = build_evaluators(small_config(), name, tmp_path / "results")
    evaluators.reset()
    for record, output in predictions(name):
        height, width = record["height"], record["width"]
        instances = Instances((height, width))
        count = int(predicted == "instances")
        instances.pred_boxes = Boxes(torch.tensor([[1.0, 1, 9, 9]] * count).reshape(-1, 4))
        instances.scores = torch.full((count,), 0.9)
        instances.pred_classes = torch.zeros(count, dtype=torch.int64)
        instances.pred_masks = torch.zeros(count, height, width, dtype=torch.bool)
        instances.pred_masks[:, 1:9, 1:9] = True
        found = output["panoptic_seg"]
        if predicted != "truth":
            segment_ids = torch.zeros(height, width, dtype=torch.int32)
            segment_ids[1:9, 1:9] = count
            found = (segment_ids, [{"id": 1, "isthing": True, "category_id": 0}] * count)
        labels = torch.rand(len(metadata.stuff_classes), height, width)
        output = {"panoptic_seg": found, "instances": instances, "sem_seg": labels}
        evaluators.process([record], [output])
    results = evaluators.evaluate()
    summary = summarise(results, "float32")
    assert math.isnan(results["panoptic_seg"][absent])
    assert absent not in summary
    assert math.isfinite(summary["PQ"])
    assert (summary["PQ"] > 0) == (predicted == "truth")
    assert math.isfinite(summary["mIoU"])
    if absent == "PQ_th":
        assert "mask_AP" not in summary
    assert "n/a" in format_metrics(summary)
