"""visualize.py without a command: pictures of saved results."""

import io
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool
from ..panoptic_sets import PanopticSet


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/visualize.py").main


@pytest.fixture
def data(tmp_path):
    return PanopticSet(tmp_path / "data")


def arguments(data, output, *others):
    return [
        *("--panoptic-json", str(data.json), "--panoptic-root", str(data.panoptic_root)),
        *("--image-root", str(data.image_root), "--output", str(output), *others),
    ]


def with_truth(data):
    return ["--ground-truth-json", str(data.json), "--ground-truth-root", str(data.panoptic_root)]


def test_paths_are_printed(main, data, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(arguments(data, output, *with_truth(data), "--gallery", "--limit", "2")) == 0
    captured = capsys.readouterr()
    names = ("a.png", "b.png", "index.html")
    assert captured.out.split() == [str(output / name) for name in names]
    assert not captured.err
    # Input, ground truth and prediction.
    assert Image.open(output / "a.png").size[0] == 2 * 28 + 3 * 480 + 2 * 24


def test_options_change_the_pictures(main, data, tmp_path):
    pictures = []
    for index, options in enumerate(([], ["--no-text"], ["--alpha", "0.2"], with_truth(data))):
        assert main(arguments(data, tmp_path / f"{index}", *options)) == 0
        pictures.append((tmp_path / f"{index}" / "a.png").read_bytes())
    assert len(set(pictures)) == 4


def test_every_bad_image_is_one_line(main, tmp_path, capsys):
    data = PanopticSet(tmp_path / "data", names=("a.jpg", "b.jpg", "c.jpg"))
    (data.image_root / "a.jpg").unlink()
    data.write_image("c.jpg", np.zeros((5, 6, 3), np.uint8))
    assert main(arguments(data, tmp_path / "out", "--gallery")) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out.split() == [
        str(tmp_path / "out" / name) for name in ("b.png", "index.html")
    ]
    assert captured.err.splitlines() == [
        f"error: {data.image_root / 'a.jpg'}: no such file, expected an image",
        f"error: {data.panoptic_root / 'c.png'}: 64x48 pixels, expected 6x5 as "
        f"{data.image_root / 'c.jpg'} has",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "1.5"], "--alpha 1.5: expected 0 to 1"),
        (["--alpha", "nan"], "--alpha nan: expected 0 to 1"),
        (["--alpha", "half"], "argument --alpha: invalid float value: 'half'"),
        (["--limit", "0"], "--limit 0: expected 1 or more"),
        (["--num-procs", "-1"], "--num-procs -1: expected 1 or more"),
        (["--categories", "none.json"], "none.json: No such file or directory; expected a json"),
        (["--ground-truth-json", "G"], "expected --ground-truth-json and --ground-truth-root"),
        (["--ground-truth-root", "G"], "expected --ground-truth-json and --ground-truth-root"),
        (
            ["--panoptic-root", "none"],
            "--panoptic-root none: no such folder, expected the panoptic",
        ),
        (["--image-root", "none"], "--image-root none: no such folder, expected the images"),
        (["--panoptic-json", "none.json"], "none.json: No such file or directory"),
        (["--output", ""], "--output: : no name, expected a folder to write to"),
        (["--output", "{file}"], "--output: {file}: "),
        (["--output", "{file}/x"], "--output: {file}/x: "),
        (["relations"], "--panoptic-json: before relations, expected relations first"),
        (["--what"], "unrecognized arguments: --what"),
    ],
)
def test_a_bad_command_line_is_one_line(main, data, tmp_path, capsys, options, message):
    if options == ["relations"]:
        options += ["--pixel", "1,1", "--config-file", "F", "--input", "I", "--output", "O"]
    options = [option.format(file=data.json) for option in options]
    assert main(arguments(data, tmp_path / "out", *options)) == BAD_INPUT
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message.format(file=data.json) in line
    assert not captured.out
    assert not list(tmp_path.rglob("*.png.*"))


def test_what_is_missing_is_named(main, capsys):
    assert main(["--panoptic-json", "J", "--output", "O"]) == BAD_INPUT
    line = "error: required: --panoptic-root, --image-root (or the command relations)\n"
    assert capsys.readouterr().err == line


def test_help_shows_both(main, capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for part in ("--panoptic-json J", "--ground-truth-root GR", "--gallery", "--no-text"):
        assert part in text
    assert "visualize.py relations --config-file" in text


def test_the_examples_of_the_readme(main, datasets_root, tmp_path, monkeypatch, capsys):
    text = (REPOSITORY / "tools" / "README.md").read_text()
    section = text.split("## visualize.py")[1].split("\n## ")[0].replace("\\\n", " ")
    examples = re.findall(r"^    python tools/visualize\.py (--panoptic.*)$", section, re.M)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    shutil.copytree(datasets_root / "shapes_easy", "output/shapes")
    # What predict.py would have written.
    shutil.copytree("output/shapes/panoptic_val", "output/predictions/panoptic")
    shutil.copy("output/shapes/annotations/panoptic_val.json", "output/predictions/panoptic.json")
    for example in examples:
        assert main(shlex.split(example)) == 0
        output = example.split("--output ")[1].split()[0]
        paths = capsys.readouterr().out.split()
        assert len(paths) == 6
        assert paths[-1] == f"{output}/index.html"
    assert "<dd>100.0</dd>" in (tmp_path / "output/compared/index.html").read_text()


def test_paths_and_errors_stand_above_the_bar(main, data, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    (data.panoptic_root / "b.png").unlink()
    output = tmp_path / "out"
    assert main(arguments(data, output, "--num-procs", "1")) == BAD_INPUT
    assert "2/2" in terminal.getvalue()
    # What is left of each line where the bar was cleared.
    lines = [line.rsplit("\r", 1)[-1] for line in terminal.getvalue().splitlines(keepends=False)]
    assert str(output / "a.png") in lines
    assert any(line.startswith(f"error: {data.panoptic_root / 'b.png'}: ") for line in lines)


def test_runs_as_a_program(data, tmp_path):
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "tools/visualize.py", *arguments(data, output)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output / 'a.png'}\n{output / 'b.png'}\n"
    assert done.stderr == ""
