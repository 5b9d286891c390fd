"""What the report says, and how it looks."""

import json

import pytest

from ocr_panoptic.doctor import examination
from ocr_panoptic.doctor.attempts import CRASHED, OK, Attempt
from ocr_panoptic.doctor.examination import run_checks, run_self_test
from ocr_panoptic.doctor.finding import INFO, PROBLEM, Finding
from ocr_panoptic.doctor.report import (
    Report,
    describe_devices,
    describe_versions,
    format_findings,
    format_tables,
)

from .healthy import GPU, healthy, with_error, with_found, with_gpu, with_machine, with_versions

FINE = Finding("fine", "ok", "all is well")
NOTE = Finding("a-note", INFO, "worth knowing", "export A=1")
BAD = Finding("bad", PROBLEM, "broken " * 20, "python -m pip install " + "x" * 100, "a traceback")


def report(facts, **fields):
    return Report(describe_versions(facts), describe_devices(facts), run_checks(facts), **fields)


def test_versions():
    versions = describe_versions(healthy())
    assert versions["Python"] == "3.10.13 (CPython), /venv"
    assert versions["ocr_panoptic"] == "0.1.0, /repository"
    assert versions["detectron2"] == "0.7.2, sal-detectron2 0.7.2 (pinned)"
    assert versions["operators"] == "present, CUDA 12.1, GCC 11.4"
    assert versions["torch"] == "2.3.1+cu121"
    assert versions["CUDA of torch"] == "12.1"
    assert versions["cuDNN"] == "8.9.2"
    assert {"numpy", "pillow", "setuptools", "fvcore", "iopath", "hotcoco"} <= set(versions)
    assert "opencv-python-headless" not in versions


def test_versions_of_what_is_missing_or_instead():
    facts = with_versions(healthy(), opencv_python=None, opencv_python_headless="4.9", shapely=None)
    versions = describe_versions(with_versions(facts, panopticapi="0.1"))
    assert "opencv-python" not in versions
    assert versions["opencv-python-headless"] == "4.9"
    assert versions["shapely"] == "missing"
    assert (versions["panopticapi"], versions["panopticapi-lite"]) == ("0.1", "1.0")


def test_versions_where_imports_fail():
    versions = describe_versions(with_error(healthy(), "torch", "OSError: broken"))
    assert versions["torch"] == "failed: OSError: broken"
    assert versions["detectron2"] == "not tried without torch"
    assert versions["operators"] == "unknown"


@pytest.mark.parametrize(
    ("number", "version"), [(8902, "8.9.2"), (90100, "9.1.0"), (91002, "9.10.2"), (None, "none")]
)
def test_cudnn(number, version):
    assert describe_versions(with_found(healthy(), "torch", cudnn=number))["cuDNN"] == version


def test_devices():
    devices = describe_devices(healthy())
    assert devices["CPU"] == "A CPU, AVX2"
    assert devices["cores"] == "4 usable of 8, torch computes with 4 thread(s)"
    assert devices["memory"] == "32 GiB, 30 GiB available"
    assert devices["/dev/shm"] == "16 GiB, 16 GiB free"
    assert devices["output"] == "output: 500 GiB free"
    assert devices["GPU"] == "none"
    assert describe_devices(with_machine(healthy(), temporary=None))["temporary"] == "none"


def test_devices_of_several_gpus():
    facts = with_found(with_gpu(healthy()), "torch-cuda", devices=[GPU, GPU])
    devices = describe_devices(facts)
    assert devices["GPU 0"] == devices["GPU 1"]
    assert devices["GPU 0"].startswith(
        "NVIDIA A100, 40 GiB (39 free), compute capability 8.0, bf16"
    )


def test_summary():
    assert Report({}, {}, [FINE]).summary() == "no problems, 0 notes"
    assert Report({}, {}, [FINE, NOTE]).summary() == "no problems, 1 note"
    whole = Report({}, {}, [FINE, BAD], [NOTE, BAD])
    assert whole.summary() == "2 problems, 1 note: bad, bad"
    assert whole.problems == [BAD, BAD]


