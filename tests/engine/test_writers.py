"""Where a training's numbers go: plain lines, TensorBoard, Weights & Biases."""

import contextlib
import fcntl
import importlib.machinery
import json
import logging
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import types

import numpy as np
import pytest
import torch
import yaml
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ocr_panoptic.engine.progress import PROGRESS_LOGGER
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.engine.writers import ProgressPrinter, WandbWriter
from ocr_panoptic.errors import BAD_INPUT
from ocr_panoptic.random_state import random_state

from ..conftest import REPOSITORY, load_tool
from ..models import TINY
from .runs import UNTESTED, VAL, arguments, assert_equal, read, stopped_at

LOSSES = {"loss_cls", "loss_mask", "loss_sem_seg", "loss_sem_seg_region", "total_loss"}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


@pytest.fixture(scope="module")
def whole(main, datasets_root, tmp_path_factory):
    """The output folder of a training without anything special."""
    output = tmp_path_factory.mktemp("whole")
    assert main(arguments(output, overrides=UNTESTED)) == 0
    return output


class FakeRun:
    def __init__(self):
        self.logged, self.metrics, self.exit_codes = [], [], []

    def define_metric(self, name, **options):
        self.metrics.append((name, options))

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)


class FakeWandb(types.ModuleType):
    """What is used of wandb; it draws random numbers wherever it can."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.runs, self.settings, self.refusal = [], [], None

    def init(self, **settings):
        random.random(), np.random.rand(), torch.rand(1)
        if self.refusal:
            raise self.refusal
        self.settings.append(settings)
        self.runs.append(FakeRun())
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == PROGRESS_LOGGER]


@pytest.fixture
def told(caplog, monkeypatch):
    """A function of no arguments: the plain lines since the last call."""
    monkeypatch.setattr(logging.getLogger("ocr_panoptic"), "propagate", True)
    caplog.set_level(logging.INFO)

    def lines():
        found = messages(caplog)
        caplog.clear()
        return found

    return lines


def stored(storage, iteration):
    storage.iter = iteration
    storage.put_scalars(total_loss=3.0, loss_cls=1.0, loss_mask=2.0, time=0.5, data_time=0.125)
    storage.put_scalar("images_per_second", 16.0)
    storage.put_scalar("lr", 0.0125, smoothing_hint=False)


def test_the_plain_line(told):
    with EventStorage() as storage:
        printer = ProgressPrinter(290, "cpu")
        printer.write()  # nothing has been done
        stored(storage, 19)
        printer.write()
    (line,) = told()
    assert re.fullmatch(
        r"iter 20/290  eta 0:02:15  16 images/s  0\.5 s/iter \(0\.12 for data\)  mem \d+\.\d\d GiB"
        r"  lr 0\.0125  loss 3 \(cls 1, mask 2\)",
        line,
    )
    # For the writers behind it, as Detectron2's printer does.
    assert storage.histories()["eta_seconds"].latest() == 135


def test_nothing_is_told_twice(told):
    with EventStorage() as storage:
        printer = ProgressPrinter(2, "cpu")
        for iteration in (0, 1):
            stored(storage, iteration)
            printer.write()
        assert len(told()) == 2
        storage.iter = 2  # as after the training
        printer.write()
    assert told() == []


def test_what_a_run_prints_and_keeps(main, datasets_root, tmp_path, capsys):
    # No terminal: plain lines.
    assert main(arguments(tmp_path, overrides={"TEST.EVAL_PERIOD": 0})) == 0
    printed = capsys.readouterr()
    for text in (printed.out, (tmp_path / "log.txt").read_text()):
        (line,) = [line for line in text.splitlines() if "iter 6/6" in line]
        assert all(f"{name[5:]} " in line for name in LOSSES - {"total_loss"})
        # Detectron2's own printer is not there too.
        assert "max_mem" not in text
        assert "last_time" not in text
    assert "%|" not in printed.err
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    (trained,) = [line for line in lines if line["iteration"] == 5]
    assert {"images_per_second", "eta_seconds", "time", "lr", *LOSSES} <= set(trained)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"images_per_second", "total_loss", "panoptic_seg/PQ"} <= set(events.Tags()["scalars"])


def test_a_bar_takes_the_place_of_the_lines(main, datasets_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ocr_panoptic.engine.trainer.on_terminal", lambda: True)
    monkeypatch.setattr("ocr_panoptic.engine.progress._PERIOD", 0.0)
    assert main(arguments(tmp_path, overrides={"TEST.EVAL_PERIOD": 3})) == 0
    printed = capsys.readouterr()
    assert "ocr_panoptic.progress" not in printed.out
    assert "iter 6/6  100%|" in printed.err
    assert re.search(r"eta 0:00:0\d  \S+ img/s  \S+ GiB  lr \S+  loss \S+", printed.err)
    # The rest of the log is where it was, of the evaluations too.
    assert printed.out.count("in csv format") == 2
    assert "Saving checkpoint" in printed.out
    assert (tmp_path / "log.txt").read_text().count("ocr_panoptic.progress") == 1


def test_a_resumed_bar_starts_where_the_training_does(main, whole, tmp_path, capsys, monkeypatch):
    output = stopped_at(tmp_path / "run", whole, 3)
    monkeypatch.setattr("ocr_panoptic.engine.trainer.on_terminal", lambda: True)
    monkeypatch.setattr("ocr_panoptic.engine.progress._PERIOD", 0.0)
    capsys.readouterr()
    assert main(arguments(output, "--resume", overrides=UNTESTED)) == 0
    seen = re.findall(r"iter (\d)/6", capsys.readouterr().err)
    assert sorted(set(seen)) == ["4", "5", "6"]
    # A bar changes nothing.
    assert_equal(read(output), read(whole))


LOGGED = {"WANDB.ENABLED": True, "WANDB.PROJECT": "ours", **UNTESTED}


def test_a_training_is_a_run_of_wandb(main, datasets_root, tmp_path, wandb):
    output = tmp_path / "long"
    overrides = {**LOGGED, "DATASETS.TEST": (VAL,), "TEST.EVAL_PERIOD": 0}
    assert main(arguments(output, overrides=overrides)) == 0
    (settings,), (run,) = wandb.settings, wandb.runs
    assert (settings["project"], settings["name"], settings["resume"]) == ("ours", "long", "allow")
    assert settings["id"] == json.loads((output / "wandb_run.json").read_text())["id"]
    assert settings["config"] == yaml.safe_load((output / "config.yaml").read_text())
    assert run.metrics == [("*", {"step_metric": "iteration"})]
    trained, evaluated = run.logged
    assert trained["iteration"] == 5
    assert {"images_per_second", "lr", *LOSSES} <= set(trained)
    assert evaluated["iteration"] == 6
    assert "panoptic_seg/PQ" in evaluated
    assert run.exit_codes == [0]


def test_a_resumed_training_goes_on_in_its_run(main, whole, tmp_path, wandb):
    output = stopped_at(tmp_path / "run", whole, 3)
    (output / "wandb_run.json").write_text('{"id": "3d22dadc"}')
    assert main(arguments(output, "--resume", overrides=LOGGED)) == 0
    assert wandb.settings[-1]["id"] == "3d22dadc"
    # What wandb draws is not taken from the training.
    assert_equal(read(output), read(whole))
    # Not resumed, it is another run, whatever is there.
    short = {**LOGGED, "SOLVER.MAX_ITER": 1, "SOLVER.STEPS": (), "WANDB.NAME": "again"}
    assert main(arguments(output, overrides=short)) == 0
    assert wandb.settings[-1]["id"] != "3d22dadc"
    assert [settings["name"] for settings in wandb.settings] == ["run", "again"]
    assert [run.logged[-1]["iteration"] for run in wandb.runs] == [5, 0]


@pytest.mark.parametrize("kept", ["", "[]", '{"id": 3}', '{"id": "../../etc"}', '{"id": ""}'])
def test_a_file_that_keeps_no_id_is_replaced(tmp_path, wandb, kept):
    writer = writer_to(tmp_path)
    (tmp_path / "wandb_run.json").write_text(kept)
    writer.start(resumed=True)
    (settings,) = wandb.settings
    assert re.fullmatch("[0-9a-f]{8}", settings["id"])
    assert json.loads((tmp_path / "wandb_run.json").read_text()) == {"id": settings["id"]}


def writer_to(output):
    return WandbWriter(load_config(str(TINY["ocr"]), ["OUTPUT_DIR", str(output)]))


def test_only_what_is_new_is_logged(tmp_path, wandb):
    writer = writer_to(tmp_path)
    writer.write()  # not started: nothing happens
    writer.start(resumed=False)
    before = random_state()
    with EventStorage() as storage:
        stored(storage, 19)
        writer.write()
        writer.write()
        stored(storage, 39)
        storage.put_scalar("panoptic_seg/PQ", 40.0, smoothing_hint=False, cur_iter=30)
        writer.write()
    writer.close()
    writer.close()
    (run,) = wandb.runs
    assert [values["iteration"] for values in run.logged] == [19, 30, 39]
    assert run.logged[1] == {"iteration": 30, "panoptic_seg/PQ": 40.0}
    assert run.exit_codes == [0]
    assert_equal(random_state(), before)


def test_a_training_that_fails_is_a_failed_run(tmp_path, wandb):
    writer = writer_to(tmp_path)
    writer.start(resumed=False)

    def train():
        try:
            raise FloatingPointError
        finally:
            writer.close()

    with pytest.raises(FloatingPointError):
        train()
    assert wandb.runs[0].exit_codes == [1]


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), FakeWandb.Error("no room")])
def test_a_run_that_is_lost_does_not_end_the_training(tmp_path, wandb, caplog, monkeypatch, error):
    monkeypatch.setattr(logging.getLogger("ocr_panoptic"), "propagate", True)
    writer = writer_to(tmp_path)
    writer.start(resumed=False)

    def fail(_):
        raise error

    wandb.runs[0].log = fail
    with EventStorage() as storage:
        stored(storage, 19)
        writer.write()
        stored(storage, 39)
        writer.write()
    writer.close()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "WANDB: the run is lost, the training goes on without" in record.getMessage()
    assert record.exc_info[1] is error
    # Plain lines of the progress are not shown beside a bar; this one is.
    assert record.name != PROGRESS_LOGGER


def test_wandb_that_is_missing_is_told_before_anything(
    main, datasets_root, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    output = tmp_path / "run"
    assert main(arguments(output, overrides=LOGGED)) == BAD_INPUT
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("error: WANDB.ENABLED: True, but wandb cannot be imported (")
    assert line.endswith("expected it to be installed: pip install wandb")
    assert not output.exists()
    # An evaluation logs nothing, and needs no wandb.
    evaluation = {**LOGGED, "DATASETS.TEST": (VAL,)}
    assert main(arguments(output, "--eval-only", overrides=evaluation)) == 0


def test_wandb_that_refuses_is_one_line(main, datasets_root, tmp_path, capsys, wandb):
    wandb.refusal = wandb.Error("No API key configured.\nUse `wandb login` to log in.")
    assert main(arguments(tmp_path, overrides=LOGGED)) == BAD_INPUT
    assert (
        "error: WANDB.ENABLED: True, but no run can be started (No API key configured. Use `wandb "
        "login` to log in.), expected 'wandb login' and a network, or WANDB_MODE=offline"
    ) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("WANDB.ENABLED", "1.5", "WANDB.ENABLED: 1.5, expected True or False"),
        ("WANDB.ENABLED", "None", "WANDB.ENABLED: None, expected True or False"),
        ("WANDB.PROJECT", "''", "WANDB.PROJECT: '', expected the name of a project"),
        ("WANDB.PROJECT", "None", "WANDB.PROJECT: None, expected text"),
        ("WANDB.NAME", "None", "WANDB.NAME: None, expected text"),
        ("WANDB.NAME", "7", "WANDB.NAME: 7, expected text"),
    ],
)
def test_bad_values_are_told(main, datasets_root, tmp_path, capsys, wandb, key, value, message):
    overrides = {**LOGGED, key: value}
    assert main(arguments(tmp_path / "run", overrides=overrides)) == BAD_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_processes_than_the_first_write_nothing(datasets_root, tmp_path, monkeypatch, wandb):
    from detectron2.engine import hooks

    words = arguments(tmp_path, overrides=LOGGED)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr("ocr_panoptic.engine.trainer.on_terminal", lambda: True)
    trainer = Trainer(load_config(words[1], words[2:]))
    kinds = {type(hook).__name__ for hook in trainer._hooks}
    assert not kinds & {"ProgressBar", hooks.PeriodicWriter.__name__}
    assert trainer._wandb is None


@pytest.mark.slow
def test_on_a_real_terminal(datasets_root, tmp_path):
    data = {"DATASETS.TRAIN": ("shapes_easy_train_panoptic_separated",)}
    words = arguments(tmp_path, overrides={**UNTESTED, **data})
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tools/train_net.py"), *words],
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
    )
    os.close(theirs)
    shown = b""
    # A terminal that the last process has left is an error, not an end.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 2**16):
            shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode().replace("\r\n", "\n")
    assert "ocr_panoptic.progress" not in text
    bars = [line for line in text.split("\n") if "iter 6/6  100%|" in line]
    # Its last state stands on a line of its own.
    assert re.fullmatch(
        r"iter 6/6  100%\|█+\|  eta 0:00:00  .+  loss \S+( +\w+ \S+)*", last(bars[-1])
    )
    assert len(last(bars[-1])) < 100
    saved = [line for line in text.split("\n") if "Saving checkpoint" in line]
    assert saved
    assert not any("iter" in last(line) for line in saved)


def last(line):
    """Return what is seen of a line that was written again and again."""
    seen = ""
    for part in line.split("\r"):
        seen = part + seen[len(part) :]
    return re.sub(r"\x1b\[[0-9;]*m", "", seen).rstrip()
