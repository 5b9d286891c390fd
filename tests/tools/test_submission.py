"""submission.py: from predictions to a zip, and from a zip to its problems."""

import json
import re
import shlex
import subprocess
import sys
import zipfile

import pytest

from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool
from ..evaluation.submissions import NAMES, write_data


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/submission.py").main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def build(data, output, task="panoptic", *options):
    return [
        *("build", "--task", task, "--predictions", str(data / "predictions")),
        *("--split", "val2017", "--alg", "ocr", "--output", str(output)),
        *("--image-info", str(data / "panoptic_val2017.json"), *map(str, options)),
    ]


def check(data, path, *options):
    return ["check", str(path), "--image-info", str(data / "panoptic_val2017.json"), *options]


def one_line(capsys):
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("task", "counts"),
    [
        ("panoptic", "4 images, {} segments"),
        ("segm", "4 images, {} detections"),
        ("bbox", "4 images, {} detections"),
    ],
)
def test_builds_and_checks(main, data, tmp_path, capsys, task, counts):
    path = tmp_path / "out" / f"{NAMES[task]}.zip"
    assert main(build(data, path.parent, task, "--json", tmp_path / "built.json")) == 0
    built = json.loads((tmp_path / "built.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: {counts.format(built['entries'])}"
    assert lines[1:] == ([] if task == "panoptic" else ["images without a prediction: 1"])
    assert built == {
        "zip": str(path),
        "task": task,
        "images": 4,
        "empty": len(lines) - 1,
        "entries": built["entries"],
        "left_out": 0,
        "warnings": [],
    }
    assert main(check(data, path, "--json", str(tmp_path / "checked.json"))) == 0
    checked = json.loads((tmp_path / "checked.json").read_text())
    images = 4 if task == "panoptic" else 3
    assert checked == {
        "zip": str(path),
        "task": task,
        "images": images,
        "entries": built["entries"],
        "problems": [],
        "left_out": {},
        "warnings": [],
    }
    counts = counts.format(built["entries"]).replace("4", str(images), 1)
    assert capsys.readouterr().out == f"{task}: {counts}, no problems\n"


def test_problems_are_lines_and_rows(main, data, tmp_path, capsys):
    path = tmp_path / "detections_val2017_x_results.zip"
    rows = [{"image_id": 7, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 2}]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.with_suffix(".json").name, json.dumps(rows))
    assert main(check(data, path, "--json", str(tmp_path / "p.json"))) == BAD_INPUT
    captured = capsys.readouterr()
    name = f"{path.stem}.json[0]"
    assert captured.out.splitlines() == [
        f"{name}: image_id 7: category id: 0; expected one of the 3 category ids of the data set,"
        " not contiguous ones",
        f"{name}: image_id 7: score: 2; expected a number from 0 to 1",
        "bbox: 1 images, 1 detections, 2 problems",
    ]
    assert captured.err == f"error: {path}: 2 problems; expected none\n"
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["images"] == 1
    assert written["problems"][1] == {
        "kind": "score",
        "file": name,
        "id": 7,
        "value": 2,
        "expected": "a number from 0 to 1",
    }


def test_options_reach_the_zip(main, data, tmp_path, capsys):
    options = ("--min-score", "0.5", "--round", "--categories", data / "panoptic_val2017.json")
    assert main(build(data, tmp_path, "bbox", *options)) == 0
    assert "left out, beyond the best 100 or below --min-score: " in capsys.readouterr().out
    assert main(build(data, tmp_path, "bbox")) == BAD_INPUT
    assert "exists; expected --overwrite, or another" in one_line(capsys)
    assert main(build(data, tmp_path, "bbox", "--overwrite")) == 0
    path = tmp_path / f"{NAMES['bbox']}.zip"
    capsys.readouterr()
    assert main(check(data, path, "--task", "segm")) == BAD_INPUT
    assert "box in segm file; expected segmentation only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required"),
        (["build"], "--task, --predictions, --split, --alg, --output, --image-info"),
        (["check", "x.zip"], "--image-info"),
        (["build", "--task", "keypoints"], "invalid choice: 'keypoints'"),
        (["check", "x.zip", "--image-info", "x.json"], "x.zip: no such file; expected a zip of"),
    ],
)
def test_a_bad_command_line_is_one_line(main, capsys, argv, message):
    assert main(argv) == BAD_INPUT
    assert message in one_line(capsys)


def test_bad_values_are_one_line(main, data, tmp_path, capsys):
    for option, value, message in (
        ("--alg", "a/b", "--alg: 'a/b', expected 1 to 100 letters"),
        ("--split", "val2014", "invalid choice: 'val2014'"),
        ("--min-score", "x", "invalid float value: 'x'"),
        ("--predictions", tmp_path, f"--predictions: {tmp_path}: no predictions; expected one"),
        ("--output", data / "panoptic_val2017.json", "expected a folder to write to"),
        ("--output", "", "--output: : no name, expected a folder to write to"),
        ("--json", tmp_path, f"--json {tmp_path}: is a folder, expected a file"),
        ("--json", data / "panoptic_val2017.json", "is read too, expected another file"),
    ):
        assert main(build(data, tmp_path / "out", "bbox", option, value)) == BAD_INPUT
        assert message in one_line(capsys)
        assert not (tmp_path / "out").exists()


def test_a_report_never_replaces_the_zip(main, data, tmp_path, capsys):
    assert main(build(data, tmp_path, "bbox")) == 0
    (path,) = tmp_path.glob("*.zip")
    before = path.read_bytes()
    listed = str(data / "panoptic_val2017.json")
    assert main(["check", str(path), "--image-info", listed, "--json", str(path)]) == BAD_INPUT
    assert f"--json {path}: is read too, expected another file" in one_line(capsys)
    assert path.read_bytes() == before


def test_the_documented_example(main, data, tmp_path, monkeypatch, capsys):
    text = (REPOSITORY / "tools/README.md").read_text()
    section = text[text.index("## submission.py") : text.index("## make_venv.sh")]
    block = section[section.index("    python") : section.index("**COCO")]
    commands = re.sub(r"\\\n", " ", block).strip().splitlines()
    assert [shlex.split(line)[1:3] for line in commands] == [
        ["tools/submission.py", "build"],
        ["tools/submission.py", "check"],
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "predictions").symlink_to(data / "predictions")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "annotations").symlink_to(data)
    for line in commands:
        line = line.replace("$DETECTRON2_DATASETS", str(tmp_path))
        assert main(shlex.split(line)[2:]) == 0
    assert capsys.readouterr().out.endswith("segments, no problems\n")


def test_runs_as_a_program(data, tmp_path):
    done = subprocess.run(
        [sys.executable, "tools/submission.py", *build(data, tmp_path, "segm")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / f"{NAMES['segm']}.zip").is_file()
