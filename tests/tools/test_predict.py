"""predict.py: the files it writes for images without annotations, and what it says to mistakes."""

import contextlib
import io
import json
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from PIL import Image

from ocr_panoptic.data.panoptic_json import load_panoptic_json
from ocr_panoptic.engine import inference
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.inference import DTYPES
from ocr_panoptic.errors import BAD_INPUT
from ocr_panoptic.evaluation.results import panoptic_annotation, result_categories

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY, small_config, small_model

FOUND = [
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 1),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/predict.py").main


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for seed, name in enumerate(("b.png", "sub/b.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 36)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    Checkpointer(small_model("ocr", seed=7), str(folder)).save("model")
    return ["MODEL.WEIGHTS", folder / "model.pth"]


def arguments(inputs, output, *flags, config="ocr", overrides=()):
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return [
        *("--config-file", str(TINY[config]), "--input", *map(str, inputs)),
        *("--output", str(output), *map(str, flags)),
        *("--opts", *map(str, [*SMALL, *FOUND, *overrides])),
    ]


def read(folder, name="panoptic.json"):
    return json.loads((folder / name).read_text())


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_results_are_those_of_detectron2s_predictor(main, photos, weights, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(arguments(photos, output, overrides=weights)) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [f"{output}/panoptic.json", f"{output}/instances.json"]
    assert not errors(capsys)
    panoptic, instances = read(output), read(output, "instances.json")
    assert panoptic["images"] == [
        {"id": 1, "file_name": "b.png", "height": 36, "width": 48},
        {"id": 2, "file_name": "sub/b.png", "height": 36, "width": 48},
    ]
    metadata = MetadataCatalog.get("shapes_easy_val_panoptic_separated")
    assert panoptic["categories"] == result_categories(metadata)
    predictor = DefaultPredictor(small_config("ocr", [*FOUND, *weights]))
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        expected = predictor(cv2.imread(str(photos / image["file_name"])))
        name = annotation["file_name"]
        assert name == image["file_name"]
        ids, expected_annotation = panoptic_annotation(
            *expected["panoptic_seg"], metadata, image["id"], name
        )
        assert annotation == expected_annotation
        assert annotation["segments_info"]
        with Image.open(output / "panoptic" / name) as png:
            np.testing.assert_array_equal(rgb2id(np.asarray(png)), ids)
        found = [result for result in instances if result["image_id"] == image["id"]]
        theirs = expected["instances"]
        scores = [result["score"] for result in found]
        assert scores == theirs.scores.tolist()
        for result, mask, label in zip(found, theirs.pred_masks, theirs.pred_classes, strict=True):
            np.testing.assert_array_equal(mask_util.decode(result["segmentation"]), mask)
            category = metadata.thing_dataset_id_to_contiguous_id[result["category_id"]]
            assert category == label
        with Image.open(output / "visualizations" / name.replace(".png", ".jpg")) as picture:
            assert picture.size == (48, 36)
            assert picture.format == "JPEG"


@pytest.mark.parametrize("dtype", DTYPES)
def test_predicts_in_each_dtype(main, photos, weights, tmp_path, monkeypatch, capsys, dtype):
    # As on a processor that multiplies in bfloat16.
    monkeypatch.setattr(inference, "native_dtype", lambda device: "bfloat16")
    used = []
    prepare = inference.prepare_for_inference

    def noting(model, **arguments):
        used.append(prepare(model, **arguments))
        return used[-1]

    monkeypatch.setattr(inference, "prepare_for_inference", noting)
    flags = ("--dtype", dtype, "--no-pictures", "--save-semantic")
    assert main(arguments(photos, tmp_path, *flags, overrides=weights)) == 0
    assert [model.dtype for model in used] == ["float32" if dtype == "float32" else "bfloat16"]
    panoptic, instances = read(tmp_path), read(tmp_path, "instances.json")
    assert [len(row["segments_info"]) > 0 for row in panoptic["annotations"]] == [True, True]
    assert {row["image_id"] for row in instances} == {1, 2}
    predictor = DefaultPredictor(small_config("ocr", [*FOUND, *weights]))
    for name in ("b.png", "sub/b.png"):
        logits = predictor(cv2.imread(str(photos / name)))["sem_seg"]
        with Image.open(tmp_path / "semantic" / name) as png:
            chosen = logits.gather(0, torch.from_numpy(np.array(png)).long().unsqueeze(0))
        # The label's logit is the highest but for rounding.
        bound = 1e-4 if dtype == "float32" else 0.1
        assert (logits.amax(dim=0) - chosen[0]).max() < bound * logits.abs().max()
    # The config's own key is the same; results of another dtype are those of another run.
    key = ["TEST.DTYPE", "float32" if dtype == "float32" else "bfloat16"]
    again = arguments(photos, tmp_path, *flags[2:], overrides=[*weights, *key])
    assert main(again) == 0
    other = "bfloat16" if dtype == "float32" else "float32"
    capsys.readouterr()
    again = arguments(photos, tmp_path, "--dtype", other, *flags[2:], overrides=weights)
    assert main(again) == BAD_INPUT
    assert "holds a run with other config" in errors(capsys)[0]


def test_untouched_panopticapi_reads_and_scores_them(main, photos, tmp_path):
    assert main(arguments(photos, tmp_path, "--no-pictures")) == 0
    assert not (tmp_path / "visualizations").exists()
    path = str(tmp_path / "panoptic.json")
    load_panoptic_json(path)
    with contextlib.redirect_stdout(io.StringIO()):
        # The folder of PNGs is found by the json's name.
        scores = pq_compute(path, path)
    assert scores["All"]["pq"] == scores["All"]["sq"] == scores["All"]["rq"] == 1
    assert scores["All"]["n"] > 1


def test_a_list_of_images_gives_ids_and_names(main, photos, tmp_path, capsys):
    rows = [
        {"id": 581, "file_name": "sub/b.png", "height": 36, "width": 48, "license": 3},
        {"id": 12, "file_name": "b.png", "height": 36, "width": 48},
    ]
    for row in rows:
        row["file_name"] = row["file_name"].replace("sub/b", "c")
    images = tmp_path / "images"
    images.mkdir()
    for name, source in (("b.png", "b.png"), ("c.png", "sub/b.png")):
        (images / name).write_bytes((photos / source).read_bytes())
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({"images": rows, "categories": []}))
    listed = ("--image-info", path, "--no-pictures")
    assert main(arguments(images, tmp_path / "out", *listed)) == 0
    panoptic = read(tmp_path / "out")
    assert panoptic["images"] == rows[::-1]
    assert [(row["image_id"], row["file_name"]) for row in panoptic["annotations"]] == [
        (12, "b.png"),
        (581, "c.png"),
    ]
    instances = read(tmp_path / "out", "instances.json")
    assert [row["image_id"] for row in instances] == sorted(row["image_id"] for row in instances)
    assert {row["image_id"] for row in instances} == {12, 581}
    capsys.readouterr()

    assert main(arguments(images / "c.png", tmp_path / "less", *listed)) == BAD_INPUT
    (line,) = errors(capsys)
    assert line.startswith("error: --image-info: b.png is not among the images of --input")
    path.write_text(json.dumps({"images": rows[:1]}))
    assert main(arguments(images, tmp_path / "more", *listed)) == BAD_INPUT
    (line,) = errors(capsys)
    assert line.startswith(f"error: --input: {images}/b.png is not in the list of --image-info")
    assert not (tmp_path / "less").exists()
    assert not (tmp_path / "more").exists()
    assert main(arguments(images, tmp_path / "more", "--skip-unlisted", *listed)) == 0
    assert [row["image_id"] for row in read(tmp_path / "more")["annotations"]] == [581]

    assert main(arguments(images, tmp_path / "x", "--image-info", tmp_path / "no")) == BAD_INPUT
    assert errors(capsys)[0].startswith(f"error: {tmp_path}/no: No such file")


def test_one_bad_image_does_not_stop_the_others(main, photos, tmp_path, capsys):
    bad = tmp_path / "a.jpg"
    bad.write_bytes(b"no image")
    output = tmp_path / "out"
    argv = arguments([bad, photos], output, "--no-pictures")
    assert main(argv) == BAD_INPUT
    (line,) = errors(capsys)
    assert line.startswith(f"error: {bad}: truncated or no image (cannot identify image file")
    panoptic = read(output)
    assert [row["id"] for row in panoptic["images"]] == [2, 3]
    assert [row["image_id"] for row in panoptic["annotations"]] == [2, 3]
    # Alone, it leaves nothing that looks like results.
    assert main(arguments(bad, tmp_path / "none")) == BAD_INPUT
    assert capsys.readouterr().out == ""
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["journal.jsonl"]


def test_a_video_is_predicted_frame_by_frame(main, tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 36)
    )
    for _ in range(2):
        writer.write(np.zeros((36, 48, 3), dtype=np.uint8))
    writer.release()
    assert main(arguments(tmp_path / "clip.avi", tmp_path / "out")) == 0
    names = [row["file_name"] for row in read(tmp_path / "out")["annotations"]]
    assert names == ["clip_000000.png", "clip_000001.png"]
    pictures = sorted(path.name for path in (tmp_path / "out/visualizations").iterdir())
    assert pictures == ["clip_000000.jpg", "clip_000001.jpg"]


def test_instance_segmentation_gives_instances_only(main, photos, tmp_path, capsys):
    assert main(arguments(photos, tmp_path, config="mask_rcnn")) == 0
    assert capsys.readouterr().out == f"{tmp_path}/instances.json\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instances.json", "journal.jsonl"]
    instances = read(tmp_path, "instances.json")
    assert {row["image_id"] for row in instances} == {1, 2}
    assert all(row["segmentation"]["size"] == [36, 48] for row in instances)


