"""Panoptic quality against panopticapi: every figure to the last bit, whatever is predicted."""

import contextlib
import io
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from panopticapi.evaluation import pq_compute

from ocr_panoptic.data.panoptic_json import read_panoptic_png, write_panoptic_png
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.panoptic_files import FILE_COUNTERS, check_counter, count_files
from ocr_panoptic.evaluation.panoptic_quality import (
    ImageCounts,
    TruthSegment,
    average,
    count_image,
    format_classes,
    format_quality,
    overlaps,
    per_class,
    sum_counts,
)
from ocr_panoptic.evaluation.panoptic_truth import GroundTruth

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 1, "name": "dog", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 7, "name": "never", "isthing": 0},
]


def segments_of(ids, rng, crowds=0.0):
    """Return one segment for each id of a map but 0, of random categories."""
    present, areas = np.unique(ids, return_counts=True)
    return [
        {
            "id": int(segment_id),
            "category_id": int(rng.choice([3, 1, 90])),
            "iscrowd": int(rng.random() < crowds),
            "area": int(area),
        }
        for segment_id, area in zip(present, areas, strict=True)
        if segment_id
    ]


def blocks(rng, low, high, size):
    """Return an (H, W) map of blocks whose ids are sparse, some of them 0."""
    ids = rng.choice([0, *rng.integers(low, high, 5)], size=(3, 3))
    return np.kron(ids, np.ones((size, size), dtype=np.int64))


