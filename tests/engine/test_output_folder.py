"""OUTPUT_DIR: one training at a time, and a disk that fills up is one line, not many."""

import contextlib
import ctypes
import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
from detectron2.engine.hooks import PeriodicWriter
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils.events import EventWriter, JSONWriter

from ocr_panoptic.engine import output_folder
from ocr_panoptic.engine.output_folder import (
    RunWriter,
    end_last_line,
    output_errors_named,
    reserve_for_training,
    tell_once_of_a_lost_log,
)
from ocr_panoptic.errors import BAD_INPUT, InputError
from ocr_panoptic.files import lock, require_folder

from ..conftest import REPOSITORY, load_tool
from .runs import UNTESTED, VAL, arguments, read

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SHORT = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,), **UNTESTED}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes a folder with a disk of its own, of a size."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
            pytest.skip(f"no disk can be made: {os.strerror(ctypes.get_errno())}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        # A log file of this process is open there: MNT_DETACH.
        libc.umount2(os.fsencode(folder), 2)


def one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


# A training at a time.


def test_a_second_training_is_refused_before_it_changes_anything(
    main, datasets_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(output_folder, "LOCK_SECONDS", 0.0)
    (tmp_path / "config.yaml").write_text("of the first")
    (tmp_path / ".model_0000001.pth.1.tmp").write_text("of the first")
    with reserve_for_training(tmp_path):
        for options in ([], ["--resume"]):
            assert main(arguments(tmp_path, *options, overrides=SHORT)) == BAD_INPUT
            assert one_line(capsys) == (
                f"error: OUTPUT_DIR: {tmp_path}: another training is writing to it, expected a "
                "folder of its own"
            )
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"config.yaml", ".model_0000001.pth.1.tmp", "log.txt"}
        assert (tmp_path / "config.yaml").read_text() == "of the first"
    assert main(arguments(tmp_path, overrides=SHORT)) == 0


def test_a_training_waits_for_one_that_ends(tmp_path, monkeypatch, capsys):
    first = contextlib.ExitStack()
    first.enter_context(reserve_for_training(tmp_path))
    # The first ends while the second waits.
    monkeypatch.setattr(output_folder.time, "sleep", lambda seconds: first.close())
    with reserve_for_training(tmp_path):
        pass
    said = capsys.readouterr().out
    assert said == f"OUTPUT_DIR: {tmp_path}: waiting for another training to end\n"


def test_an_evaluation_may_look_at_a_training(main, datasets_root, tmp_path):
    assert main(arguments(tmp_path, overrides=SHORT)) == 0
    with reserve_for_training(tmp_path):
        evaluation = {"DATASETS.TEST": (VAL,)}
        assert main(arguments(tmp_path, "--eval-only", "--resume", overrides=evaluation)) == 0


def test_a_killed_process_leaves_no_lock_to_those_it_forked(tmp_path):
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        with reserve_for_training(tmp_path):
            worker = os.fork()
            if worker == 0:
                signal.pause()
            os.write(writer, f"{worker}\n".encode())
            signal.pause()
    os.close(writer)
    with os.fdopen(reader) as told:
        worker = int(told.readline())
    with open(tmp_path / "log.txt", "ab", buffering=0) as file:
        assert not lock(file)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        try:
            # The worker still lives, as one of a data loader does for some seconds.
            os.kill(worker, 0)
            assert lock(file)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "log.txt").mkdir()
    refused = pytest.raises(InputError, match=r"OUTPUT_DIR: .*log\.txt: Is a directory")
    with refused, reserve_for_training(tmp_path):
        raise AssertionError


# A full disk.


