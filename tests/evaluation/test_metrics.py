"""The flat record of a run's metrics."""

import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.build import build_evaluators
from ocr_panoptic.evaluation.metrics import format_metrics, summarise, write_metrics

RESULTS = {
    "panoptic_seg": {"PQ": np.float64(50.25), "SQ": 80.0, "RQ": 60.0, "PQ_th": 40.0, "PQ_st": 61.0},
    "bbox": {"AP": 33.3, "AP50": 50.0},
    "segm": {"AP": float("nan")},
    "sem_seg": {"mIoU": 44.04},
}


def test_names_and_plain_numbers():
    summary = summarise(RESULTS, "float32")
    assert summary == {
        **{"dtype": "float32", "PQ": 50.25, "SQ": 80.0, "RQ": 60.0, "PQ_th": 40.0, "PQ_st": 61.0},
        **{"box_AP": 33.3, "mIoU": 44.04},
    }
    assert all(type(value) in (str, float) for value in summary.values())


def test_written_whole(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    write_metrics(path, summarise(RESULTS, "float32"))
    assert json.loads(path.read_text()) == summarise(RESULTS, "float32")
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_table_keeps_zeros_and_says_what_does_not_apply():
    table = format_metrics(summarise({"panoptic_seg": {"PQ": 0.0}}, "float32"))
    rows = [line.split() for line in table.splitlines()]
    assert ["all", "0.0", "n/a", "n/a"] in rows
    assert ["n/a", "n/a", "n/a"] in rows


def test_a_type_without_evaluators_is_named(tmp_path):
    MetadataCatalog.get("test_no_type").set(evaluator_type="keypoints")
    with pytest.raises(InputError, match=r"test_no_type: evaluator_type 'keypoints', expected one"):
        build_evaluators(None, "test_no_type", tmp_path)