def write_data(folder, seed, num_images, crowds=0.3, copied=0.8, empty=0.1):
    """Write a ground truth and predictions that are partly right; return both jsons' contents."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": CATEGORIES}
    results = []
    for image_id in rng.permutation(num_images).tolist():
        size = int(rng.integers(1, 12))
        ids = blocks(rng, 1, 2**24, size)
        segments = segments_of(ids, rng, crowds)
        if rng.random() < 0.3:
            # Two crowds of one category: panopticapi remembers the last.
            for segment in segments[:2]:
                segment.update(iscrowd=1, category_id=1)
        predicted = np.where(rng.random() < copied, ids, blocks(rng, 1, 300, size))
        predicted[rng.random(predicted.shape) < rng.choice([0, 0, 0.1, 0.4])] = 0
        predicted = np.roll(predicted, rng.integers(-1, 2, 2), (0, 1))
        if rng.random() < empty:
            predicted[:] = 0
        found = segments_of(predicted, rng)
        for segment in found:
            same = [s for s in segments if s["id"] == segment["id"]]
            if same and rng.random() < 0.8:
                segment["category_id"] = same[0]["category_id"]
        name = f"{image_id}.png"
        write_panoptic_png(folder / "truth" / name, ids)
        write_panoptic_png(folder / "predicted" / name, predicted)
        height, width = ids.shape
        image = {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}
        truth["images"].append(image)
        row = {"image_id": image_id, "file_name": name}
        truth["annotations"].append({**row, "segments_info": segments})
        results.append({**row, "segments_info": found})
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "predicted.json").write_text(json.dumps({"annotations": results}))
    return truth, results


def with_panopticapi(folder):
    """Return what panopticapi says, summing in one process."""
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "cpu_count", lambda: 1)
        # A process for every example would take seconds.
        patch.setattr(multiprocessing, "Pool", OneProcess)
        return pq_compute(
            *(str(folder / name) for name in ("truth.json", "predicted.json")),
            *(str(folder / name) for name in ("truth", "predicted")),
        )


class OneProcess:
    def __init__(self, processes):
        assert processes == 1

    def apply_async(self, function, arguments):
        self.result = function(*arguments)
        return self

    def get(self):
        return self.result


def in_process(folder, results):
    """Return the ground truth and the sums, counted in another order than its own."""
    truth = GroundTruth(folder / "truth.json", folder / "truth")
    counts = {}
    for row in reversed(results):
        ids = read_panoptic_png(folder / "predicted" / row["file_name"])
        counts[row["image_id"]] = count_image(
            truth.overlaps(row["image_id"], ids),
            truth.images[row["image_id"]].segments,
            row["segments_info"],
        )
    return truth, sum_counts(counts[image_id] for image_id in truth.images)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(1, 6),
    crowds=st.sampled_from([0, 0.3, 1]),
    copied=st.sampled_from([0, 0.6, 1]),
    empty=st.sampled_from([0, 0.3, 1]),
)
def test_every_figure_is_panopticapis(seed, num_images, crowds, copied, empty):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, results = write_data(folder, seed, num_images, crowds, copied, empty)
        truth, total = in_process(folder, results)
        averages = average(total, truth.categories)
        try:
            reference = with_panopticapi(folder)
        except ZeroDivisionError:
            # It has no answer where no class occurs.
            assert any(row["n"] == 0 for row in averages.values())
            return
    for part in ("All", "Things", "Stuff"):
        assert averages[part] == reference[part]
    for row in per_class(total, truth.categories):
        expected = reference["per_class"][row.category_id]
        if row.true_positives + row.false_positives + row.false_negatives == 0:
            assert (row.pq, row.sq, row.rq) == (None, None, None)
            assert set(expected.values()) == {0.0}
        else:
            assert row.pq == 100 * expected["pq"]
            assert row.sq == 100 * expected["sq"]
            assert row.rq == 100 * expected["rq"]


MAPS = arrays(
    np.int64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 1, 255, 256, 65_536, 2**24 - 1]),
)


@settings(deadline=None, max_examples=30)
@given(maps=st.lists(MAPS, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_truth_scored_against_itself_is_100(maps, seed):
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for image_id, ids in enumerate(maps):
            row = {"id": image_id, "file_name": f"{image_id}.jpg"}
            images.append({**row, "height": ids.shape[0], "width": ids.shape[1]})
            segments = segments_of(ids, rng)
            row = {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
            annotations.append(row)
            write_panoptic_png(folder / "truth" / row["file_name"], ids)
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / "truth.json").write_text(json.dumps(content))
        truth = GroundTruth(folder / "truth.json", folder / "truth")
        counts = [
            count_image(
                truth.overlaps(row["image_id"], read_panoptic_png(truth.folder / row["file_name"])),
                truth.images[row["image_id"]].segments,
                row["segments_info"],
            )
            for row in annotations
        ]
        results = {row["image_id"]: row for row in annotations}
        totals = [count_files(each, truth, results, truth.folder, 1) for each in FILE_COUNTERS]
    for total in (sum_counts(counts), *totals):
        for row in average(total, truth.categories).values():
            expected = pytest.approx(1.0 if row["n"] else float("nan"), abs=0, nan_ok=True)
            assert (row["pq"], row["sq"], row["rq"]) == (expected, expected, expected)
    assert sum(row.true_positives for row in per_class(totals[0], truth.categories)) == sum(
        len(row["segments_info"]) for row in annotations
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panoptic")
    _, results = write_data(folder, seed=0, num_images=40)
    return folder, results


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("counter", FILE_COUNTERS)
def test_counters_of_files_agree(data, counter, num_processes, children):
    folder, results = data
    truth, total = in_process(folder, results)
    annotations = {row["image_id"]: row for row in results}
    before = json.dumps(results)
    counted = count_files(counter, truth, annotations, folder / "predicted", num_processes)
    assert json.dumps(results) == before
    assert not children()
    for category_id in truth.categories:
        ours, theirs = total[category_id], counted[category_id]
        assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
        # They add in another order.
        assert ours.iou == pytest.approx(theirs.iou, rel=1e-14)
    assert total[3].tp > 10


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([0, 0.1, 1]))
def test_overlaps_are_counts_of_pixels(seed, noise):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 12, 2)
    truth = rng.choice(np.array([0, 1, 2**24 - 1]), shape)
    truth[rng.random(shape) > noise] = 5
    prediction = rng.choice(np.array([0, 7]), shape).astype(np.int32)
    expected = {}
    for pair in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    found = overlaps(truth, prediction)
    assert found == expected
    assert list(found) == sorted(found)


def test_by_hand():
    # 10 pixels of a cat, 2 of void, 8 of a crowd of dogs, 4 of another.
    truth = np.repeat([11, 0, 12, 13], [10, 2, 8, 4])[None]
    # Segment 1 is 8 of the cat's and the void: IoU 8 / 10. 2 is in a crowd, which is ignored. 3 is
    # in the crowd that panopticapi remembers, 4 is one pixel of the first crowd.
    prediction = np.repeat([0, 1, 2, 4, 3], [2, 10, 7, 1, 4])[None]
    segments = [
        *(TruthSegment(11, 3, 0, 10), TruthSegment(12, 1, 1, 8), TruthSegment(13, 1, 1, 4)),
    ]
    found = [{"id": 1, "category_id": 3}] + [{"id": i, "category_id": 1} for i in (2, 3, 4)]
    counts = count_image(overlaps(truth, prediction), segments, found)
    assert counts == ImageCounts(((3, 0.8),), (1, 1), ())
    nothing = count_image(overlaps(truth, np.zeros_like(truth)), segments, [])
    assert nothing == ImageCounts((), (), (3,))


@pytest.mark.parametrize("ids", [[1], [1, 2, 3], [2]])
def test_predictions_that_panopticapi_refuses(ids):
    pixels = overlaps(np.array([[1, 1]]), np.array([[1, 2]]))
    with pytest.raises(ValueError, match=r"pixels have the ids \[1, 2\], but the segments"):
        count_image(pixels, [], [{"id": i, "category_id": 1} for i in ids])


def test_what_does_not_occur_is_not_available():
    categories = {category["id"]: category for category in CATEGORIES}
    total = sum_counts([ImageCounts(((3, 0.75),), (3,), (1,))])
    averages = average(total, categories)
    assert averages["All"]["n"] == averages["Things"]["n"] == 2
    assert averages["Stuff"]["n"] == 0
    assert np.isnan(averages["Stuff"]["pq"])
    lines = format_quality(averages).splitlines()
    assert lines[-1].split() == ["Stuff", "n/a", "n/a", "n/a", "0"]
    assert lines[-2].split() == ["Things", "25.000", "37.500", "33.333", "2"]
    rows = [line.split() for line in format_classes(per_class(total, categories)).splitlines()]
    assert ["cat", "thing", "50.000", "75.000", "66.667", "1", "1", "0"] in rows
    assert ["dog", "thing", "0.000", "0.000", "0.000", "0", "0", "1"] in rows
    assert ["sky", "stuff", "n/a", "n/a", "n/a", "0", "0", "0"] in rows


def test_a_counter_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"COUNTER: hotcoco, which is not installed; expected"):
        check_counter("hotcoco")
    check_counter("panopticapi")
