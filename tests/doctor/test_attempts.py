"""Attempts in other processes: whatever happens there is told."""

import os

import pytest

from ocr_panoptic.doctor.attempts import CRASHED, FAILED, HUNG, NOT_TRIED, OK, attempt_all
from ocr_panoptic.doctor.probes import NEEDS, attempt

from ..conftest import REPOSITORY
from .plants import SEGFAULT, absent, environment, module

PROBES = REPOSITORY / "ocr_panoptic/doctor/probes.py"
SCRIPT = """
import ctypes, os, signal, sys

def attempt(name):
    print("without a line's end", end="")
    if name == "raises":
        raise ValueError("\\n  first line \\nsecond line")
    if name == "silent":
        raise ValueError
    if name == "lacks":
        import no_such_module.part
    if name == "leaves":
        sys.exit("goodbye")
    if name == "crashes":
        ctypes.string_at(0)
    if name == "aborts":
        os.abort()
    if name == "vanishes":
        os._exit(0)
    if name == "waits":
        signal.pause()
    if name.startswith("@doctor@"):
        print("\\n" + name)
    return {"name": name, "process": os.getpid()}
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "attempts.py"
    path.write_text(SCRIPT)
    return path


def run(script, *names, needs=None, timeout=120):
    return attempt_all(script, needs or dict.fromkeys(names, ()), timeout=timeout)


def test_what_goes_well_is_done_in_one_process(script):
    done = run(script, "a", "b")
    assert [each.state for each in done.values()] == [OK, OK]
    assert [each.found["name"] for each in done.values()] == ["a", "b"]
    assert len({each.found["process"] for each in done.values()}) == 1
    assert os.getpid() not in {each.found["process"] for each in done.values()}


@pytest.mark.parametrize(
    ("name", "state", "error"),
    [
        ("raises", FAILED, "ValueError: first line"),
        ("silent", FAILED, "ValueError: no message"),
        ("lacks", FAILED, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("leaves", FAILED, "SystemExit: goodbye"),
        ("crashes", CRASHED, "the process ended with SIGSEGV"),
        ("aborts", CRASHED, "the process ended with SIGABRT"),
        ("vanishes", CRASHED, "the process ended with status 0"),
    ],
)
def test_what_goes_wrong_is_told_and_the_rest_goes_on(script, name, state, error):
    done = run(script, "before", name, "after")
    assert list(done) == ["before", name, "after"]
    assert (done["before"].state, done["after"].state) == (OK, OK)
    assert (done[name].state, done[name].error) == (state, error)
    assert done["before"].found["process"] != done["after"].found["process"]
    assert done[name].missing == ("no_such_module" if name == "lacks" else None)
    # A crash says where it was.
    if name != "vanishes":
        assert "in attempt" in done[name].traceback


@pytest.mark.parametrize(
    "line",
    [
        *("{}", "", "[]", "3", "{", '{"name": "after"}', '{"name": "after", "found": {}}'),
        *('{"begin": []}', '{"begin": "after", "colour": 1}', '{"begin": "other"}', "[" * 99999),
        '{"name": ["after"], "found": {}, "seconds": 1}',
        '{"name": "after", "found": {}, "seconds": 1}',
    ],
    ids=lambda line: line[:20],
)
def test_a_library_that_prints_as_the_child_does_is_not_believed(script, line):
    name = f"@doctor@ {line}"
    done = run(script, name, "after")
    assert {key: each.state for key, each in done.items()} == {name: OK, "after": OK}
    assert done["after"].found["name"] == "after"


def test_what_needs_something_that_failed_is_not_tried(script):
    needs = {"a": (), "raises": (), "b": ("raises",), "c": ("a", "b"), "d": ("a",)}
    done = run(script, needs=needs)
    states = {name: each.state for name, each in done.items()}
    assert states == {"a": OK, "raises": FAILED, "b": NOT_TRIED, "c": NOT_TRIED, "d": OK}
    # The root is named, not what was not tried itself.
    assert done["b"].error == done["c"].error == "raises"


@pytest.mark.slow
def test_what_does_not_come_back_is_ended(script, children):
    done = run(script, "a", "waits", timeout=15)
    assert (done["a"].state, done["waits"].state) == (OK, HUNG)
    assert done["waits"].error == "not done after 15 s"


def test_a_python_that_does_not_start_is_tried_once(tmp_path, script):
    module(tmp_path, "sitecustomize", "import os; os._exit(3)\n")
    done = attempt_all(script, {"a": (), "b": ()}, timeout=120, environment=environment(tmp_path))
    assert done["a"].error == "Python does not start: the process ended with status 3"
    assert (done["b"].state, done["b"].error) == (NOT_TRIED, "a")


def test_the_folder_of_the_doctor_is_not_on_the_path_of_a_child(tmp_path):
    script = tmp_path / "attempts.py"
    script.write_text("def attempt(name):\n    import finding\n")
    assert run(script, "a")["a"].missing == "finding"


def probe(folder, *names):
    needs = dict.fromkeys(names, ())
    return attempt_all(PROBES, needs, timeout=300, environment=environment(folder))


def test_planted_failures_of_imports(tmp_path):
    absent(tmp_path, "tabulate")
    module(tmp_path, "shapely", SEGFAULT, package=True)
    module(tmp_path, "iopath", "", package=True)
    module(tmp_path, "PIL", "raise OSError('libjpeg.so.8: cannot open')", package=True)
    done = probe(tmp_path, "tabulate", "shapely", "iopath", "PIL", "yaml")
    assert done["tabulate"].missing == "tabulate"
    assert done["shapely"].state == CRASHED
    assert done["iopath"].missing == "iopath.common"
    assert done["PIL"].error == "OSError: libjpeg.so.8: cannot open"
    assert done["yaml"].state == OK


def test_every_probe_goes_well_here():
    # In this process, whose imports are done; the processes are tested with the command line.
    for name in NEEDS:
        assert isinstance(attempt(name), dict)
    assert attempt("numpy")["version"]
    assert attempt("torch")["threads"] >= 1
    assert attempt("torch-numpy") == {"sum": 2.0}
    assert attempt("ocr_panoptic")["file"] == str(REPOSITORY / "ocr_panoptic/__init__.py")


def test_needs_come_before_what_needs_them():
    names = list(NEEDS)
    for name, needs in NEEDS.items():
        assert all(names.index(need) < names.index(name) for need in needs)
