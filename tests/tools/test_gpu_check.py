"""gpu_check.sh: every step runs, one that fails is named, and what it says to mistakes."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from ocr_panoptic.engine.setup import argument_parser, load_config

from ..conftest import REPOSITORY, load_tool

SCRIPT = REPOSITORY / "tools/gpu_check.sh"
STEPS = ["doctor", "tests", "context", "model-480", "model-800", "training"]
STEPS += ["training-checkpointed", "shapes:data", "shapes:panoptic_fpn_R_50"]
STEPS += ["shapes:panoptic_fpn_ocr_R_50", "shapes"]
# A Python that writes down what it is asked to do, and fails where $FAILING occurs in it.
# detectron2 can be imported if $HAS_DETECTRON2 is set, or behind pip.
FAKE = """#!/usr/bin/env bash
if [ "$1" = -c ] && [ $# = 2 ]; then
    case $2 in
        *"import detectron2"*) [ -n "${HAS_DETECTRON2:-}" ] || [[ $PYTHONPATH == */site:* ]] ;;
        *is_available*) [ -n "${HAS_CUDA:-}" ] ;;
    esac
    exit
fi
printf '%q ' "$@" >>"$CALLS" && echo >>"$CALLS"
[ "$1" != - ] || { echo '- GPU: one of paper'; exit; }
[ -z "${FAILING:-}" ] || [[ "$*" != *"$FAILING"* ]] || { echo 'it broke' >&2; exit 7; }
[ -z "${HANGING:-}" ] || [[ "$*" != *"$HANGING"* ]] || exec sleep 60
echo "| what $2 says |"
"""


@pytest.fixture
def check(tmp_path):
    """A function that runs the script with the fake Python; gives what it wrote and called."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    calls = tmp_path / "calls"

    def run(*argv, **environment):
        kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        done = subprocess.run(
            ["bash", str(SCRIPT), "--output", "page", *argv],
            env={**kept, "PYTHON": str(fake), "CALLS": str(calls), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        done.calls = (
            [shlex.split(line) for line in calls.read_text().splitlines()]
            if (calls.exists())
            else []
        )
        page = tmp_path / "page/summary.md"
        done.page = page.read_text() if page.exists() else None
        return done

    return run


def results(page):
    return dict(re.findall(r"^\| (\S+) \| (done|failed.*?|not done.*?) \| \d+ \|$", page, re.M))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_step_is_a_command_that_exists(check, device):
    done = check("--device", device, HAS_DETECTRON2="1", HAS_CUDA="1")
    assert done.returncode == 0, done.stderr
    assert results(done.page) == dict.fromkeys(STEPS, "done")
    assert "- GPU: one of paper" in done.page
    # Each is a section, but for the parts of Shapes.
    assert re.findall("^## (.*)$", done.page, re.M) == [name for name in STEPS if ":" not in name]
    assert "| what context says |" in done.page
    benchmark = argparse.ArgumentParser()
    load_tool("tools/benchmark.py").add_commands(benchmark)
    kinds = []
    for _, *argv in (call for call in done.calls if call[0] == "tools/benchmark.py"):
        given = benchmark.parse_args(argv)
        assert given.json.parent.name == "page"
        if given.command == "context":
            assert given.devices == [device]
            continue
        assert given.device == device
        cfg = load_config(given.config_file, given.opts)
        kinds.append((given.mode, cfg.MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS))
    assert kinds == [("forward", False)] * 2 + [("training", False), ("training", True)]
    trainings = [call[1:] for call in done.calls if call[0] == "tools/train_net.py"]
    names = []
    for argv in trainings:
        args = argument_parser().parse_args(argv)
        cfg = load_config(args.config_file, args.opts)
        names.append(cfg.MODEL.SEM_SEG_HEAD.NAME)
        assert device == cfg.MODEL.DEVICE
        assert (cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.FREEZE_AT) == ("", 0)
        assert cfg.DATASETS.TRAIN == ("shapes_easy_train_panoptic_separated",)
        assert (300 if device == "cuda" else 2) == cfg.SOLVER.MAX_ITER
    assert names == ["SemSegFPNHead", "OCRSemSegFPNHead"]


def test_a_step_that_fails_does_not_keep_the_others_from_running(check):
    done = check(HAS_DETECTRON2="1", HAS_CUDA="1", FAILING="tools/benchmark.py context")
    assert done.returncode == 1
    expected = dict.fromkeys(STEPS, "done") | {"context": "failed with status 7"}
    assert results(done.page) == expected
    *_, why, last = done.stderr.strip().splitlines()
    assert why == "it broke"
    assert last.startswith("failed: context; see ")


def test_a_step_that_hangs_is_ended(check, tmp_path):
    script = SCRIPT.read_text().replace("step doctor 120", "step doctor 1")
    short = tmp_path / "tools/gpu_check.sh"
    short.parent.mkdir()
    short.write_text(script)
    done = subprocess.run(
        ["bash", str(short), "--output", str(tmp_path / "page"), "--only", "doctor"],
        env={
            **{"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python")},
            **{"CALLS": str(tmp_path / "calls"), "HAS_DETECTRON2": "1", "HAS_CUDA": "1"},
            "HANGING": "doctor",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    page = (tmp_path / "page/summary.md").read_text()
    assert results(page) == {"doctor": "not done in 1 seconds"}


def test_only_some_steps(check):
    done = check("--only", "shapes tests", "--iterations", "7", HAS_DETECTRON2="1", HAS_CUDA="1")
    assert done.returncode == 0, done.stderr
    names = ["tests", *(name for name in STEPS if name.startswith("shapes"))]
    assert list(results(done.page)) == names
    iterations = [call[call.index("SOLVER.MAX_ITER") + 1] for call in done.calls if "SEED" in call]
    assert iterations == ["7", "7"]


def test_wheels_are_installed_where_detectron2_is_missing(check, tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/some.whl").touch()
    done = check("--wheels", "wheels", "--only", "doctor", HAS_CUDA="1")
    assert done.returncode == 0, done.stderr
    pip = [call for call in done.calls if call[:2] == ["-m", "pip"]]
    assert len(pip) == 1
    assert {"--no-index", "--no-deps", "--target"} <= set(pip[0])
    assert pip[0][-1] == str(tmp_path / "wheels/some.whl")
    # Where it is there, nothing is.
    (tmp_path / "calls").unlink()
    done = check("--wheels", "wheels", "--only", "doctor", HAS_CUDA="1", HAS_DETECTRON2="1")
    assert done.returncode == 0, done.stderr
    assert not [call for call in done.calls if call[:2] == ["-m", "pip"]]


@pytest.mark.parametrize(
    ("argv", "environment", "message"),
    [
        (["--what"], {}, "--what: expected --output, --wheels, --only, --iterations or --device"),
        (["--device"], {}, "--device: no value, expected one"),
        (["--device", "tpu"], {}, "--device tpu: expected cuda or cpu"),
        (["--iterations", "0"], {}, "--iterations 0: expected 1 to 999999"),
        (["--only", "doctor model"], {}, "--only model: expected some of doctor tests context"),
        (["--wheels", "nowhere"], {}, "--wheels nowhere: expected a folder of wheels"),
        (["--output", "/proc/none"], {}, "--output /proc/none: cannot be written to"),
        ([], {"PYTHON": "nopython"}, "PYTHON: nopython does not run, expected a Python"),
        ([], {"PYTHON": "/none/python"}, "PYTHON: /none/python does not run, expected a Python"),
        ([], {"HAS_CUDA": "1"}, "cannot import detectron2, expected it installed, or --wheels DIR"),
        ([], {"HAS_DETECTRON2": "1"}, "torch finds no CUDA device, expected one, or --device cpu"),
    ],
)
def test_mistakes_are_one_line(check, argv, environment, message):
    done = check(*argv, **environment)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert done.page is None


def test_help_is_the_head_of_the_script(check):
    done = check("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("What a machine with a GPU says of this project")
    assert "--only" in done.stdout
    assert "set -e" not in done.stdout
    for name in STEPS:
        assert name.partition(":")[0] in done.stdout


@pytest.mark.slow
def test_on_the_cpu_it_runs(tmp_path):
    # The doctor has tests of its own; the others that are left out have the command of
    # training-checkpointed with other options.
    only = "tests context training-checkpointed shapes"
    done = subprocess.run(
        ["bash", str(SCRIPT), "--device", "cpu", "--output", str(tmp_path), "--only", only],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "summary.md")
    page = (tmp_path / "summary.md").read_text()
    assert set(results(page).values()) == {"done"}
    rows = json.loads((tmp_path / "context.json").read_text())
    assert [(row["name"], row["mode"]) for row in rows] == [
        *(("ocr", "forward"), ("isa", "forward"), ("ocr", "training"), ("isa", "training")),
    ]
    assert json.loads((tmp_path / "training-checkpointed.json").read_text())["mode"] == "training"
    runs = json.loads((tmp_path / "shapes.json").read_text())
    assert [run["name"] for run in runs] == ["panoptic_fpn_R_50", "panoptic_fpn_ocr_R_50"]
    for run in runs:
        assert run["iterations"] == 2
        assert 0 <= run["mIoU"] <= 100
    assert "| panoptic_fpn_ocr_R_50 " in page
    assert "== shapes:panoptic_fpn_R_50: " in (tmp_path / "log.txt").read_text()
