"""How far a training is: what is shown, where, and that it is in nobody's way."""

import functools
import io
import logging
import re
import sys
import types
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from ocr_panoptic.engine import progress
from ocr_panoptic.engine.progress import (
    PROGRESS_LOGGER,
    ImagesPerSecond,
    Progress,
    ProgressBar,
    clock,
    peak_memory,
    quiet_console,
    read_progress,
)

LOSSES = {
    **{"sem_seg": 0.211, "sem_seg_region": 0.322, "cls": 0.153, "box_reg": 0.104, "mask": 0.205},
    **{"rpn_cls": 0.046, "rpn_loc": 0.057},
}
LATE = Progress(
    done=120000,
    total=270000,
    eta=94211.0,
    images_per_second=48.12,
    seconds=0.332,
    data_seconds=0.012,
    memory=7193231360,
    lr=0.02,
    loss=1.098,
    losses=LOSSES,
    metrics={},
)


def stored(start=0, count=5, seconds=0.5):
    storage = EventStorage(start)
    for iteration in range(start, start + count):
        storage.iter = iteration
        storage.put_scalars(total_loss=3.0, loss_cls=1.0, loss_mask=2.0, data_time=0.1)
        storage.put_scalar("lr", 0.01 * (iteration + 1), smoothing_hint=False)
        if iteration - start >= 2:  # as IterationTimer
            storage.put_scalars(time=seconds, images_per_second=8 / seconds)
    return storage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (93787, "26:03:07")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_what_is_read():
    found = read_progress(stored(), 20, "cpu")
    assert (found.done, found.total) == (5, 20)
    assert found.eta == pytest.approx(15 * 0.5)
    assert (found.seconds, found.images_per_second, found.data_seconds) == (0.5, 16, 0.1)
    assert (found.loss, found.losses) == (3.0, {"cls": 1.0, "mask": 2.0})
    assert found.lr == pytest.approx(0.05)
    assert found.metrics == {}


def test_nothing_is_read_before_the_first_iteration():
    assert read_progress(EventStorage(), 20, "cpu") is None


def test_speed_is_not_known_in_the_first_iterations():
    found = read_progress(stored(count=2), 20, "cpu")
    assert (found.eta, found.seconds, found.images_per_second) == (None, None, None)
    assert clock(found.eta) == "?"


def test_a_resumed_training_counts_from_where_it_went_on():
    found = read_progress(stored(start=100, count=4, seconds=2.0), 200, "cpu")
    assert found.done == 104
    assert found.eta == pytest.approx(96 * 2.0)
    assert found.images_per_second == 4


def test_a_failed_iteration_is_not_done():
    storage = stored(count=5)
    storage.iter = 5
    assert read_progress(storage, 20, "cpu").done == 5


def test_the_metrics_that_a_model_marks_are_read():
    storage = stored()
    storage.put_scalar("[metric]grad_scaler", 512.0)
    assert read_progress(storage, 20, "cpu").metrics == {"[metric]grad_scaler": 512.0}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_memory_is_what_the_process_has_had_at_most():
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 2**10
    # The kernel counts pages in batches.
    assert peak_memory("cpu") == pytest.approx(peak, rel=0.02)


def test_images_a_second_follow_the_timer():
    hook = ImagesPerSecond(8)
    storage = EventStorage()
    hook.trainer = types.SimpleNamespace(storage=storage)
    hook.after_step()
    assert "images_per_second" not in storage.histories()
    storage.put_scalar("time", 0.5)
    hook.after_step()
    assert storage.histories()["images_per_second"].latest() == 16


def line(shown, columns):
    text = progress._bar_format(shown, columns)
    return tqdm.format_meter(shown.done, shown.total, 1.0, ncols=columns, bar_format=text)


def test_the_line_at_80_and_120_and_200_columns():
    known = r"eta 26:10:11  48\.1 img/s  6\.7 GiB  lr 0\.02  loss 1\.1"
    head = r"iter 120000/270000  44%"
    assert re.fullmatch(rf"{head}  {known}", line(LATE, 80))
    middle = line(LATE, 120)
    assert re.fullmatch(rf"{head}\|[ █▏▎▍▌▋▊▉]{{8,}}\|  {known}  sem_seg 0\.21", middle)
    wide = line(LATE, 200)
    assert wide.endswith("box_reg 0.1  mask 0.2  rpn_cls 0.046  rpn_loc 0.057")


@settings(deadline=None, max_examples=60)
@given(
    columns=st.integers(60, 300),
    done=st.integers(1, 10**6),
    more=st.integers(0, 10**6),
    seconds=st.none() | st.floats(0.001, 1e4),
    loss=st.floats(allow_nan=True, allow_infinity=True),
    names=st.lists(st.text("{}%abc|_", min_size=1, max_size=30), max_size=9, unique=True),
)
def test_the_line_fits_whatever_it_says(columns, done, more, seconds, loss, names):
    shown = Progress(
        done=done,
        total=done + more,
        eta=None if seconds is None else seconds * more,
        images_per_second=None if seconds is None else 16 / seconds,
        seconds=seconds,
        data_seconds=None,
        memory=3 * 2**30,
        lr=None,
        loss=loss,
        losses=dict.fromkeys(names, 0.5),
        metrics={},
    )
    text = line(shown, columns)
    assert len(text) <= columns
    if columns >= 80:
        assert text.startswith(f"iter {done}/{done + more} ")
        assert f"eta {clock(shown.eta)}" in text
        assert f"loss {loss:.3g}" in text
    if columns >= 120:
        assert "%|" in text


