"""doctor.py: what it prints, writes and answers, and that no broken import makes it fall over."""

import json
import os
import subprocess
import sys

import pytest

from ocr_panoptic.doctor.finding import PROBLEM, Finding

from ..conftest import REPOSITORY, load_tool
from ..doctor import plants
from ..doctor.healthy import healthy, with_error


@pytest.fixture
def tool():
    return load_tool("tools/doctor.py")


@pytest.fixture
def facts(tool, monkeypatch):
    """A function that says which facts are gathered."""

    def function(gathered):
        monkeypatch.setattr(tool, "gather_facts", lambda repository, output: gathered)

    function(healthy())
    return function


def test_nothing_hinders(tool, facts, capsys):
    assert tool.main(["--no-self-test"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("Versions\n  Python ")
    assert "\nDevices\n" in captured.out
    assert "\nChecks\n" in captured.out
    assert "Self-test" not in captured.out
    assert captured.out.endswith("\n\nno problems, 2 notes\n")
    assert "\x1b" not in captured.out


def test_a_problem_is_one_line_on_stderr(tool, facts, capsys, tmp_path):
    facts(with_error(healthy(), "shapely", "ImportError: broken"))
    path = tmp_path / "new/report.json"
    assert tool.main(["--no-self-test", "--json", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: 1 problem, 3 notes: import-shapely\n"
    assert "  problem  import-shapely   shapely: ImportError: broken\n" in captured.out
    assert json.loads(path.read_text())["problems"] == ["import-shapely"]


def test_a_problem_of_the_self_test(tool, facts, capsys, monkeypatch):
    failed = Finding("self-test-cpu-float32", PROBLEM, "training failed", "mend it")
    monkeypatch.setattr(tool, "run_self_test", lambda gathered: [failed])
    assert tool.main([]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: 1 problem, 2 notes: self-test-cpu-float32\n"
    assert "\nSelf-test\n  problem  self-test-cpu-float32  training failed\n" in captured.out


def test_the_disk_that_is_asked_for(tool, capsys, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        tool, "gather_facts", lambda repository, output: asked.append(output) or healthy()
    )
    assert tool.main(["--no-self-test", "--output", str(tmp_path / "runs")]) == 0
    assert asked == [tmp_path / "runs"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "/dev/null"], "--json /dev/null: is a pipe or a device, expected a file"),
        (["--json", "."], "--json .: is a folder, expected a file"),
        (["--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(tool, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(tool, "gather_facts", None)
    assert tool.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def run(folder, *arguments):
    done = plants.run_doctor(folder, "--json", "report.json", *arguments)
    assert "Traceback" not in done.stdout + done.stderr
    report = json.loads((folder / "report.json").read_text())
    return done, {check["id"]: check for check in report["checks"]}


def problems(checks):
    return {name for name, check in checks.items() if check["status"] == PROBLEM}


def of_packages(checks):
    """Return the problems but those of the machine that the tests run on."""
    machine = ("cuda", "gpu-", "shared-memory", "disk-")
    return {name for name in problems(checks) if not name.startswith(machine)}


def test_without_torch_and_with_a_shapely_of_another_numpy(tmp_path):
    plants.absent(tmp_path, "torch")
    error = "numpy.dtype size changed, may indicate binary incompatibility"
    plants.module(tmp_path, "shapely", f"raise ValueError({error!r})", package=True)
    done, checks = run(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "import-torch" in line
    assert of_packages(checks) == {"import-torch", "import-shapely", "shadowed-shapely"}
    assert "-m pip install" in checks["import-torch"]["cure"]
    assert "compiled against another numpy" in checks["import-shapely"]["found"]
    assert "detectron2" in checks["without-torch"]["found"]


def test_a_numpy_that_does_not_import(tmp_path):
    plants.module(tmp_path, "numpy", "raise ImportError('no multiarray')", package=True)
    done, checks = run(tmp_path)
    assert done.returncode == 2
    assert {"import-numpy", "shadowed-numpy"} <= of_packages(checks)
    assert str(tmp_path) in checks["shadowed-numpy"]["cure"]


def test_a_pillow_that_raises_what_is_no_exception(tmp_path):
    plants.absent(tmp_path, "torch")
    plants.module(tmp_path, "PIL", "class E(BaseException): pass\nraise E('odd')", package=True)
    done, checks = run(tmp_path)
    assert done.returncode == 2
    assert checks["import-PIL"]["found"].startswith("PIL: E: odd")


@pytest.mark.slow
def test_setuptools_82_and_two_opencvs(tmp_path):
    plants.absent(tmp_path, "pkg_resources")
    plants.distribution(tmp_path, "setuptools", "82.0.1")
    plants.distribution(tmp_path, "opencv-python-headless", "4.13.0.90")
    done, checks = run(tmp_path)
    assert done.returncode == 2
    assert of_packages(checks) == {"pkg-resources", "opencv"}
    assert checks["pkg-resources"]["cure"].endswith('-m pip install "setuptools<81"')
    assert " uninstall -y opencv-python opencv-python-headless" in checks["opencv"]["cure"]
    # This project works without pkg_resources.
    assert "import-ocr_panoptic" not in checks


@pytest.mark.slow
def test_torchvision_of_another_torch_a_crash_and_a_stray_package(tmp_path):
    error = "operator torchvision::nms does not exist"
    plants.module(tmp_path, "torchvision", f"raise RuntimeError({error!r})", package=True)
    plants.module(tmp_path, "pycocotools", plants.SEGFAULT, package=True)
    plants.module(tmp_path, "fvcore", "", package=True)
    done, checks = run(tmp_path)
    assert done.returncode == 2
    names = ("torchvision", "pycocotools", "fvcore")
    expected = {f"{kind}-{name}" for kind in ("import", "shadowed") for name in names}
    assert of_packages(checks) == expected
    assert "torchvision was built for another torch" in checks["import-torchvision"]["found"]
    assert "torchvision" in checks["import-torchvision"]["cure"]
    assert "SIGSEGV" in checks["import-pycocotools"]["found"]
    assert "Segmentation fault" in checks["import-pycocotools"]["detail"]


@pytest.mark.slow
def test_detectron2_of_an_older_pillow(tmp_path):
    plants.module(tmp_path, "detectron2", "", package=True)
    for name in ("config", "layers"):
        (tmp_path / f"detectron2/{name}.py").touch()
    (tmp_path / "detectron2/data.py").write_text("from PIL import Image\nImage.LINEAR\n")
    done, checks = run(tmp_path)
    assert done.returncode == 2
    assert "Pillow 10 removed what Detectron2 v0.6 uses" in checks["import-detectron2"]["found"]
    assert checks["import-detectron2"]["cure"].endswith('-m pip install "pillow<10"')


@pytest.mark.slow
def test_without_detectron2(tmp_path):
    plants.absent(tmp_path, "detectron2")
    done, checks = run(tmp_path)
    assert done.returncode == 2
    assert of_packages(checks) == {"import-detectron2"}
    assert "detectron2" in checks["import-detectron2"]["cure"]


@pytest.mark.slow
def test_this_environment_with_the_self_test(tmp_path):
    command = [sys.executable, str(REPOSITORY / "tools/doctor.py"), "--json", "report.json"]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    report = json.loads((tmp_path / "report.json").read_text())
    checks = {check["id"]: check for check in report["checks"]}
    assert of_packages(checks) == set(), done.stdout
    assert checks["imports"]["status"] == "ok"
    assert report["self_test"][0]["id"] == "self-test-cpu-float32"
    assert {entry["status"] for entry in report["self_test"]} == {"ok"}, report["self_test"]
    assert done.returncode == (2 if report["problems"] else 0)
    # Nothing is left behind, the folder of runs neither.
    assert os.listdir(tmp_path) == ["report.json"]
