"""The set-up: what it says without the Python it needs, and what the locks hold."""

import os
import re
import shutil
import subprocess

import pytest

from ..conftest import REPOSITORY


def run(
    tmp_path, *command, programs=("bash", "dirname", "rm", "touch"), cwd=REPOSITORY, **environment
):
    """Run a command with nothing on PATH but a few programs."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name in programs:
        if not (folder / name).exists():
            (folder / name).symlink_to(shutil.which(name))
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": str(folder), "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def make_venv(tmp_path, *arguments, **environment):
    return run(tmp_path, "bash", REPOSITORY / "tools/make_venv.sh", *arguments, **environment)


def interpreter(path, version):
    """Write a program that takes itself for a Python, whatever it is asked."""
    path.write_text(f'#!/bin/sh\ncase "$2" in *{version}*) exit 0;; esac\nexit 1\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("stack", "version"), [("pinned", "3.10"), ("modern", "3.12")])
def test_no_python_is_one_line(tmp_path, stack, version):
    done = make_venv(tmp_path, tmp_path / "venv", stack)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        f"make_venv.sh: no Python {version} found: install one (for example 'uv python install "
        f"{version}') or name one with PYTHON{version.replace('.', '')}=/path/to/python{version}"
    )
    assert not (tmp_path / "venv").exists()


def test_the_pinned_stack_is_the_default(tmp_path):
    done = make_venv(tmp_path, tmp_path / "venv")
    assert (done.returncode, "Python 3.10" in done.stderr) == (2, True)


WRONG = [(), ("",), ("venv", "newest"), ("--fnid", "modern"), ("venv", "pinned", "modern")]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_arguments_are_one_line(tmp_path, arguments):
    done = make_venv(tmp_path, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line == "make_venv.sh: usage: make_venv.sh FOLDER|--find [pinned|modern]"
    assert os.listdir(tmp_path) == ["bin"]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_helps(tmp_path, option):
    done = make_venv(tmp_path, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: make_venv.sh FOLDER|--find [pinned|modern]\nFOLDER: ")


MAKING_PYTHON = f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
    {shutil.which("mkdir")} -p "$3/bin"
    {shutil.which("cp")} "$0" "$3/bin/python"
    : > "$3/pyvenv.cfg"
fi
"""


@pytest.fixture
def python(tmp_path):
    """A Python that makes an environment, and installs nothing into it."""
    path = tmp_path / "python"
    path.write_text(MAKING_PYTHON)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["venv", "./new/venv/", "../here/venv", "."])
def test_a_folder_is_the_callers(tmp_path, python, name):
    here = tmp_path / "here"
    here.mkdir()
    for _ in range(2):
        done = make_venv(tmp_path, name, cwd=here, PYTHON310=python)
        assert (done.returncode, done.stderr) == (0, "")
        # Made anew the second time: the folder that was there is gone.
        contents = {path.name for path in (here / name).iterdir()}
        assert contents == {"bin", "pyvenv.cfg", ".complete"}
        (here / name / "old").touch()


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", [".", "data", "./data/", "../here/data", "data/letter", "hidden"])
def test_nothing_but_an_environment_is_removed(tmp_path, python, name):
    here = tmp_path / "here"
    for path in (here / "data/letter", here / "hidden/.letter"):
        path.parent.mkdir(parents=True)
        path.write_text("dear")
    before = tree(here)
    done = make_venv(tmp_path, name, cwd=here, PYTHON310=python)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    path = os.path.normpath(here / name)
    kind = "is no folder" if name == "data/letter" else r"is no virtual environment"
    assert line.startswith(f"make_venv.sh: {path}: {kind}")
    assert tree(here) == before


def test_the_repository_is_not_removed_with_an_environment_around_it(tmp_path, python):
    script = tmp_path / "around/project/tools/make_venv.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / "tools/make_venv.sh", script)
    for folder in (tmp_path / "around", tmp_path / "around/project"):
        (folder / "pyvenv.cfg").touch()
        done = run(tmp_path, "bash", script, folder, PYTHON310=python)
        assert done.returncode == 2
        assert done.stderr == (
            f"make_venv.sh: {folder}: holds this repository, expected a new folder\n"
        )
    assert script.exists()


def test_a_python_that_fails_is_no_candidate(tmp_path):
    broken = tmp_path / "python3.10"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert make_venv(tmp_path, tmp_path / "venv", PYTHON310=str(broken)).returncode == 2


def test_finds_each_stack_its_python_and_makes_nothing(tmp_path):
    old = interpreter(tmp_path / "old", "3.10")
    new = interpreter(tmp_path / "new", "3.12")
    names = {"PYTHON310": str(old), "PYTHON312": str(new)}
    for stack, path in (("pinned", old), ("modern", new)):
        done = make_venv(tmp_path, "--find", stack, **names)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    assert make_venv(tmp_path, "--find", "modern", PYTHON312=str(old)).returncode == 2
    # Under pyenv, where the shim of another version fails.
    under = tmp_path / ".pyenv/versions/3.12.1/bin"
    under.mkdir(parents=True)
    interpreter(under / "python3.12", "3.12")
    done = make_venv(tmp_path, "--find", "modern", PYTHON312=str(old))
    assert done.stdout == f"{under}/python3.12\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_modern_tests_are_skipped_without_their_python(tmp_path):
    done = run(tmp_path, "make", "test-modern", programs=("bash", "dirname", "make", "sh"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "test-modern: skipped: no Python 3.12 found: install one (for example 'uv python install "
        "3.12') or name one with PYTHON312=/path/to/python3.12\n"
    )


def read_lock(name):
    lock = (REPOSITORY / name).read_text()
    assert "://" not in lock
    assert "--index" not in lock
    packages = re.findall(r"^([a-z0-9-]+)==(\S+) \\$", lock, re.MULTILINE)
    assert len(packages) > 40
    # Every package line is followed by its hashes.
    assert len(re.findall(r"==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", lock)) == len(packages)
    return dict(packages)


def test_the_modern_lock_is_modern_and_leaves_detectron2_to_the_script():
    pins = read_lock("requirements-modern.lock")
    assert pins["torch"].startswith("2.11.")
    assert pins["torchvision"].startswith("0.26.")
    assert int(pins["numpy"].split(".")[0]) >= 2
    # One is a wheel for Python 3.10, the other asks for numpy 1; the other lock pins both.
    assert not {"sal-detectron2", "panopticapi-lite"} & set(pins)
    # What downloads them, and what they need.
    assert {"pip", "setuptools", "fvcore", "omegaconf", "hydra-core"} <= set(pins)


def test_the_lock_pins_hashes_and_names_no_address():
    pins = read_lock("requirements.lock")
    assert pins["sal-detectron2"] == "0.7.2"
    assert pins["torch"] == "2.3.1"
    assert pins["torchvision"] == "0.18.1"
    assert pins["panopticapi-lite"] == "0.2.0"
    assert int(pins["setuptools"].split(".")[0]) < 81
    assert int(pins["numpy"].split(".")[0]) < 2
    assert {"fvcore", "pycocotools", "opencv-python", "shapely"} <= set(pins)


def test_make_targets_make_the_environment_first():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("demo", "test", "lint"):
        assert re.search(rf"^{target}: \$\(STAMP\)$", makefile, re.MULTILINE)
    assert "$(MAKE) --no-print-directory $(MODERN_STAMP) &&" in makefile
    assert os.access(REPOSITORY / ".ci/run", os.X_OK)
    commands = (REPOSITORY / ".ci/run").read_text().splitlines()
    assert [line for line in commands if line.startswith("make")] == ["make lint", "make test"]
