"""sweep.py: the thresholds that made a result give it back, others do not."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from detectron2.modeling import build_model
from PIL import Image

from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import BAD_INPUT
from ocr_panoptic.evaluation.sweep import SweepRow, Thresholds, format_sweep

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY

COMBINE = "MODEL.PANOPTIC_FPN.COMBINE"
MADE_WITH = Thresholds(0.3, 20, 0.1)
OPTIONS = [
    *(f"{COMBINE}.OVERLAP_THRESH", MADE_WITH.overlap),
    *(f"{COMBINE}.STUFF_AREA_LIMIT", MADE_WITH.stuff_area),
    *(f"{COMBINE}.INSTANCES_CONFIDENCE_THRESH", MADE_WITH.score),
]


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/sweep.py").main


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Results of a random model, which are a ground truth too."""
    root = tmp_path_factory.mktemp("predicted")
    (root / "images/sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "sub/a.png", "b.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(root / "images" / name)
    argv = ["--config-file", str(TINY["ocr"]), "--input", str(root / "images")]
    argv += ["--output", str(root / "out"), "--save-semantic", "--no-pictures"]
    argv += ["--opts", *map(str, [*SMALL, *OPTIONS])]
    assert load_tool("tools/predict.py").main(argv) == 0
    return root / "out"


def arguments(folder, *flags, truth=None, overrides=()):
    truth = truth or folder
    return [
        *("--config-file", str(TINY["ocr"]), "--predictions", str(folder)),
        *("--panoptic-json", str(truth / "panoptic.json")),
        *("--panoptic-root", str(truth / "panoptic"), *map(str, flags)),
        *("--opts", *map(str, [*SMALL, *OPTIONS, *overrides])),
    ]


def test_the_thresholds_that_made_a_result_give_it_back(main, predicted, tmp_path, capsys):
    path = tmp_path / "rows.json"
    flags = ["--overlap", 0.3, 0.9, "--stuff-area", 20, 4000, "--score", 0.1, 0.99, "--json", path]
    assert main(arguments(predicted, *flags)) == 0
    rows = json.loads(path.read_text())
    assert [(row["overlap"], row["stuff_area"], row["score"]) for row in rows] == [
        (overlap, area, score)
        for overlap in (0.3, 0.9)
        for area in (20, 4000)
        for score in (0.1, 0.99)
    ]
    assert rows[0] == {
        **MADE_WITH._asdict(),
        **dict.fromkeys(("PQ", "SQ", "RQ", "PQ_th", "PQ_st"), 100),
    }
    assert all(row["PQ"] < 100 for row in rows[1:])
    # Less stuff, fewer instances, more instances: each where it is expected.
    by_thresholds = {tuple(row.values())[:3]: row for row in rows}
    assert by_thresholds[0.3, 4000, 0.1]["PQ_th"] == 100
    assert by_thresholds[0.3, 20, 0.99]["PQ_th"] < 100
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [
        "overlap",
        "stuff",
        "area",
        "score",
        "PQ",
        "SQ",
        "RQ",
        "PQ",
        "things",
        "PQ",
        "stuff",
    ]
    assert printed[2].split() == ["0.3", "20", "0.1", *["100.00"] * 5]
    assert printed[-1] == f"highest PQ 100.00: {' '.join(map(str, OPTIONS))}"


def test_thresholds_are_the_configs_unless_they_are_given(main, predicted, capsys):
    assert main(arguments(predicted, "--num-procs", 2)) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["0.3", "20", "0.1", *["100.00"] * 5]
    other = [f"{COMBINE}.OVERLAP_THRESH", 0.25]
    assert main(arguments(predicted, "--score", 0.2, overrides=other)) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["0.25", "20", "0.2"]


def test_a_class_that_never_occurs_is_not_a_number():
    row = SweepRow(MADE_WITH, 50.0, 60.0, 70.0, None, 50.0)
    none = SweepRow(MADE_WITH, None, None, None, None, None)
    text = format_sweep([none, row])
    assert "n/a" in text
    assert "highest PQ 50.00" in text


@pytest.fixture
def broken(predicted, tmp_path):
    return shutil.copytree(predicted, tmp_path / "broken")


def one_line(capsys):
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


MASK = {"size": [72, 96], "counts": "0"}


def result(**fields):
    """Return instances.json with one instance."""
    return json.dumps([{"image_id": 1, "category_id": 14, "score": 0.5, **fields}]).encode()


def test_broken_results_are_one_line(main, predicted, broken, capsys):
    for name, content, message in (
        ("semantic/a.png", None, "a.png: No such file or directory; expected semantic labels"),
        ("semantic/a.png", b"no image", "a.png: not a PNG; expected semantic labels, of predict"),
        ("instances.json", None, "instances.json: No such file or directory; expected a json"),
        ("instances.json", b"[", "instances.json: broken json (Expecting value"),
        ("instances.json", b"[" * 100_000, "instances.json: broken json (maximum recursion"),
        ("instances.json", b"{}", "instances.json: no list; expected the results of predict.py"),
        ("instances.json", b"[3]", "instances.json[0]: no object: 3; expected an object with"),
        ("instances.json", b"[{}]", "[0]: image id: missing; expected an integer"),
        ("instances.json", result(category_id=99), "[0]: image_id 1: category id: 99; expected"),
        ("instances.json", result(score=float("nan")), "score: nan; expected a number from 0"),
        ("instances.json", result(), "segmentation: missing; expected a compressed RLE"),
        ("instances.json", result(segmentation="a"), "segmentation: 'a'; expected a compressed"),
        ("instances.json", result(segmentation={"counts": "0"}), "rle size: missing; expected"),
        ("instances.json", result(segmentation=MASK), "rle counts: runs of 0 pixels; expected"),
        ("panoptic.json", None, "panoptic.json: No such file or directory"),
        ("panoptic.json", b'{"annotations": [{}]}', "[0]: image_id None, file_name None; exp"),
    ):
        good = (broken / name).read_bytes()
        (broken / name).unlink()
        if content is not None:
            (broken / name).write_bytes(content)
        assert main(arguments(broken, truth=predicted)) == BAD_INPUT
        assert message in one_line(capsys), name
        (broken / name).write_bytes(good)
    Image.open(broken / "panoptic/a.png").save(broken / "semantic/a.png")
    assert main(arguments(broken, truth=predicted)) == BAD_INPUT
    assert "semantic/a.png: 8-bit RGB PNG; expected semantic labels" in one_line(capsys)
    Image.new("L", (96, 71)).save(broken / "semantic/a.png")
    assert main(arguments(broken, truth=predicted)) == BAD_INPUT
    assert "semantic/a.png: 96x71 pixels; expected 96x72, as the image has" in one_line(capsys)
    (broken / "semantic/a.png").unlink()
    os.mkfifo(broken / "semantic/a.png")
    assert main(arguments(broken, truth=predicted)) == BAD_INPUT
    assert "semantic/a.png: no regular file; expected semantic labels" in one_line(capsys)


def test_instances_of_other_images_do_not_matter(main, predicted, broken, capsys):
    instances = json.loads((broken / "instances.json").read_text())
    instances.append({"image_id": 77})
    (broken / "instances.json").write_text(json.dumps(instances))
    assert main(arguments(broken, truth=predicted)) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["0.3", "20", "0.1", *["100.00"] * 5]


def test_an_image_without_prediction_is_one_line(main, predicted, broken, capsys):
    panoptic = json.loads((broken / "panoptic.json").read_text())
    del panoptic["annotations"][1]
    (broken / "panoptic.json").write_text(json.dumps(panoptic))
    assert main(arguments(broken, truth=predicted)) == BAD_INPUT
    assert f"{broken}: no prediction of image id 2 of {predicted}/panoptic.json" in one_line(capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--overlap", "1.5"], "--overlap 1.5: expected 0 to 1"),
        (["--score", "nan"], "--score nan: expected 0 to 1"),
        (["--score", "high"], "argument --score: invalid float value: 'high'"),
        (["--stuff-area", "0.5"], "argument --stuff-area: invalid int value: '0.5'"),
        (["--num-procs", "0"], "--num-procs 0: expected 1 or more"),
        (["--json", "/dev/null/rows.json"], "--json: /dev/null: "),
        (["--json", "."], "--json .: is a folder, expected a file"),
        (["--json", str(TINY["ocr"])], "is read too, expected another file"),
    ],
)
def test_a_bad_command_line_is_one_line(main, predicted, capsys, flags, message):
    assert main(arguments(predicted, *flags)) == BAD_INPUT
    assert message in one_line(capsys)


