"""check_dataset.py: what it prints, writes and answers, and that no input makes it fall over."""

import json
import os
import random
import re
import shlex
import subprocess
import sys

import pytest

from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic
from ocr_panoptic.data.problems import KINDS
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool
from ..data.panoptic_set import PanopticSet
from ..mutations import mutate_bytes, mutate_field, replace_file

ROW = {"kind", "file", "id", "value", "expected"}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/check_dataset.py").main


@pytest.fixture
def panoptic_set(tmp_path):
    return PanopticSet(tmp_path / "set")


def arguments(panoptic_set, *more):
    flags = ("--panoptic-json", "--panoptic-root", "--image-root")
    paths = zip(flags, map(str, panoptic_set.paths), strict=True)
    return [word for pair in paths for word in pair] + ["--num-procs", "1", *more]


def test_clean_data(main, panoptic_set, tmp_path, capsys):
    path = tmp_path / "new" / "report.json"
    assert main(arguments(panoptic_set, "--deep", "--json", str(path))) == 0
    captured = capsys.readouterr()
    assert captured.out == "2 images, 4 segments: no problems, no notes\n"
    assert captured.err == ""
    assert json.loads(path.read_text()) == {
        "images": 2,
        "segments": 4,
        "problems": [],
        "notes": [],
        "labels": [],
    }


def test_problems_are_printed_and_written(main, panoptic_set, tmp_path, capsys):
    for segment in panoptic_set.segments:
        segment["area"] += 1
    panoptic_set.segments.extend(panoptic_set.segments * 4)
    panoptic_set.image(2).rename(panoptic_set.image(3))
    panoptic_set.save()
    path = tmp_path / "report.json"
    assert main(arguments(panoptic_set, "--json", str(path))) == BAD_INPUT
    captured = capsys.readouterr()
    text = captured.out
    assert captured.err == (
        f"error: {panoptic_set.json_path}: 16 problems, as printed; expected none\n"
    )
    report = json.loads(path.read_text())
    assert (report["images"], report["segments"]) == (2, 16)
    kinds = [row["kind"] for row in report["problems"]]
    assert kinds == ["duplicate-segment-id"] * 12 + ["wrong-area"] * 3 + ["missing-image"]
    notes = [row["kind"] for row in report["notes"]]
    assert notes == ["crowds-of-one-category"] * 4 + ["unnamed-image"]
    assert all(set(row) == ROW for row in report["problems"] + report["notes"])
    row = report["problems"][12]
    assert row["file"] == str(panoptic_set.png(8))
    assert (row["id"], row["value"]) == (70000, row["expected"] + 1)
    assert "  and 2 more\n" in text
    assert text.endswith("2 images, 16 segments: 16 problems, 5 notes\n")
    assert main(arguments(panoptic_set, "--all")) == BAD_INPUT
    everything = capsys.readouterr().out
    assert "and 2 more" not in everything
    assert everything.count("occurs twice") == 12


def test_notes_alone_are_no_failure(main, panoptic_set, capsys):
    panoptic_set.image(8).with_name("extra.jpg").write_bytes(b"")
    assert main(arguments(panoptic_set)) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"1  unnamed-image  note: {KINDS['unnamed-image'].meaning}\n")
    assert text.endswith("2 images, 4 segments: no problems, 1 note\n")


def test_mistakes_are_one_line(main, panoptic_set, tmp_path, capsys):
    json_path, _, image_root = panoptic_set.paths
    for argv, message in (
        ([], "the following arguments are required: --panoptic-json, --panoptic-root, --image-"),
        (arguments(panoptic_set, "--num-procs", "0"), "--num-procs 0: expected 1 or more"),
        (arguments(panoptic_set, "--num-procs", "x"), "argument --num-procs: invalid int value"),
        (arguments(panoptic_set, "--json", str(tmp_path)), f"--json {tmp_path}: is a folder, exp"),
        (arguments(panoptic_set, "--json", "/dev/null/x"), "--json: /dev/null: "),
        (
            arguments(panoptic_set, "--json", str(json_path)),
            f"--json {json_path}: is read too, expected another file",
        ),
        (
            arguments(panoptic_set, "--image-root", "nowhere"),
            "nowhere: no such folder; expected the images",
        ),
        (
            arguments(panoptic_set, "--panoptic-json", "nowhere"),
            "nowhere: No such file or directory; expected a json file",
        ),
        (
            arguments(panoptic_set, "--panoptic-json", str(image_root)),
            f"{image_root}: Is a directory; expected a json file",
        ),
    ):
        assert main(argv) == BAD_INPUT
        captured = capsys.readouterr()
        (line,) = captured.err.strip().splitlines()
        assert line.startswith(f"error: {message}")
        assert captured.out == ""
    assert json.loads(json_path.read_text()) == panoptic_set.data


