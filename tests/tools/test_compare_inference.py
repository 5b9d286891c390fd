"""compare_inference.py: what it prints and writes, and what it says to mistakes."""

import copy
import json
import os
import subprocess
import sys

import pytest

from ocr_panoptic.engine import compare
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY

FOUND = [
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 1),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/compare_inference.py").main


def arguments(*flags, config="ocr", names=("test_shapes_val_separated",), overrides=()):
    opts = [*SMALL, *FOUND, "DATASETS.TEST", tuple(names), *overrides]
    return ["--config-file", str(TINY[config]), *map(str, flags), "--opts", *map(str, opts)]


def test_float32_agrees_with_the_model(main, datasets_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "agreement.json"
    assert main(arguments("--dtype", "float32", "--json", path, "--limit", 3)) == 0
    printed = capsys.readouterr().out
    assert "3 images\n" in printed
    assert "\nwithin the bounds: 99 % of pixels or more, PQ by 0.3 points or less\n" in printed
    content = json.loads(path.read_text())
    assert content["dtype"] == "float32"
    assert content["images"] == 3
    assert content["is_kept"] is True
    assert content["same_labels"] > 99.9
    # The config's own folder is not touched.
    assert [found.name for found in tmp_path.iterdir()] == ["agreement.json"]


def test_what_is_not_kept_is_told_in_the_status(main, datasets_root, monkeypatch, capsys):
    prepare = compare.prepare_for_inference

    def wrong(model, **arguments):
        model = copy.deepcopy(model)
        model.sem_seg_head.ocr_predictor.weight.data.neg_()
        return prepare(model, **arguments)

    monkeypatch.setattr(compare, "prepare_for_inference", wrong)
    assert main(arguments("--dtype", "float32", "--limit", 2)) == BAD_INPUT
    printed = capsys.readouterr()
    assert "NOT within the bounds" in printed.out
    assert "error" not in printed.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--limit", 0), "--limit 0: expected 1 or more"),
        (("--dtype", "half"), "--dtype: invalid choice: 'half'"),
        (("--json", "/dev/null/x.json"), "--json: /dev/null: "),
    ],
)
def test_a_bad_flag_is_one_line(main, datasets_root, capsys, argv, message):
    assert main(arguments(*argv)) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ()}, "DATASETS.TEST: empty, expected a data set to predict"),
        ({"names": ("nothing",)}, "dataset 'nothing' is not registered"),
        (
            {"names": ("test_shapes_val_instances",), "config": "mask_rcnn"},
            "DATASETS.TEST: test_shapes_val_instances has no panoptic ground truth, expected one",
        ),
        (
            {"config": "mask_rcnn"},
            "MODEL.META_ARCHITECTURE: GeneralizedRCNN, expected PanopticFPN or PaddingAware",
        ),
        (
            {"overrides": ("MODEL.WEIGHTS", "none.pth")},
            "MODEL.WEIGHTS: none.pth does not exist",
        ),
    ],
)
def test_a_bad_config_is_one_line(main, datasets_root, capsys, given, message):
    assert main(arguments(**given)) == BAD_INPUT
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]


def test_the_process_tells_a_mistake():
    done = subprocess.run(
        [sys.executable, "tools/compare_inference.py", "--config-file", "none.yaml"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == BAD_INPUT
    assert done.stderr == "error: --config-file none.yaml: no such file, expected a yaml config\n"