@pytest.mark.parametrize("moment", ["start", "write", "checkpoint"])
def test_a_full_disk_is_one_line(main, datasets_root, small_disk, capsys, moment):
    output = small_disk({"start": "64k", "write": "300k", "checkpoint": "300k"}[moment])
    # Detectron2 writes every 20 iterations, and at the end.
    overrides = {**SHORT, **({"SOLVER.CHECKPOINT_PERIOD": 1} if moment == "checkpoint" else {})}
    if moment == "start":
        with contextlib.suppress(OSError):
            (output / "fill").write_bytes(bytes(2**20))
    elif moment == "write":
        # Of the disk there is less left than TensorBoard, log and metrics need.
        (output / "fill").write_bytes(bytes(240_000))
    assert main(arguments(output, overrides=overrides)) == BAD_INPUT
    line = one_line(capsys)
    assert line.startswith(("error: OUTPUT_DIR: ", f"error: {output}/model_"))
    assert "No space left on device" in line
    assert not list(output.glob("*.pth"))
    if moment == "checkpoint":
        assert "model_0000000.pth: the checkpoint cannot be written (No space left" in line


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    main, datasets_root, small_disk, capsys, monkeypatch
):
    output = small_disk("40m")
    before_step = TrainerBase.before_step

    def fill_and_go_on(trainer):
        if trainer.iter == 3:
            with contextlib.suppress(OSError):
                (output / "fill").write_bytes(bytes(2**26))
        before_step(trainer)

    monkeypatch.setattr(TrainerBase, "before_step", fill_and_go_on)
    assert main(arguments(output, overrides=UNTESTED)) == BAD_INPUT
    line = one_line(capsys)
    assert line == (
        f"error: {output}/model_0000003.pth: the checkpoint cannot be written (No space left on "
        f"device), 0 MB are free, {output}/model_0000001.pth is the last one; expected a folder "
        "that can be written to, with room"
    )
    monkeypatch.setattr(TrainerBase, "before_step", before_step)
    (output / "fill").unlink()
    assert main(arguments(output, "--resume", overrides=UNTESTED)) == 0
    assert read(output)["iteration"] == 5


def test_metrics_that_cannot_be_written_are_one_line(
    main, datasets_root, tmp_path, capsys, monkeypatch
):
    def refuse(writer):
        raise FULL

    monkeypatch.setattr(JSONWriter, "write", refuse)
    assert main(arguments(tmp_path, overrides=SHORT)) == BAD_INPUT
    assert one_line(capsys) == (
        f"error: OUTPUT_DIR: {tmp_path}: metrics cannot be written (No space left on device), "
        "expected a folder that can be written to, with room"
    )


def test_results_that_cannot_be_written_are_one_line(
    main, datasets_root, tmp_path, capsys, monkeypatch
):
    def refuse(path, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("ocr_panoptic.engine.trainer.write_metrics", refuse)
    overrides = {**SHORT, "DATASETS.TEST": (VAL,), "TEST.EVAL_PERIOD": 0}
    assert main(arguments(tmp_path, overrides=overrides)) == BAD_INPUT
    metrics = tmp_path / f"inference/{VAL}/metrics.json"
    assert one_line(capsys).startswith(f"error: OUTPUT_DIR: {metrics}: No space left on device")


class Broken(EventWriter):
    """A writer whose disk is full."""

    def __init__(self):
        self.closed = False

    def write(self):
        raise FULL

    def close(self):
        self.closed = True
        raise FULL


def train_with(hook, error=None):
    class Loop(TrainerBase):
        def run_step(self):
            if error is not None:
                raise error

    loop = Loop()
    loop.register_hooks([hook])
    loop.train(0, 1)


def test_the_error_that_ends_a_training_stays(tmp_path, caplog):
    logging.getLogger("detectron2").propagate = True
    writers = [Broken(), Broken()]
    with pytest.raises(ZeroDivisionError):
        train_with(RunWriter(writers, 20, tmp_path), ZeroDivisionError())
    assert all(writer.closed for writer in writers)
    # Detectron2's own hides it.
    with pytest.raises(OSError, match="No space left"):
        train_with(PeriodicWriter([Broken()]), ZeroDivisionError())
    writers = [Broken(), Broken()]
    with pytest.raises(InputError, match="metrics cannot be written"):
        train_with(RunWriter(writers, 20, tmp_path))
    assert all(writer.closed for writer in writers)


def test_tensorboards_thread_says_nothing_of_a_full_disk(tmp_path, capsys):
    before = threading.excepthook

    class Thread(threading.Thread):
        def run(self):
            raise FULL

    class OfTensorboard(Thread):
        pass

    OfTensorboard.__module__ = "tensorboard.summary.writer.event_file_writer"
    seen = []
    threading.excepthook = seen.append
    try:
        hook = RunWriter([], 20, tmp_path)
        hook.before_train()
        for kind in (OfTensorboard, Thread):
            thread = kind()
            thread.start()
            thread.join()
        hook.after_train()
        assert threading.excepthook == seen.append
    finally:
        threading.excepthook = before
    assert [type(args.thread) for args in seen] == [Thread]


def test_only_errors_of_the_folder_are_named(tmp_path, monkeypatch):
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/image.png"),
        # Of shared memory, while the disk has room.
        FULL,
        ValueError("a bug"),
    ):
        with pytest.raises(type(error)) as caught, output_errors_named(tmp_path):
            raise error
        assert caught.value is error
    for error, words in (
        (PermissionError(errno.EACCES, "denied", str(tmp_path / "x")), f"{tmp_path}/x: denied"),
        (OSError(errno.EDQUOT, "quota"), f"{tmp_path}: quota"),
    ):
        refused = pytest.raises(InputError, match=f"^OUTPUT_DIR: {words}, expected a folder")
        with refused, output_errors_named(tmp_path):
            raise error
    monkeypatch.setattr(output_folder, "_free", lambda folder: 0)
    with pytest.raises(InputError, match="No space left"), output_errors_named(tmp_path):
        raise FULL


