"""The demo, as small as it gets."""

import json

import pytest

from ocr_panoptic.errors import BAD_INPUT

from ..conftest import load_tool
from ..models import SMALL


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/demo.py").main


OVERRIDES = [*map(str, SMALL), "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)"]
COUNTS = ["--train", "4", "--val", "3"]


def test_demo_from_nothing_twice(main, tmp_path, capsys):
    output = tmp_path / "demo"
    for _ in range(2):  # the second finds the Shapes of the first, and replaces the run
        assert main(["--output", str(output), *COUNTS, *OVERRIDES]) == 0
        metrics = json.loads((output / "metrics.json").read_text())
        assert metrics["dtype"] == "float32"
        assert 0 < metrics["mIoU"] < 100
        page = (output / "report.html").read_text()
        assert page.count('class="example"') == 3
        assert f"{metrics['mIoU']:.1f}" in page
        printed = capsys.readouterr().out
        assert f"{metrics['mIoU']:.1f}" in printed
        assert str(output / "report.html") in printed
        # Detectron2's log of config and environment goes to the run's log file only.
        assert "META_ARCHITECTURE" not in printed
        assert "META_ARCHITECTURE" in (output / "run/config.yaml").read_text()
    assert len(list((output / "shapes/train").iterdir())) == 4


def test_a_mistake_costs_nothing_of_an_earlier_demo(main, tmp_path, capsys):
    output = tmp_path / "demo"
    assert main(["--output", str(output), *COUNTS, *OVERRIDES]) == 0
    kept = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for words, message in (
        (["MODEL.SEM_SEG_HEAD.NAME", "NoHead"], "'NoHead' is not registered"),
        (["OUTPUT_DIR", "elsewhere"], "OUTPUT_DIR: the demo sets it"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER: 0, expected 1 or more"),
    ):
        assert main(["--output", str(output), *COUNTS, *OVERRIDES, *words]) == BAD_INPUT
        assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == kept


def test_a_folder_with_something_else_is_refused(main, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("mine")
    assert main(["--output", str(tmp_path), *COUNTS, *OVERRIDES]) == BAD_INPUT
    assert "holds something else than a demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "thesis.txt"]


@pytest.mark.parametrize("argv", [["--train", "0"], ["--val", "-1"]])
def test_no_images_are_refused(main, tmp_path, capsys, argv):
    assert main(["--output", str(tmp_path / "demo"), *argv]) == BAD_INPUT
    assert f"{argv[0]} {argv[1]}: expected 1 picture or more" in capsys.readouterr().err
