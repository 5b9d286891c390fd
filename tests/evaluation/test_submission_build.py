"""Result files as they are built: what is in them, and that they score as the predictions do."""

import contextlib
import copy
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.submission import build, report
from ocr_panoptic.evaluation.submission.build import build_submission
from ocr_panoptic.evaluation.submission.check import check_submission

from .submissions import CATEGORIES, IMAGES, NAMES, read_zip, rle, write_data

PANOPTIC_JSON = "panoptic_val2017.json"


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path)
    return tmp_path


def make(data, task, **changes):
    arguments = {
        "predictions": data / "predictions",
        "split": "val2017",
        "algorithm": "ocr",
        "image_info": data / PANOPTIC_JSON,
        "output": data / "out" / task,
        **changes,
    }
    return build_submission(task, **arguments)


def rows_of(path):
    return json.loads(next(iter(read_zip(path).values())))


def edit(path, change):
    """Rewrite a json with what ``change`` does to it."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def silently(function, *arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments, **options)


def test_panoptic_files_score_as_the_predictions_do(data):
    built = make(data, "panoptic")
    with zipfile.ZipFile(built.zip) as archive:
        archive.extractall(data / "unpacked")
    truth = str(data / PANOPTIC_JSON)
    local = silently(pq_compute, truth, str(data / "predictions" / "panoptic.json"))
    scored = silently(pq_compute, truth, str(data / "unpacked" / f"{NAMES['panoptic']}.json"))
    assert 0.05 < local["All"]["pq"] < 0.95
    assert scored == local


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_detection_files_score_as_the_predictions_do(data, task):
    built = make(data, task)
    with zipfile.ZipFile(built.zip) as archive:
        archive.extractall(data / "unpacked")
    truth = silently(COCO, str(data / "instances_val2017.json"))
    predictions = json.loads((data / "predictions" / "instances.json").read_text())
    # As Detectron2's evaluator scores what it has predicted.
    local = silently(
        _evaluate_predictions_on_coco, truth, copy.deepcopy(predictions), task, cocoeval_fn=COCOeval
    )
    results = silently(truth.loadRes, str(data / "unpacked" / f"{NAMES[task]}.json"))
    scored = COCOeval(truth, results, task)
    for step in (scored.evaluate, scored.accumulate, scored.summarize):
        silently(step)
    assert 0.05 < local.stats[0] < 0.95
    assert np.array_equal(scored.stats, local.stats)
    assert np.array_equal(scored.eval["precision"], local.eval["precision"])


@pytest.mark.parametrize("task", ["panoptic", "segm", "bbox"])
def test_what_is_built_passes_the_check_and_is_the_same_again(data, task):
    built = make(data, task)
    first = (data / "out" / task / f"{NAMES[task]}.zip").read_bytes()
    found = check_submission(built.zip, data / PANOPTIC_JSON)
    assert not found.problems.rows
    assert (found.task, found.entries) == (task, built.entries)
    assert found.images == built.images - (built.empty if task != "panoptic" else 0)
    make(data, task, overwrite=True)
    assert (data / "out" / task / f"{NAMES[task]}.zip").read_bytes() == first
    # Nothing beside it.
    assert len(list((data / "out" / task).iterdir())) == 1


def test_the_layout_of_a_panoptic_file(data):
    name = NAMES["panoptic"]
    built = make(data, "panoptic")
    assert (built.images, built.empty, built.warnings) == (4, 0, [])
    entries = read_zip(built.zip)
    stems = ["000000000007", "000000000009", "000000000030", "000000000100"]
    assert list(entries) == [f"{name}.json", *(f"{name}/{stem}.png" for stem in stems)]
    for stem in stems:
        source = data / "predictions" / "panoptic" / f"{stem}.png"
        assert entries[f"{name}/{stem}.png"] == source.read_bytes()
    content = json.loads(entries[f"{name}.json"])
    assert list(content) == ["annotations"]
    assert [row["image_id"] for row in content["annotations"]] == [7, 9, 30, 100]
    assert [row["file_name"] for row in content["annotations"]] == [f"{s}.png" for s in stems]
    segments = [segment for row in content["annotations"] for segment in row["segments_info"]]
    assert len(segments) == built.entries > 8
    assert all(list(segment) == ["id", "category_id"] for segment in segments)


@pytest.mark.parametrize(("task", "content"), [("segm", "segmentation"), ("bbox", "bbox")])
def test_the_layout_of_a_detection_file(data, task, content):
    built = make(data, task)
    assert (built.images, built.empty, built.left_out) == (4, 1, 0)
    entries = read_zip(built.zip)
    assert list(entries) == [f"{NAMES[task]}.json"]
    text = entries[f"{NAMES[task]}.json"]
    assert text.isascii()
    rows = json.loads(text)
    assert len(rows) == built.entries > 20
    keys = ["image_id", "category_id", content, "score"]
    assert all(list(row) == keys for row in rows)
    order = [(row["image_id"], -row["score"]) for row in rows]
    assert order == sorted(order)


def test_images_without_prediction_are_void(data):
    source = data / "predictions" / "panoptic.json"
    edit(source, lambda content: {"annotations": content["annotations"][:2]})
    built = make(data, "panoptic")
    assert (built.images, built.empty) == (4, 2)
    assert not check_submission(built.zip, data / PANOPTIC_JSON).problems.rows
    entries = read_zip(built.zip)
    for image in IMAGES[2:]:
        png = f"{NAMES['panoptic']}/{image['file_name'].replace('jpg', 'png')}"
        with Image.open(io.BytesIO(entries[png])) as void:
            assert (void.mode, void.size) == ("RGB", (image["width"], image["height"]))
            assert not np.asarray(void).any()
    rows = {row["image_id"]: row for row in rows_of(built.zip)["annotations"]}
    assert rows[9]["segments_info"] == rows[100]["segments_info"] == []


def test_pngs_are_named_after_their_images(data):
    folder = data / "predictions" / "panoptic"
    (folder / "sub").mkdir()
    (folder / "000000000007.png").rename(folder / "sub" / "x.png")

    def rename(content):
        row = next(row for row in content["annotations"] if row["image_id"] == 7)
        row["file_name"] = "sub/x.png"

    edit(data / "predictions" / "panoptic.json", rename)
    built = make(data, "panoptic")
    assert f"{NAMES['panoptic']}/000000000007.png" in read_zip(built.zip)
    assert not check_submission(built.zip, data / PANOPTIC_JSON).problems.rows


def test_the_best_hundred_of_an_image_are_kept_the_first_of_equals(data):
    box = [1.0, 1.0, 2.0, 2.0]
    rows = [
        {"image_id": image, "category_id": 1, "bbox": [float(i), *box[1:]], "score": score}
        for image, scores in ((9, [0.5] * 120 + [0.9]), (7, [0.25]))
        for i, score in enumerate(scores)
    ]
    (data / "predictions" / "instances.json").write_text(json.dumps(rows))
    built = make(data, "bbox")
    assert (built.entries, built.left_out, built.empty) == (101, 21, 2)
    kept = rows_of(built.zip)
    assert kept[0] == rows[-1]
    assert [row["bbox"][0] for row in kept[1:]] == [120.0, *map(float, range(99))]
    assert list(built.lines())[-1] == "left out, beyond the best 100 or below --min-score: 21"


def test_scores_below_the_least_are_left_out(data):
    every = make(data, "bbox")
    some = make(data, "bbox", min_score=0.5, output=data / "some")
    kept = [row for row in rows_of(every.zip) if row["score"] >= 0.5]
    assert rows_of(some.zip) == kept
    assert 0 < len(kept) == every.entries - some.left_out < every.entries


def test_rounding_is_asked_for(data):
    exact, rounded = make(data, "bbox"), make(data, "bbox", rounded=True, output=data / "rounded")
    predicted = {
        tuple(row["bbox"]) for row in json.loads((data / "predictions/instances.json").read_text())
    }
    assert {tuple(row["bbox"]) for row in rows_of(exact.zip)} == predicted
    for row, like in zip(rows_of(rounded.zip), rows_of(exact.zip), strict=True):
        assert row["score"] == round(like["score"], 5)
        assert row["bbox"] == [round(value, 1) for value in like["bbox"]]


SCORES = st.one_of(st.floats(0, 1, width=32), st.floats(0, 1), st.sampled_from([0, 1]))


@given(first=SCORES, second=SCORES)
@settings(max_examples=200, deadline=None)
def test_shortened_scores_keep_their_order(first, second):
    short = build._shortest(first)
    assert len(repr(short)) <= len(repr(float(first)))
    assert np.float32(short) == np.float32(first)
    if float(np.float32(first)) == first and float(np.float32(second)) == second:
        other = build._shortest(second)
        assert (short < other, short == other) == (first < second, first == second)


@pytest.mark.parametrize("name", ["coco_instances_results.json", "other.json"])
def test_predictions_of_an_evaluation_and_named_files(data, name):
    first = make(data, "segm")
    source = data / "predictions" / name
    (data / "predictions" / "instances.json").rename(source)
    predictions = source if name == "other.json" else source.parent
    second = make(data, "segm", predictions=predictions, output=data / "second")
    assert read_zip(first.zip) == read_zip(second.zip)
    source = data / "predictions" / "panoptic.json"
    source.rename(source.with_name("p.json"))
    source.with_suffix("").rename(source.with_name("p"))
    make(data, "panoptic", predictions=source.with_name("p.json"))


def test_a_test_list_has_coco_categories(data):
    path = data / "image_info_test-dev2017.json"
    things = [{key: row[key] for key in ("id", "name")} for row in CATEGORIES if row["isthing"]]
    for header in ({"categories": things}, {}):
        path.write_text(json.dumps({"images": IMAGES, **header}))
        for task in ("panoptic", "segm", "bbox"):
            options = {"split": "test-dev2017", "image_info": path, "overwrite": True}
            built = make(data, task, **options)
            assert "_test-dev2017_" in built.zip
            assert not check_submission(built.zip, path).problems.rows
    # Of no other data set the stuff can be known.
    path.write_text(json.dumps({"images": IMAGES, "categories": [{"id": 1, "name": "shape"}]}))
    with pytest.raises(InputError) as caught:
        make(data, "panoptic", **options)
    assert str(caught.value) == (
        f"{path}: a category has no 'isthing'; expected --categories with a panoptic json, such as"
        " panoptic_val2017.json"
    )
    with pytest.raises(InputError, match="'isthing'; expected --categories"):
        make(data, "panoptic", **options, categories=path)
    make(data, "panoptic", **options, categories=data / PANOPTIC_JSON)


def test_a_challenge_file_is_of_all_test_images(data):
    path = data / "image_info_test2017.json"
    path.write_text(json.dumps({"images": IMAGES}))
    options = {"split": "test-challenge2017", "image_info": path}
    assert make(data, "bbox", **options).zip.endswith(
        "detections_test-challenge2017_ocr_results.zip"
    )
    with pytest.raises(InputError) as caught:
        make(data, "bbox", image_info=path)
    assert str(caught.value) == f"--split: val2017, expected test2017, as in --image-info {path}"


def test_a_large_json_is_warned_of(data, monkeypatch):
    assert not make(data, "segm").warnings
    monkeypatch.setattr(report, "LARGE_JSON", 1000)
    (warning,) = make(data, "segm", overwrite=True).warnings
    assert warning.startswith(f"{NAMES['segm']}.json: 0.0 GB; servers ran out of memory")


def change_rows(key, value, index=0):
    """Return a change of one field of one row, of a list or of the annotations."""

    def change(content):
        rows = content if isinstance(content, list) else content["annotations"]
        rows[index][key] = value

    return change


def change_segments(key, value):
    def change(content):
        content["annotations"][0]["segments_info"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (
            "bbox",
            change_rows("image_id", 8),
            "instances.json[0]: foreign image: 8; expected one of",
        ),
        ("bbox", change_rows("image_id", "7"), "image id: '7'; expected an integer"),
        ("bbox", change_rows("image_id", True), "image id: True; expected an integer"),
        (
            "bbox",
            change_rows("category_id", 0),
            "category id: 0; expected one of the 3 category ids of the data set, not contiguous",
        ),
        ("bbox", change_rows("category_id", 200), "category id: 200; expected one of the 3"),
        ("bbox", change_rows("score", float("nan")), "score: nan; expected a number from 0 to 1"),
        ("segm", change_rows("score", 1.5), "score: 1.5; expected a number from 0 to 1"),
        ("segm", change_rows("score", "1"), "score: '1'; expected a number"),
        ("bbox", change_rows("bbox", [1, 2, 3]), "bbox: [1, 2, 3]; expected x, y, width"),
        ("bbox", change_rows("bbox", [1, 2, -3, 1]), "bbox: [1, 2, -3, 1]; expected x, y, width"),
        ("bbox", change_rows("bbox", [1, 2, 10**400, 1]), "bbox: [1, 2, 1000000"),
        ("bbox", lambda rows: [{"image_id": 7}], "category id: missing; expected one of"),
        ("segm", change_rows("segmentation", [[1, 2]]), "segmentation: [[1, 2]]; expected a comp"),
        (
            "segm",
            change_rows("segmentation", {"size": [4, 4], "counts": "0"}),
            "rle size: [4, 4]; expected [",
        ),
        ("bbox", lambda rows: [1], "instances.json[0]: no object: 1; expected an object"),
        ("bbox", lambda rows: {"annotations": rows}, "another kind of json); expected a list of"),
        ("bbox", lambda rows: [[]][:0] or "x", "broken json (another kind of json)"),
        (
            "panoptic",
            change_rows("image_id", 8),
            "panoptic.json[0]: foreign image: 8; expected one of the 4 ids in ",
        ),
        ("panoptic", change_rows("image_id", 7), "image_id 7 occurs twice; expected each image"),
        (
            "panoptic",
            change_rows("file_name", "000000000009.png"),
            "image_id 30 with file_name 000000000009.png, which is image id 9 of ",
        ),
        ("panoptic", change_rows("file_name", "../x.png"), "file_name '../x.png'; expected a path"),
        ("panoptic", change_rows("file_name", "none.png"), "none.png: image_id 30: png: No such"),
        ("panoptic", change_rows("segments_info", None), "segments info; expected a list"),
        ("panoptic", change_segments("id", 0), "segment id: 0; expected an integer from 1 to"),
        ("panoptic", change_segments("id", 2**24), "segment id: 16777216; expected an integer"),
        ("panoptic", change_segments("id", 3), "duplicate segment: 3; expected each id once"),
        ("panoptic", change_segments("id", 5), "segment not in json: 2700000; expected an id of"),
        ("panoptic", change_segments("category_id", 2), "category id: 2; expected one of the 4"),
        ("panoptic", lambda content: content["annotations"], "another kind of json); expected an"),
        ("panoptic", lambda content: {"annotations": []}, "no annotations; expected predictions"),
        ("panoptic", lambda content: {"images": []}, "there is no 'annotations'"),
    ],
)
def test_bad_predictions_are_refused(data, task, change, message):
    name = "panoptic.json" if task == "panoptic" else "instances.json"
    if message.startswith("image_id 7"):
        edit(data / "predictions" / name, change_rows("file_name", "000000000007.png"))
    edit(data / "predictions" / name, change)
    with pytest.raises(InputError) as caught:
        make(data, task)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(data / "predictions"))
    assert not (data / "out").exists()


def test_a_segment_without_pixels_is_refused(data):
    def add(content):
        content["annotations"][1]["segments_info"].append({"id": 77, "category_id": 1})

    edit(data / "predictions" / "panoptic.json", add)
    png = data / "predictions" / "panoptic" / "000000000007.png"
    with pytest.raises(InputError) as caught:
        make(data, "panoptic")
    assert str(caught.value) == (
        f"{png}: image_id 7: segment without pixels: 77; expected an id of the PNG"
    )


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: Image.new("L", (30, 24)).save(path), "8-bit greyscale PNG; expected 8-bit"),
        (lambda path: Image.new("RGB", (30, 25)).save(path), "png size: 30x25; expected 30x24"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "truncated or broken PNG (it ends"),
        (lambda path: path.write_bytes(b""), "not a PNG; expected an 8-bit RGB PNG"),
    ],
)
def test_bad_pngs_are_refused(data, write, message):
    png = data / "predictions" / "panoptic" / "000000000030.png"
    write(png)
    with pytest.raises(InputError) as caught:
        make(data, "panoptic")
    assert str(caught.value).startswith(f"{png}: image_id 30: png")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "a b"}, "--alg: 'a b', expected 1 to 100 letters, digits, hyphens and"),
        ({"algorithm": "../x"}, "--alg: '../x', expected"),
        ({"algorithm": "é"}, "--alg: 'é', expected"),
        ({"algorithm": ""}, "--alg: '', expected"),
        ({"algorithm": "x" * 101}, "expected 1 to 100 letters"),
        ({"split": "val2014"}, "--split: val2014, expected one of val2017, test-dev2017, test-ch"),
        ({"split": "test-dev2017"}, "--split: test-dev2017, expected val2017, as in --image-info"),
        ({"min_score": 2}, "--min-score: 2, expected 0 to 1"),
        ({"min_score": float("nan")}, "--min-score: nan, expected 0 to 1"),
        ({"min_score": 1}, "detections, none with a score of 1 or more; expected some"),
        ({"predictions": "nowhere"}, "--predictions: nowhere: no predictions; expected one inst"),
        ({"image_info": "nowhere.json"}, "nowhere.json: No such file or directory; expected a"),
        ({"categories": "nowhere.json"}, "nowhere.json: No such file or directory; expected a"),
    ],
)
def test_bad_arguments_are_refused(data, changes, message):
    with pytest.raises(InputError) as caught:
        make(data, "bbox", **changes)
    assert message in str(caught.value)
    assert not (data / "out").exists()


def test_two_sources_are_refused(data):
    source = data / "predictions" / "instances.json"
    other = source.with_name("coco_instances_results.json")
    shutil.copy(source, other)
    with pytest.raises(InputError) as caught:
        make(data, "bbox")
    assert f"both {source} and {other}; expected one instances.json or" in str(caught.value)


def test_a_zip_is_replaced_only_when_asked(data):
    path = data / "out" / "detections_val2017_ocr_results.zip"
    make(data, "bbox", output=path.parent)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        make(data, "segm", output=path.parent)
    assert str(caught.value) == (
        f"{path}: exists; expected --overwrite, or another --output or --alg (segm and bbox files"
        " have one name)"
    )
    assert path.read_bytes() == before
    make(data, "segm", output=path.parent, overwrite=True)
    assert "segmentation" in rows_of(path)[0]


def test_a_failure_while_writing_leaves_nothing(data, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_entry", fail)
    with pytest.raises(InputError, match=r"_results.zip: No space left on device; expected to be"):
        make(data, "bbox")
    assert not list((data / "out" / "bbox").iterdir())
    (data / "file").write_text("")
    with pytest.raises(InputError, match=r"--output: .*file: .*, expected a folder to write to"):
        make(data, "bbox", output=data / "file")


def test_an_rle_of_another_image_is_refused(data):
    mask = rle(np.ones((24, 29)))
    mask["size"] = [24, 30]
    rows = [{"image_id": 30, "category_id": 1, "score": 0.5, "segmentation": mask}]
    (data / "predictions" / "instances.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"rle counts: runs of 696 pixels; expected 720, the im"):
        make(data, "segm")