class Terminal(io.StringIO):
    """Two streams of one terminal; :meth:`screen` is what is seen."""

    def isatty(self):
        return True

    def screen(self):
        lines = []
        for text in self.getvalue().split("\n"):
            seen = ""
            for part in text.split("\r"):
                seen = part + seen[len(part) :]
            lines.append(seen.rstrip())
        return lines


def open_terminal(monkeypatch):
    """Let both streams be a terminal; in the test itself, as pytest has its own before."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(progress, "_PERIOD", 0.0)
    return shown


def set_up_logger():
    """Return a logger with handlers for console and file, as Detectron2's setup makes them.

    The file is ``logger.handlers[1].stream``.
    """
    logger = logging.getLogger("ocr_panoptic")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for stream in (sys.stdout, io.StringIO()):
        logger.addHandler(logging.StreamHandler(stream))
    return logger


def trained_by(hook, storage, total=4):
    hook.trainer = types.SimpleNamespace(storage=storage, max_iter=total, start_iter=0, iter=0)
    return hook.trainer


def test_what_is_printed_appears_above_the_bar(monkeypatch):
    terminal, logger = open_terminal(monkeypatch), set_up_logger()
    storage = stored(count=2)
    bar = ProgressBar("cpu")
    trainer = trained_by(bar, storage)
    bar.before_train()
    for trainer.iter in range(2):
        bar.after_step()
    logger.info("saving")
    logging.getLogger(PROGRESS_LOGGER).info("iter 2/4 as a plain line")
    print("half a", end=" ")
    print("line\nand another")
    print("a warning", file=sys.stderr)
    *above, last = terminal.screen()
    assert above == ["saving", "half a line", "and another", "a warning"]
    assert re.match(r"iter 2/4  50%\|", last)
    print("no end of line", end="")
    bar.after_train()
    logger.info("after it")
    *above, bar_line, after, end = terminal.screen()
    assert above[-1] == "no end of line"
    assert re.match(r"iter 2/4  50%\|", bar_line)
    assert (after, end) == ("after it", "")
    # The file has the plain line, and nothing of the bar.
    assert logger.handlers[1].stream.getvalue() == "saving\niter 2/4 as a plain line\nafter it\n"


def test_without_bars_the_plain_lines_stay(monkeypatch):
    terminal, logger = open_terminal(monkeypatch), set_up_logger()
    # What TQDM_DISABLE=1 makes tqdm's default, when it is imported.
    monkeypatch.setattr(progress, "_Bar", functools.partial(progress._Bar, disable=True))
    bar = ProgressBar("cpu")
    trained_by(bar, stored(count=1))
    bar.before_train()
    bar.after_step()
    logging.getLogger(PROGRESS_LOGGER).info("iter 1/4 as a plain line")
    bar.after_train()
    assert terminal.screen() == ["iter 1/4 as a plain line", ""]
    assert logger.handlers[0].stream is terminal


def test_the_streams_are_as_before_afterwards(monkeypatch):
    terminal, logger = open_terminal(monkeypatch), set_up_logger()
    before = (sys.stdout, sys.stderr, [handler.stream for handler in logger.handlers])
    bar = ProgressBar("cpu")
    trained_by(bar, EventStorage())
    bar.before_train()
    assert sys.stdout is not terminal
    assert logger.handlers[0].stream is not terminal
    bar.after_train()  # in the place of an iteration that failed
    assert before == (sys.stdout, sys.stderr, [handler.stream for handler in logger.handlers])
    assert not any(handler.filters for handler in logger.handlers)
    print("still open")
    assert "still open" in terminal.screen()


def test_a_bar_that_was_never_opened_is_closed(monkeypatch):
    terminal = open_terminal(monkeypatch)
    # Where a hook before it fails in before_train.
    ProgressBar("cpu").after_train()
    assert terminal.getvalue() == ""


def test_a_quiet_console_tells_progress_and_warnings(monkeypatch):
    terminal, logger = open_terminal(monkeypatch), set_up_logger()
    quiet_console()
    logger.info("the whole config")
    logger.warning("a warning")
    logging.getLogger(PROGRESS_LOGGER).info("iter 20/40")
    assert terminal.screen() == ["a warning", "iter 20/40", ""]
    kept = logger.handlers[1].stream.getvalue()
    assert kept == "the whole config\na warning\niter 20/40\n"


@pytest.mark.parametrize(("out", "err"), [(True, False), (False, True), (False, False)])
def test_a_bar_needs_both_streams(monkeypatch, out, err):
    for name, terminal in (("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, Terminal() if terminal else io.StringIO())
    assert not progress.on_terminal()


def test_a_bar_where_both_streams_are_a_terminal(monkeypatch):
    open_terminal(monkeypatch)
    assert progress.on_terminal()
    monkeypatch.setattr(sys, "stderr", None)  # 2>&-
    assert not progress.on_terminal()
