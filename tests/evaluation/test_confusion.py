"""Confusion of classes, against counting pixel by pixel."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.confusion import (
    confusion_matrix,
    format_pairs,
    most_confused,
    pair_confusion,
    parse_pair,
)

NAMES = ["things", "lake", "ice", "sand"]
NAME = "test_confusion"


@pytest.fixture
def dataset(tmp_path):
    """Make two images of labels, registered; return their (file name, labels)."""
    generator = np.random.default_rng(0)
    images, rows = [], []
    for number, size in enumerate([(7, 9), (5, 4)]):
        labels = generator.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(labels).save(path)
        images.append((f"{number}.jpg", labels))
        rows.append({"file_name": f"{number}.jpg", "sem_seg_file_name": str(path)})
    DatasetCatalog.register(NAME, lambda: rows)
    MetadataCatalog.get(NAME).set(
        stuff_classes=NAMES,
        stuff_dataset_id_to_contiguous_id={0: 0, 121: 1, 124: 2, 110: 3},
        ignore_label=255,
    )
    yield images
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def write_predictions(path, images, seed=1):
    """Write what SemSegEvaluator writes of random predictions; return the predicted labels."""
    generator = np.random.default_rng(seed)
    ids, predicted, rows = [0, 121, 124, 110], [], []
    for name, labels in images:
        prediction = generator.integers(0, 4, labels.shape)
        predicted.append(prediction)
        for label in np.unique(prediction):
            encoded = mask_util.encode(np.asfortranarray(prediction == label, dtype=np.uint8))
            encoded["counts"] = encoded["counts"].decode()
            rows.append(
                {"file_name": name, "category_id": ids[label], "segmentation": dict(encoded)}
            )
    path.write_text(json.dumps(rows))
    return predicted


def test_counts_every_labelled_pixel_once(dataset, tmp_path):
    path = tmp_path / "predictions.json"
    predicted = write_predictions(path, dataset)
    expected = np.zeros((4, 4), dtype=np.int64)
    for (_, labels), prediction in zip(dataset, predicted, strict=True):
        for row in range(labels.shape[0]):
            for column in range(labels.shape[1]):
                if labels[row, column] != 255:
                    expected[labels[row, column], prediction[row, column]] += 1
    matrix = confusion_matrix(path, NAME)
    assert np.array_equal(matrix, expected)
    assert 0 < matrix.sum() < sum(labels.size for _, labels in dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "a json dict, expected a list of masks"),
        ("[]", "no image, expected images of data set test_confusion"),
        ('[{"file_name": "0.jpg"}]', "entry 0: KeyError 'category_id', expected 'file_name'"),
        ("[7]", "entry 0: TypeError"),
        (
            '[{"file_name": "0.jpg", "category_id": 7, "segmentation": {}}]',
            "entry 0: KeyError 7, expected .* a 'category_id' of the data set",
        ),
        (
            '[{"file_name": "x.jpg", "category_id": 121, "segmentation": {}}]',
            r"image x\.jpg, expected images of data set test_confusion",
        ),
        (
            '[{"file_name": "0.jpg", "category_id": 121, "segmentation": '
            '{"size": [2, 3], "counts": "6"}}]',
            r"a mask of 3x2 pixels for image 0\.jpg, expected 9x7",
        ),
        (
            '[{"file_name": "0.jpg", "category_id": 121, "segmentation": {"size": 3}}]',
            r"image 0\.jpg: no run-length encoded mask",
        ),
        ("[", "broken json"),
    ],
)
def test_predictions_that_cannot_be_counted(dataset, tmp_path, content, message):
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"predictions\.json: .*{message}"):
        confusion_matrix(path, NAME)


matrices = st.lists(
    st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=4, max_size=4
).map(np.array)


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_a_pair_adds_up(matrix):
    pair = pair_confusion(matrix, NAMES, ("lake", "ice"))
    assert pair.pixels == matrix[1].sum() + matrix[2].sum()
    total = pair.correct + pair.swapped + pair.elsewhere
    assert total == pytest.approx(100 if pair.pixels else 0)
    wrong, right = matrix[1, 2] + matrix[2, 1], matrix[1, 1] + matrix[2, 2]
    if wrong + right:
        assert pair.confusion == pytest.approx(100 * wrong / (wrong + right))
    else:
        assert pair.confusion is None
        assert "n/a" in format_pairs([pair])


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 7))
def test_the_most_confused_come_first(matrix, count):
    swapped = {
        (NAMES[a], NAMES[b]): matrix[a, b] + matrix[b, a] for a in range(4) for b in range(a)
    }
    expected = sorted((number for number in swapped.values() if number), reverse=True)[:count]
    found = most_confused(matrix, NAMES, count)
    assert [swapped[pair.second, pair.first] for pair in found] == expected
    assert len({(pair.first, pair.second) for pair in found}) == len(found)


def test_nothing_is_confused():
    assert most_confused(np.eye(4, dtype=np.int64), NAMES, 5) == []
    assert format_pairs([]) == "No pixel got a wrong class."


def test_the_table():
    matrix = np.zeros((4, 4), dtype=np.int64)
    matrix[1, 1], matrix[1, 2], matrix[2, 2], matrix[2, 0] = 6, 2, 1, 1
    text = format_pairs([pair_confusion(matrix, NAMES, ("lake", "ice"))])
    assert "| lake, ice | 10       | 70.0 %    | 20.0 %    | 10.0 %" in text
    assert "22.2 %" in text


@pytest.mark.parametrize("text", ["lake", "lake,lake", "lake,fog", "lake,ice,sand", ""])
def test_what_is_no_pair(text):
    with pytest.raises(InputError, match=f"--pairs {text}: expected two of things lake ice sand"):
        parse_pair(text, NAMES)
    assert parse_pair("ice,lake", NAMES) == ("ice", "lake")
