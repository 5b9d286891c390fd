"""train_net.py --eval-only: results that are kept, counters, and data without annotations."""

import contextlib
import io
import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.evaluation import pq_compute

from ocr_panoptic.benchmark.evaluation import DETECTRON2
from ocr_panoptic.data.panoptic_json import read_panoptic_png
from ocr_panoptic.data.register import register_coco_panoptic
from ocr_panoptic.data.shapes.writer import write_shapes
from ocr_panoptic.data.test_dev import load_test_images
from ocr_panoptic.engine import trainer
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import load_tool
from ..models import small_model
from ..panoptic_sets import STUFF, THINGS, PanopticSet
from .test_train_net import arguments, one_line, run_in_subprocess

VAL = "test_shapes_val_separated"
PANOPTIC = {f"{metric}{suffix}" for metric in ("PQ", "SQ", "RQ") for suffix in ("", "_th", "_st")}
# Random weights predict something, and not the same for every class.
LENIENT = {
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 16,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": 0.0,
}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Overrides with weights, which would be drawn anew in every process."""
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": small_model().state_dict()}, path)
    return {"MODEL.WEIGHTS": path, **LENIENT}


def evaluate(main, output, *options, names=(VAL,), overrides=()):
    given = {"DATASETS.TEST": tuple(names), **LENIENT, **dict(overrides)}
    return main(arguments(output, "--eval-only", *options, overrides=given))


def read(output, name=VAL):
    folder = output / "inference" / name
    return folder, json.loads((folder / "metrics.json").read_text())


def test_saved_results_give_the_printed_figures(main, datasets_root, tmp_path, capsys):
    assert evaluate(main, tmp_path, "--save") == 0
    printed = capsys.readouterr().out
    folder, metrics = read(tmp_path)
    assert {"panoptic", "panoptic.json", "panoptic_per_class.csv", "panoptic_per_class.json"} <= {
        path.name for path in folder.iterdir()
    }
    metadata = MetadataCatalog.get(VAL)
    with contextlib.redirect_stdout(io.StringIO()):
        untouched = pq_compute(
            *(metadata.panoptic_json, str(folder / "panoptic.json")),
            *(metadata.panoptic_root, str(folder / "panoptic")),
        )
    for part, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for metric in ("PQ", "SQ", "RQ"):
            expected = pytest.approx(100 * untouched[part][metric.lower()], rel=1e-14)
            assert metrics[metric + suffix] == expected
    assert "Panoptic quality of each class" in printed
    for row in json.loads((folder / "panoptic_per_class.json").read_text()):
        assert row["name"] in printed


def test_metrics_tell_the_dtype(main, datasets_root, weights, tmp_path, monkeypatch):
    prepared = []
    prepare = trainer.prepare_for_inference
    monkeypatch.setattr(
        trainer,
        "prepare_for_inference",
        lambda model, **arguments: prepared.append(arguments) or prepare(model, **arguments),
    )
    assert evaluate(main, tmp_path / "exact", overrides=weights) == 0
    # The model itself: nothing is folded, nothing rounded.
    assert not prepared
    rounding = {"TEST.DTYPE": "bfloat16", **weights}
    assert evaluate(main, tmp_path / "rounded", overrides=rounding) == 0
    assert prepared == [{"dtype": "bfloat16", "keep_logits": True}]
    (_, exact), (_, rounded) = read(tmp_path / "exact"), read(tmp_path / "rounded")
    assert (exact["dtype"], rounded["dtype"]) == ("float32", "bfloat16")
    assert exact.keys() == rounded.keys()
    assert {**exact, "dtype": ""} != {**rounded, "dtype": ""}
    assert rounded["mIoU"] == pytest.approx(exact["mIoU"], abs=2)


@pytest.mark.parametrize("counter", ["hotcoco", "panopticapi"])
def test_counters_of_files_print_the_same(main, datasets_root, weights, tmp_path, counter):
    assert evaluate(main, tmp_path / "here", overrides=weights) == 0
    overrides = {"TEST.PANOPTIC.COUNTER": counter, **weights}
    assert evaluate(main, tmp_path / "files", "--num-procs", "1", overrides=overrides) == 0
    folder, metrics = read(tmp_path / "files")
    expected_folder, expected = read(tmp_path / "here")
    assert metrics.pop("dtype") == expected.pop("dtype")
    assert metrics == pytest.approx(expected, rel=1e-14)
    # No PNG is left.
    assert {path.name for path in folder.iterdir()} == {p.name for p in expected_folder.iterdir()}
    assert not any(path.is_dir() for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        (("--num-procs", "0"), {}, "--num-procs 0: expected 1 or more"),
        (("--num-procs", "two"), {}, "argument --num-procs: invalid int value: 'two'"),
        ((), {"TEST.PANOPTIC.COUNTER": "papi"}, "COUNTER: 'papi', expected one of in_process, hot"),
        ((), {"TEST.PANOPTIC.NUM_PROCS": "None"}, "NUM_PROCS: None, expected an integer"),
        ((), {"TEST.PANOPTIC.SAVE": "None"}, "TEST.PANOPTIC.SAVE: None, expected True or False"),
        ((), {"TEST.DTYPE": "float16"}, "TEST.DTYPE: 'float16', expected float32 or bfloat16"),
        ((), {"TEST.DTYPE": "auto"}, "TEST.DTYPE: 'auto', expected float32 or bfloat16"),
        ((), {"TEST.PANOPTIC.NUM_PROCS": -1}, "TEST.PANOPTIC.NUM_PROCS: -1, expected 0"),
    ],
)
def test_flags_that_cannot_be(main, datasets_root, tmp_path, capsys, options, overrides, message):
    assert evaluate(main, tmp_path / "run", *options, overrides=overrides) == BAD_INPUT
    assert message in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_counter_that_is_not_installed_is_told_before_training(
    main, datasets_root, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    overrides = {"TEST.PANOPTIC.COUNTER": "hotcoco"}
    assert main(arguments(tmp_path / "run", overrides=overrides)) == BAD_INPUT
    assert "hotcoco, which is not installed; expected `pip install hotcoco`" in one_line(capsys)


@pytest.fixture
def unannotated(datasets_root, tmp_path):
    """The names of a panoptic and an instances data set that have images, but no annotations."""
    source = MetadataCatalog.get(VAL).as_dict()
    with open(source["panoptic_json"]) as file:
        data = json.load(file)
    del data["annotations"]
    for category in data["categories"]:
        del category["isthing"]
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps(data))
    kept = [key for key in source if key.endswith(("_classes", "_contiguous_id"))]
    common = {"image_root": source["image_root"], "json_file": str(path), "ignore_label": 255}
    names = ("test_unannotated_panoptic", "test_unannotated_instances")
    for name, kind in zip(names, ("coco_panoptic_results", "coco"), strict=True):
        DatasetCatalog.register(name, lambda name=name: load_test_images(name))
        MetadataCatalog.get(name).set(
            evaluator_type=kind, **common, **{key: source[key] for key in kept}
        )
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_images_without_annotations_get_results(main, unannotated, tmp_path, capsys):
    assert evaluate(main, tmp_path, names=unannotated) == 0
    assert "n/a" in capsys.readouterr().out
    panoptic, metrics = read(tmp_path, unannotated[0])
    assert metrics == {"dtype": "float32"}
    content = json.loads((panoptic / "panoptic.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == [
        image["id"] for image in content["images"]
    ]
    categories = {row["id"]: row["isthing"] for row in content["categories"]}
    assert set(categories.values()) == {0, 1}
    found = 0
    for row in content["annotations"]:
        ids = set(read_panoptic_png(panoptic / "panoptic" / row["file_name"]).ravel().tolist())
        assert ids - {0} == {segment["id"] for segment in row["segments_info"]}
        assert {segment["category_id"] for segment in row["segments_info"]} <= set(categories)
        found += len(row["segments_info"])
    assert found > 0
    assert not (panoptic / "predictions.json").exists()
    instances, metrics = read(tmp_path, unannotated[1])
    assert metrics == {"dtype": "float32"}
    for folder in (panoptic, instances):
        results = json.loads((folder / "coco_instances_results.json").read_text())
        assert {"image_id", "category_id", "bbox", "score", "segmentation"} == set(results[0])
        assert {row["image_id"] for row in results} <= {i["id"] for i in content["images"]}


@pytest.mark.parametrize(
    ("categories", "absent"), [(THINGS, "_st"), (STUFF, "_th")], ids=["things", "stuff"]
)
def test_things_only_and_stuff_only(main, tmp_path, capsys, categories, absent):
    name = f"test_evaluate{absent}"
    register_coco_panoptic(name, *PanopticSet(tmp_path / "data", categories).arguments)
    metadata = MetadataCatalog.get(name)
    overrides = {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(metadata.stuff_classes),
        "MODEL.ROI_HEADS.NUM_CLASSES": len(metadata.thing_classes),
        "DATASETS.TRAIN": (name,),
    }
    assert evaluate(main, tmp_path / "run", names=[name], overrides=overrides) == 0
    assert "n/a" in capsys.readouterr().out
    _, metrics = read(tmp_path / "run", name)
    assert PANOPTIC - set(metrics) == {f"{metric}{absent}" for metric in ("PQ", "SQ", "RQ")}
    assert "mIoU" in metrics
    assert ("mask_AP" in metrics) == (absent == "_st")


def test_the_benchmark_writes_what_it_prints(tmp_path, capsys):
    path = tmp_path / "rows.json"
    benchmark = load_tool("tools/benchmark.py").main
    assert benchmark(["evaluation", "--images", "3", "--size", "96", "--json", str(path)]) == 0
    table = capsys.readouterr().out
    rows = json.loads(path.read_text())
    assert rows[0]["name"] == DETECTRON2
    assert rows[0]["speedup"] == 1
    for row in rows:
        assert (row["images"], row["size"]) == (3, 96)
        assert 0 < row["pq"] < 100
        assert row["pq"] == pytest.approx(rows[0]["pq"])
        assert row["speedup"] == pytest.approx(rows[0]["seconds"] / row["seconds"])
        assert row["seconds"] > row["evaluate_s"]
        assert re.search(rf"{row['name']} .*{row['seconds']:.1f} s .*{row['pq']:.3f}", table)
    assert not [name for name in MetadataCatalog.list() if name.startswith("evaluation_")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "0"], "--images 0: expected 1 or more"),
        (["--size", "5"], "--size 5: expected 96 to 2048 pixels"),
        (["--runs", "5"], "unrecognized arguments: --runs 5"),
    ],
)
def test_benchmarks_that_cannot_be(capsys, words, message):
    assert load_tool("tools/benchmark.py").main(["evaluation", *words]) == BAD_INPUT
    assert message in one_line(capsys)


@pytest.mark.slow
def test_two_processes_keep_the_same_results(datasets_root, weights, tmp_path):
    name = "shapes_easy_val_panoptic_separated"
    given = {"train": name, "val": name, "overrides": weights}
    folders = []
    for processes in ("1", "2"):
        output = tmp_path / processes
        options = ("--eval-only", "--save", "--num-gpus", processes)
        done = run_in_subprocess(datasets_root, arguments(output, *options, **given))
        assert done.returncode == 0, done.stderr[-2000:]
        folders.append(output / "inference" / name)
    one, two = folders
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for file in ("metrics.json", "panoptic.json", "predictions.json", "panoptic_per_class.csv"):
        assert (one / file).read_text() == (two / file).read_text()
    for path in (one / "panoptic").iterdir():
        assert path.read_bytes() == (two / "panoptic" / path.name).read_bytes()


@pytest.mark.slow
def test_a_process_without_images(tmp_path):
    write_shapes(tmp_path / "shapes_easy", train=1, val=1, size=96, seed=0, processes=1)
    name = "shapes_easy_val_panoptic_separated"
    given = {"train": name, "val": name, "overrides": LENIENT}
    argv = arguments(tmp_path / "run", "--eval-only", "--save", "--num-gpus", "2", **given)
    done = run_in_subprocess(tmp_path, argv)
    assert done.returncode == 0, done.stderr[-2000:]
    folder, metrics = read(tmp_path / "run", name)
    assert "PQ" in metrics
    assert len(list((folder / "panoptic").iterdir())) == 1