def test_no_instance_is_an_empty_list(main, photos, tmp_path):
    none = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0]
    assert main(arguments(photos, tmp_path, config="mask_rcnn", overrides=none)) == 0
    assert read(tmp_path, "instances.json") == []


def test_semantic_maps_are_saved(main, photos, weights, tmp_path):
    assert main(arguments(photos, tmp_path, "--save-semantic", overrides=weights)) == 0
    predictor = DefaultPredictor(small_config("ocr", [*FOUND, *weights]))
    for name in ("b.png", "sub/b.png"):
        expected = predictor(cv2.imread(str(photos / name)))["sem_seg"].argmax(0)
        with Image.open(tmp_path / "semantic" / name) as png:
            assert png.mode == "L"
            assert torch.equal(torch.from_numpy(np.array(png)).long(), expected)


def test_a_data_set_of_ones_own_needs_its_json_only(main, photos, tmp_path, capsys):
    path = tmp_path / "instances.json"
    register_coco_instances("predict_own", {}, str(path), str(tmp_path / "no_images"))
    own = ["DATASETS.TEST", ("predict_own",), "MODEL.ROI_HEADS.NUM_CLASSES", 2]
    try:
        argv = arguments(photos, tmp_path / "out", config="mask_rcnn", overrides=own)
        assert main(argv) == BAD_INPUT
        assert str(path) in errors(capsys)[0]
        categories = [{"id": 40, "name": "cat"}, {"id": 70, "name": "dog"}]
        path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
        assert main(argv) == 0
        found = {row["category_id"] for row in read(tmp_path / "out", "instances.json")}
        assert found
        assert found <= {40, 70}
    finally:
        DatasetCatalog.pop("predict_own")
        MetadataCatalog.pop("predict_own")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["NO.KEY", 1], "Non-existent key: NO.KEY"),
        (["TEST.DTYPE", "float16"], "TEST.DTYPE: 'float16', expected float32 or bfloat16"),
        (["MODEL.DEVICE", "tpu"], "MODEL.DEVICE: 'tpu', expected cuda or cpu"),
        (["MODEL.WEIGHTS", "none.pth"], "MODEL.WEIGHTS: none.pth does not exist"),
        (["INPUT.FORMAT", "L"], "INPUT.FORMAT: 'L', expected RGB or BGR"),
        (["MODEL.MASK_ON", False], "MODEL.MASK_ON: False, expected True, as a panoptic map is"),
        (["DATASETS.TEST", (), "DATASETS.TRAIN", ()], "DATASETS.TEST: empty, expected a data set"),
        (["DATASETS.TEST", ("nothing",)], "dataset 'nothing' is not registered"),
        (
            ["MODEL.ROI_HEADS.NUM_CLASSES", 5],
            "MODEL.ROI_HEADS.NUM_CLASSES is 5; expected 6, the number of thing_classes of dataset",
        ),
        (
            ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"],
            "the model gives sem_seg only, expected a MODEL.META_ARCHITECTURE with instances or",
        ),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "the model gives proposals only"),
    ],
)
def test_a_bad_config_is_one_line(main, photos, tmp_path, capsys, overrides, message):
    assert main(arguments(photos, tmp_path / "out", overrides=overrides)) == BAD_INPUT
    (line,) = errors(capsys)
    assert message in line
    assert not (tmp_path / "out/panoptic.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config-file, --input, --output"),
        (["--dtype", "float16"], "--dtype: invalid choice: 'float16' (choose from"),
        (["--config-file", "f", "--input", "--output", "o"], "--input: expected at least one"),
        (["--config-file", "none.yaml", "--input", "a", "--output", "o"], "none.yaml: no such"),
    ],
)
def test_a_bad_command_line_is_one_line(main, capsys, argv, message):
    assert main(argv) == BAD_INPUT
    (line,) = errors(capsys)
    assert message in line


