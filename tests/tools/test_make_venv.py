"""The set-up: what it says without a Python 3.10, and what the lock holds."""

import os
import re
import shutil
import subprocess

from ..conftest import REPOSITORY


def run(tmp_path, **environment):
    """Run make_venv.sh with nothing on PATH but what it needs to look around."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "rm", "touch"):
        (programs / name).symlink_to(shutil.which(name))
    return subprocess.run(
        ["bash", str(REPOSITORY / "tools/make_venv.sh"), str(tmp_path / "venv")],
        env={"PATH": str(programs), "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_python_is_one_line(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("make_venv.sh: no Python 3.10 found: install one")
    assert not (tmp_path / "venv").exists()


def test_a_python_that_fails_is_no_candidate(tmp_path):
    broken = tmp_path / "python3.10"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert run(tmp_path, PYTHON310=str(broken)).returncode == 2


def test_the_lock_pins_hashes_and_names_no_address():
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    packages = re.findall(r"^([a-z0-9-]+)==(\S+) \\$", lock, re.MULTILINE)
    assert len(packages) > 40
    # Every package line is followed by its hashes.
    assert len(re.findall(r"==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", lock)) == len(packages)
    pins = dict(packages)
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
    assert os.access(REPOSITORY / ".ci/run", os.X_OK)
    commands = (REPOSITORY / ".ci/run").read_text().splitlines()
    assert [line for line in commands if line.startswith("make")] == ["make lint", "make test"]