def test_json_holds_everything():
    facts = with_error(healthy(), "shapely", "ImportError: broken")
    text = json.dumps(report(facts, self_test=[NOTE]).to_json())
    record = json.loads(text)
    assert set(record) == {"versions", "devices", "checks", "self_test", "problems"}
    assert record["problems"] == ["import-shapely"]
    (entry,) = (entry for entry in record["checks"] if entry["id"] == "import-shapely")
    assert entry["status"] == PROBLEM
    assert entry["detail"] == "a traceback"
    assert record["self_test"][0]["cure"] == "export A=1"


def test_findings_are_aligned_and_the_worst_comes_last():
    lines = format_findings("Checks", [BAD, NOTE, FINE], width=80).splitlines()
    assert lines[:5] == [
        "Checks",
        "  ok       fine    all is well",
        "  info     a-note  worth knowing",
        "                   -> export A=1",
        "  problem  bad     broken broken broken broken broken broken broken broken",
    ]
    # Text is wrapped, commands are not: they are copied.
    assert all(len(line) <= 80 for line in lines if "->" not in line)
    assert lines[-1] == f"{' ' * 19}-> {BAD.cure}"
    assert all(line.startswith(" " * 19) for line in lines[5:])


def test_states_are_painted_for_a_terminal():
    text = format_findings("Checks", [FINE, BAD], width=80, color=True)
    assert "\x1b[32mok     \x1b[0m  fine" in text
    assert "\x1b[1;31mproblem\x1b[0m  bad " in text
    plain = format_findings("Checks", [FINE, BAD], width=80)
    assert "\x1b" not in plain
    assert len(text.splitlines()) == len(plain.splitlines())


def test_nothing_that_was_found_reaches_the_terminal_as_a_command_to_it():
    evil = Finding("evil", PROBLEM, "a\x1b[2Jb\rc", "rm \x07")
    text = format_findings("Checks", [evil], width=80)
    assert "a\\x1b[2Jb\\rc" in text
    assert "\x07" not in text


@pytest.mark.parametrize("width", [20, 80, 140])
def test_tables_are_aligned(width):
    text = format_tables(report(healthy()), width=width)
    lines = text.splitlines()
    assert lines[0] == "Versions"
    columns = {line.index("  ", 3) for line in lines if line.startswith("  detectron2 ")}
    assert columns == {12}
    assert max(map(len, lines)) <= max(width, 62)


class TestSelfTest:
    @pytest.fixture
    def tried(self, monkeypatch):
        """Names of what was tried, whose results are those of ``outcomes`` or fine."""
        names, outcomes = [], {}

        def attempt_all(file, needs, timeout):
            assert file.is_file()
            names.extend(needs)
            fine = Attempt(OK, {"training": 1.25, "evaluation": 0.5, "loss": 2.0}, seconds=9.0)
            return {name: outcomes.get(name, fine) for name in needs}

        monkeypatch.setattr(examination, "attempt_all", attempt_all)
        return names, outcomes

    def test_the_cpu(self, tried):
        (told,) = run_self_test(healthy())
        assert tried[0] == ["cpu float32"]
        assert (told.id, told.status) == ("self-test-cpu-float32", "ok")
        assert told.found == (
            "2 iterations in 1.2 s, evaluation of an image in 0.5 s, with imports 9.0 s"
        )

    def test_each_gpu(self, tried):
        facts = with_found(with_gpu(healthy()), "torch-cuda", devices=[GPU, GPU])
        run_self_test(facts)
        assert tried[0] == [
            *("cpu float32", "cuda:0 float32", "cuda:0 AMP", "cuda:1 float32", "cuda:1 AMP"),
        ]

    def test_what_failed(self, tried):
        tried[1]["cpu float32"] = Attempt(CRASHED, error="SIGBUS", traceback="where")
        (told,) = run_self_test(healthy())
        assert told.status == PROBLEM
        assert told.found.startswith("training or evaluation failed: SIGBUS")
        assert told.detail == "where"
        assert "--json" in told.cure

    def test_is_not_run_where_nothing_imports(self, tried):
        (told,) = run_self_test(with_error(healthy(), "torch", "OSError: broken"))
        assert tried[0] == []
        assert (told.status, told.found) == (INFO, "not run, as ocr_panoptic cannot be imported")