def test_the_worked_example(main, tmp_path, monkeypatch, capsys):
    # As tools/README.md shows it, with fewer pictures.
    text = (REPOSITORY / "tools" / "README.md").read_text()
    section = text.split("## check_dataset.py", 1)[1].split("\n## ", 1)[0]
    commands = [
        shlex.split(command.replace("\\\n", " "))
        for command in re.findall(r"^    (python (?:.*\\\n)*.*)$", section, flags=re.M)
    ]
    shapes, *checks = [c for c in commands if "DETECTRON2" not in " ".join(c)]
    monkeypatch.chdir(tmp_path)
    assert shapes[:2] == ["python", "datasets/prepare_shapes.py"]
    small = [*shapes[2:], "--train", "3", "--val", "2", "--size", "96"]
    assert load_tool(shapes[1]).main(small) == 0
    assert len(checks) == 1
    assert checks[0][:2] == ["python", "tools/check_dataset.py"]
    capsys.readouterr()
    assert main(checks[0][2:]) == 0
    assert capsys.readouterr().out.endswith("segments: no problems, no notes\n")
    # Its table explains every kind.
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \| (.+) \|$", section, flags=re.M)
    assert [row[0] for row in rows] == list(KINDS)
    for kind, meaning, cure in rows:
        assert meaning.removeprefix("note: ") == KINDS[kind].meaning
        assert meaning.startswith("note: ") == KINDS[kind].is_note
        assert cure == KINDS[kind].cure


def test_runs_as_a_program(panoptic_set):
    panoptic_set.data["images"][0]["file_name"] = "\u00e9.jpg"
    panoptic_set.save()
    command = [sys.executable, "tools/check_dataset.py", *arguments(panoptic_set)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=120,
        check=False,
    )
    assert done.returncode == BAD_INPUT
    (line,) = done.stderr.decode("ascii").splitlines()
    assert line.endswith(".json: 1 problem, as printed; expected none")
    lines = done.stdout.decode("ascii").splitlines()
    assert "\\xe9.jpg: No such file or directory; expected the image of image id 8" in lines[4]
    assert lines[-1] == "2 images, 4 segments: 1 problem, 1 note"


# Any input: a report or one line.


def mutate(panoptic_set, rng):
    """Spoil a data set one to three times."""
    for _ in range(rng.randint(1, 3)):
        mutate_field(panoptic_set.data, rng)
        panoptic_set.save()
    files = [panoptic_set.png(8), panoptic_set.png(2), panoptic_set.image(8), panoptic_set.image(2)]
    files.append(panoptic_set.folder / "panoptic_stuff_val" / "8.png")
    choice = rng.random()
    if choice < 0.4:
        mutate_bytes(rng.choice(files), rng)
    elif choice < 0.5:
        mutate_bytes(panoptic_set.json_path, rng)
    elif choice < 0.6:
        replace_file(rng.choice(files), rng)


def check_mutated(main, tmp_path, capsys, seeds):
    answers = []
    for seed in seeds:
        panoptic_set = PanopticSet(tmp_path / f"{seed}")
        prepare_coco_panoptic(*panoptic_set.paths[:2], num_processes=1)
        rng = random.Random(seed)
        mutate(panoptic_set, rng)
        path = tmp_path / f"{seed}.json"
        argv = arguments(panoptic_set, "--all", "--json", str(path))
        if rng.random() < 0.5:
            argv.append("--deep")
        if rng.random() < 0.5:
            argv += ["--sem-seg-root", str(panoptic_set.folder / "panoptic_stuff_val")]
        status = main(argv)
        captured = capsys.readouterr()
        assert bool(captured.err) == (status == BAD_INPUT), seed
        if captured.err:
            assert captured.err.startswith("error: "), seed
            assert captured.err.count("\n") == 1, seed
        if not path.exists():
            assert status == BAD_INPUT, seed
            assert captured.out == "", seed
            answers.append("refused")
            continue

        def not_a_number(text, seed=seed):
            raise AssertionError(f"{text} in the json of seed {seed}")

        report = json.loads(path.read_text(), parse_constant=not_a_number)
        assert all(set(row) == ROW for row in report["problems"] + report["notes"]), seed
        assert {row["kind"] for row in report["problems"]} <= set(KINDS), seed
        assert status == (BAD_INPUT if report["problems"] else 0), seed
        assert captured.out.isprintable() or all(map(str.isprintable, captured.out.split("\n")))
        answers.append("problems" if report["problems"] else "clean")
        if not report["problems"]:
            # What is called clean can be trained on.
            again = (tmp_path / f"{seed}_again", tmp_path / f"{seed}_again.json")
            prepare_coco_panoptic(*panoptic_set.paths[:2], *again, num_processes=1)
    return answers


def test_mutated_data(main, tmp_path, capsys):
    answers = check_mutated(main, tmp_path, capsys, range(40))
    # Neither is the fuzzing too tame, nor is everything refused at once.
    assert answers.count("problems") >= 20
    assert answers.count("refused") >= 2
    assert answers.count("clean") >= 2


@pytest.mark.soak
def test_much_mutated_data(main, tmp_path, capsys):
    answers = check_mutated(main, tmp_path, capsys, range(1000, 1200))
    assert answers.count("problems") >= 100