def test_a_full_disk_takes_an_empty_file_but_is_refused(small_disk):
    folder = small_disk("64k")
    with contextlib.suppress(OSError):
        (folder / "fill").write_bytes(bytes(2**20))
    (folder / "empty").touch()
    with pytest.raises(InputError, match=r"--output: .*: No space left on device, expected a fol"):
        require_folder(folder, "--output")


class FullStream(io.StringIO):
    """A log file on a full disk."""

    def __init__(self, path):
        super().__init__()
        self.name = str(path)

    def flush(self):
        raise FULL


def test_a_log_on_a_full_disk_says_so_once(tmp_path, monkeypatch, capsys):
    told = logging.StreamHandler(io.StringIO())
    lost = logging.StreamHandler(FullStream(tmp_path / "log.txt"))
    logger = logging.getLogger("ocr_panoptic")
    monkeypatch.setattr(logger, "handlers", [told, lost])
    # pytest's own raises.
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(output_folder.atexit, "register", lambda *args: None)
    tell_once_of_a_lost_log(tmp_path)
    for number in range(3):
        logger.warning("line %d", number)
    assert told.stream.getvalue().splitlines() == [
        "line 0",
        f"{tmp_path}/log.txt: the log cannot be written (No space left on device), going on "
        "without",
        "line 1",
        "line 2",
    ]
    assert capsys.readouterr().err == ""
    # What is wrong in a line of our own is told in full.
    logger.warning("no number: %d", "x")
    assert "TypeError: %d format" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_on_a_full_disk_says_one_line_to_its_end(datasets_root, small_disk, tmp_path):
    names = [f"shapes_easy_{split}_panoptic_separated" for split in ("train", "val")]
    overrides = {**SHORT, "DATASETS.TRAIN": (names[0],), "SOLVER.CHECKPOINT_PERIOD": 1}
    done = subprocess.run(
        [sys.executable, "tools/train_net.py", *arguments(small_disk("300k"), overrides=overrides)],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


# What a killed run has left.


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"{}\n", b"{}\n"), (b'{}\n{"a', b'{}\n{"a\n'), (b"x", b"x\n")],
)
def test_the_last_line_is_ended(tmp_path, before, after):
    path = tmp_path / "metrics.json"
    end_last_line(path)
    assert not path.exists()
    path.write_bytes(before)
    end_last_line(path)
    assert path.read_bytes() == after


def test_metrics_that_were_cut_are_gone_on_with(main, datasets_root, tmp_path):
    assert main(arguments(tmp_path, overrides=SHORT)) == 0
    path = tmp_path / "metrics.json"
    path.write_bytes(path.read_bytes()[:-30])
    more = {**SHORT, "SOLVER.MAX_ITER": 3}
    assert main(arguments(tmp_path, "--resume", overrides=more)) == 0
    cut, *whole = path.read_text().splitlines()
    with pytest.raises(ValueError, match=r"delimiter|Expecting|Unterminated"):
        json.loads(cut)
    assert [json.loads(line)["iteration"] for line in whole] == [2]
