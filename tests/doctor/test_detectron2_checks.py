"""Checks of Detectron2 and its operators, on facts that are given."""

from dataclasses import replace

import pytest

from ocr_panoptic.doctor.cures import OFFICIAL
from ocr_panoptic.doctor.detectron2_checks import describe_detectron2, describe_operators
from ocr_panoptic.doctor.facts import Distribution
from ocr_panoptic.doctor.finding import INFO, PROBLEM

from .healthy import SITE, healthy, with_error, with_found, with_gpu, with_versions
from .test_package_checks import PIP, findings, problem


def test_two_of_them():
    told = problem(with_versions(healthy(), detectron2="0.6"), "detectron2")
    assert told.found == "detectron2 and sal-detectron2 install the same module over each other"
    assert told.cure.startswith("python -m pip uninstall -y detectron2 sal-detectron2 && python")


@pytest.mark.parametrize(
    ("installed", "text"),
    [
        ({}, "0.7.2, sal-detectron2 0.7.2 (pinned)"),
        ({"sal_detectron2": "0.7.2+noext"}, "0.7.2, sal-detectron2 0.7.2+noext"),
        ({"sal_detectron2": None, "detectron2": "0.7.2"}, "0.7.2, official"),
        ({"sal_detectron2": None}, "0.7.2, not installed by pip"),
    ],
)
def test_which_it_is(installed, text):
    facts = with_versions(healthy(), **installed)
    assert describe_detectron2(facts) == text
    assert findings(facts)["detectron2"].found == text


def test_the_commit_of_an_official_one():
    facts = with_versions(healthy(), sal_detectron2=None)
    official = Distribution("detectron2", "0.6", SITE, commit="a59f05630a8f20575606")
    facts = replace(facts, installed={**facts.installed, "detectron2": (official,)})
    assert describe_detectron2(facts) == "0.7.2, official at commit a59f05630a8f"


def test_it_cannot_be_described_where_it_cannot_be_imported():
    facts = with_error(healthy(), "detectron2", "ImportError: broken")
    assert describe_detectron2(facts) == ""
    assert describe_operators(facts) == "unknown"


def test_the_operators_are_for_another_torch():
    facts = with_versions(healthy(), torch="2.5.1")
    facts = with_found(facts, "torch", version="2.5.1+cu124", cuda="12.4")
    facts = with_found(facts, "torchvision", version="0.20.1+cu124")
    error = "ImportError: undefined symbol: _ZN2at4_ops5zeros4callEN3c108ArrayRefINS2_6SymIntEEE"
    facts = with_error(facts, "detectron2._C", error)
    assert list(findings(facts, PROBLEM)) == ["import-detectron2._C", "pins"]
    told = findings(facts)["pins"]
    assert told.found.startswith("torch 2.5.1: the operators of sal-detectron2 were compiled for")
    assert told.cure == f'{PIP}torch==2.3.1 torchvision==0.18.1 "numpy<2"'
    assert describe_operators(facts) == f"broken: {error}"


def test_the_pins_are_of_the_pinned_wheel_only():
    facts = with_versions(healthy(), sal_detectron2="0.7.2+noext", torch="2.11.0")
    assert "pins" not in findings(facts)


class TestAbsent:
    def facts(self, *files):
        return with_found(healthy(), "detectron2._C", present=False, files=list(files))

    def test_is_a_note(self):
        told = findings(self.facts())["operators"]
        assert told.status == INFO
        assert told.found.startswith("detectron2._C is absent: no deformable convolutions, rotated")
        assert "evaluation falls back to pycocotools" in told.found
        assert told.cure == f"where they are needed: {PIP}--no-build-isolation {OFFICIAL}"
        assert describe_operators(self.facts()).startswith("absent: no deformable convolutions")

    def test_because_they_are_for_another_python(self):
        told = findings(self.facts("_C.cpython-39-x86_64-linux-gnu.so"))["operators"]
        assert "(_C.cpython-39-x86_64-linux-gnu.so is for another Python)" in told.found


class TestCuda:
    def test_is_another(self):
        facts = with_found(healthy(), "detectron2._C", cuda="CUDA 11.8")
        told = problem(facts, "operators-cuda")
        assert told.found == "the operators were compiled for CUDA 11.8, torch for CUDA 12.1"

    def test_of_torch_is_missing(self):
        facts = with_found(healthy(), "torch", cuda=None)
        told = problem(facts, "operators-cuda")
        assert told.found == "the operators were compiled for CUDA 12.1, torch for no CUDA"

    def test_of_the_operators_is_missing(self):
        facts = with_found(with_gpu(healthy()), "detectron2._C", cuda="not available")
        told = findings(facts)["operators-cuda"]
        assert told.status == INFO
        assert "FORCE_CUDA=1" in told.cure
        # Without a GPU nobody misses it.
        facts = with_found(healthy(), "detectron2._C", cuda="not available")
        assert "operators-cuda" not in findings(facts)

    def test_minor_versions_do_not_matter(self):
        facts = with_found(healthy(), "torch", cuda="12.4")
        assert findings(facts)["operators-cuda"].status == "ok"


def test_the_sampler_of_an_older_detectron2():
    assert "sampler-seed" in findings(healthy())
    facts = with_found(healthy(), "detectron2", seeded_sampler=False)
    assert "sampler-seed" not in findings(facts)