def test_a_bad_input_or_output_is_one_line(main, photos, tmp_path, capsys, monkeypatch):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((36, 48), 700, np.uint16)).save(deep)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    for inputs, output, message in (
        (photos, "", "--output: no name, expected a folder to write to"),
        # As in training.
        (deep, tmp_path / "deep", f"{deep}: image of Pillow's mode I;16; expected 8 bits per"),
        (tmp_path / "none", tmp_path / "out", f"--input {tmp_path}/none: no such file"),
        (photos, photos / "b.png", f"--output: {photos}/b.png: "),
        (photos, photos, f"--output {photos}: is the folder of images too"),
    ):
        assert main(arguments(inputs, output)) == BAD_INPUT
        (line,) = errors(capsys)
        assert message in line
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"deep"}


def test_the_documented_command_runs(photos, tmp_path):
    text = (REPOSITORY / "tools/README.md").read_text()
    section = text.split("## predict.py", 1)[1].split("\n## ", 1)[0]
    block = section.split("\n\n")[1]
    argv = shlex.split(block.replace("\\\n", " "))
    assert argv[:2] == ["python", "tools/predict.py"]
    # As written, but for the model, and for where the images and the results are.
    replaced = {
        "python": sys.executable,
        "configs/COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x.yaml": str(TINY["ocr"]),
        "images/": str(photos),
        "output/predicted": str(tmp_path / "out"),
    }
    assert set(replaced) <= set(argv)
    argv = [replaced.get(word, word) for word in argv]
    weights = argv.index("MODEL.WEIGHTS")
    argv[weights : weights + 2] = [str(word) for word in [*SMALL, *FOUND]]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/out/panoptic.json\n{tmp_path}/out/instances.json\n"
    assert done.stderr == "MODEL.WEIGHTS is empty: random weights are drawn\n"
    # What the section says is written is written.
    for name in ("panoptic.json", "panoptic", "instances.json", "visualizations", "journal.jsonl"):
        assert f"`{name}`" in section.replace("/`", "`")
        assert (tmp_path / "out" / name).exists()
