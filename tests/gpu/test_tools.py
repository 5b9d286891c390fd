"""Command lines from the data to a page, on the device."""

import json

import cv2
import numpy as np
import pytest

from ..conftest import load_tool
from ..models import SMALL, TINY
from .device import DEVICE, needs_device

pytestmark = needs_device

ON_DEVICE = [*map(str, SMALL), "MODEL.DEVICE", DEVICE]


def test_demo_trains_evaluates_and_draws(tmp_path):
    words = ["--output", str(tmp_path), "--train", "4", "--val", "3", *ON_DEVICE]
    words += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)"]
    assert load_tool("tools/demo.py").main(words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 < metrics["mIoU"] < 100
    assert (tmp_path / "report.html").read_text().count('class="example"') == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_alone(datasets_root, tmp_path, dtype):
    overrides = ["DATASETS.TEST", "('test_shapes_val_separated',)", "TEST.DTYPE", dtype]
    words = [*ON_DEVICE, *overrides, "OUTPUT_DIR", str(tmp_path)]
    argv = ["--config-file", str(TINY["ocr"]), "--eval-only", *words]
    assert load_tool("tools/train_net.py").main(argv) == 0
    (path,) = tmp_path.glob("inference/*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["dtype"] == dtype
    assert {"PQ", "box_AP", "mask_AP", "mIoU"} <= set(metrics)


def test_models_are_compared(datasets_root, tmp_path):
    path = tmp_path / "agreement.json"
    opts = [*ON_DEVICE, "DATASETS.TEST", "('test_shapes_val_separated',)"]
    argv = ["--config-file", str(TINY["ocr"]), "--dtype", "float32", "--json", str(path)]
    assert load_tool("tools/compare_inference.py").main([*argv, "--opts", *opts]) == 0
    assert json.loads(path.read_text())["same_labels"] > 99.9


@pytest.mark.parametrize("config", ["ocr", "isa", "nl"])
def test_relations_are_drawn(tmp_path, config):
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(photo), pixels)
    argv = ["relations", "--config-file", str(TINY[config]), "--input", str(photo)]
    argv += ["--pixel", "40,20", "--output", str(tmp_path / "out"), "--opts", *ON_DEVICE]
    assert load_tool("tools/visualize.py").main(argv) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
