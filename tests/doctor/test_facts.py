"""What is gathered: distributions, files, the ways to call pip."""

import os
import sys

import pytest

from ocr_panoptic.doctor import facts as module
from ocr_panoptic.doctor.facts import gather_facts
from ocr_panoptic.doctor.probes import DISTRIBUTIONS, NEEDS

from ..conftest import REPOSITORY
from . import plants
from .healthy import FOUND, healthy


@pytest.fixture
def gather(monkeypatch, tmp_path):
    """A function that gathers facts with folders in front of Python's path, without the probes."""
    monkeypatch.setattr(module, "attempt_all", lambda *args, **options: {})

    def function(*folders):
        monkeypatch.setattr(sys, "path", [*map(str, folders), *sys.path])
        return gather_facts(REPOSITORY, tmp_path / "output")

    return function


def test_this_environment(gather):
    facts = gather()
    assert facts.python == sys.version_info[:3]
    assert facts.version("numpy")
    assert facts.version("no-such-package") == ""
    assert facts.installed["numpy"][0].name == "numpy"
    # By names in lower case with dashes, whatever they call themselves.
    assert {"pyyaml", "panopticapi-lite", "ocr-panoptic"} <= set(facts.installed)
    (this,) = facts.installed["ocr-panoptic"]
    assert this.editable
    assert set(facts.origins) == set(DISTRIBUTIONS)
    assert os.path.isfile(facts.origins["torch"])


def test_planted_distributions(gather, tmp_path):
    plants.distribution(tmp_path, "NumPy", "99.0")
    plants.distribution(tmp_path, "opencv_python.headless", "4.9")
    facts = gather(tmp_path)
    assert facts.version("numpy") == "99.0"
    assert facts.installed["numpy"][0].folder == str(tmp_path)
    assert len(facts.installed["numpy"]) == 2
    assert facts.version("opencv-python-headless") == "4.9"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"Name: half-removed\n", b"Version: 1\n"])
def test_broken_metadata_are_passed_over(gather, tmp_path, content):
    metadata = tmp_path / "broken-1.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_bytes(content)
    (tmp_path / "empty-1.0.dist-info").mkdir()
    facts = gather(tmp_path)
    assert not {"broken", "half-removed", "empty"} & set(facts.installed)
    assert facts.version("numpy")


def test_what_pip_left_behind_is_not_there(gather, tmp_path):
    plants.distribution(tmp_path, "torch", "9.0")
    (tmp_path / "torch-9.0.dist-info").rename(tmp_path / "~orch-9.0.dist-info")
    assert gather(tmp_path).version("torch") != "9.0"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"vcs_info": {"commit_id": "abc"}}'])
def test_where_a_package_was_installed_from(gather, tmp_path, text):
    plants.distribution(tmp_path, "detectron2", "0.6")
    (tmp_path / "detectron2-0.6.dist-info/direct_url.json").write_text(text)
    (found,) = gather(tmp_path).installed["detectron2"]
    assert found.commit == ("abc" if "abc" in text else "")
    assert not found.editable


def test_files_that_are_found_first(gather, tmp_path):
    plants.module(tmp_path, "fvcore", "raise RuntimeError('is not run')", package=True)
    assert gather(tmp_path).origins["fvcore"] == str(tmp_path / "fvcore/__init__.py")


def test_a_module_that_is_refused_is_not_there(gather, monkeypatch):
    class Refuses:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "hotcoco":
                raise ModuleNotFoundError(name)

    monkeypatch.setattr(sys, "meta_path", [Refuses, *sys.meta_path])
    assert set(gather().origins) == set(DISTRIBUTIONS) - {"hotcoco"}


def test_a_package_called_tools(gather, tmp_path):
    # Not the folder of this project.
    with_stray = plants.module(tmp_path, "tools", "", package=True)
    assert gather(REPOSITORY, with_stray).tools_package == str(tmp_path / "tools/__init__.py")


def test_data_sets(gather, monkeypatch, tmp_path):
    file = tmp_path / "shapes_easy/annotations/panoptic_train.json"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert gather().datasets == ("easy Shapes",)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nothing"))
    assert gather().datasets == ()


@pytest.mark.parametrize(("pip", "uv", "installer"), [(1, 1, "pip"), (0, 1, "uv"), (0, 0, "")])
def test_what_installs(gather, monkeypatch, tmp_path, pip, uv, installer):
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/uv" if uv else None)
    # What else is on the path does not matter here.
    monkeypatch.setattr(sys, "path", [str(plants.module(tmp_path, "pip", ""))] if pip else [])
    assert gather().installer == installer


def test_how_python_is_called(gather, monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv/bin/python"))
    assert gather().executable == '"my venv/bin/python"'
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert gather().executable == "/elsewhere/bin/python"
    monkeypatch.setattr(module.shutil, "which", lambda name: "/elsewhere/bin/python")
    assert gather().executable == "python"


def test_a_requirement_is_quoted_where_a_shell_would_read_it():
    command = healthy().pip_install("a<2", "b==1.0", "c==1.*", "--no-deps", "git+https://d/e.git")
    assert command == 'python -m pip install "a<2" b==1.0 "c==1.*" --no-deps git+https://d/e.git'


def test_the_facts_that_are_given_are_those_that_are_gathered():
    assert set(FOUND) <= set(NEEDS)