def test_the_documented_example(datasets_root, tmp_path, monkeypatch, capsys):
    text = (REPOSITORY / "tools" / "README.md").read_text()
    section = text.split("## sweep.py", 1)[1].split("\n## ", 1)[0]
    block = section.split("\n\n")[1]
    commands = [shlex.split(line) for line in re.sub(r"\\\n", " ", block).strip().splitlines()]
    assert [words[:2] for words in commands] == [
        ["python", "tools/predict.py"],
        ["python", "tools/sweep.py"],
    ]
    # As it is written, where the configs, the easy Shapes and a demo's weights are.
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "datasets").symlink_to(datasets_root)
    model = build_model(load_config(str(TINY["ocr"]), []))
    (tmp_path / "output/demo/run").mkdir(parents=True)
    Checkpointer(model, str(tmp_path / "output/demo/run")).save("model_final")
    monkeypatch.chdir(tmp_path)
    for words in commands:
        capsys.readouterr()
        assert load_tool(words[1]).main(words[2:]) == 0
    *rows, empty, highest = capsys.readouterr().out.splitlines()[2:]
    thresholds = [tuple(map(float, row.split()[:3])) for row in rows]
    assert thresholds == [
        (overlap, area, score)
        for overlap in (0.3, 0.5, 0.7)
        for area in (0, 500, 1000)
        for score in (0.4, 0.5, 0.6)
    ]
    assert not empty
    assert highest.startswith("highest PQ ")


def test_runs_as_a_program(predicted):
    done = subprocess.run(
        [sys.executable, "tools/sweep.py", *arguments(predicted)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "highest PQ 100.00" in done.stdout
    assert done.stderr == ""
