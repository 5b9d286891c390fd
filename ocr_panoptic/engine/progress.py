"""How far a training is, on one line: on a terminal a bar, in a log what the writers print."""

from __future__ import annotations

import contextlib
import io
import logging
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from tqdm import tqdm

__all__ = [
    "PROGRESS_LOGGER",
    "ImagesPerSecond",
    "Progress",
    "ProgressBar",
    "clock",
    "on_terminal",
    "peak_memory",
    "quiet_console",
    "read_progress",
]

PROGRESS_LOGGER = "ocr_panoptic.progress"
"""Name of the logger of the plain lines."""

_LOGGERS = ("detectron2", "fvcore", "ocr_panoptic")
# Of losses and speed: iterations whose median is shown. Of the time left, as Detectron2's.
_WINDOW, _LONG_WINDOW = 20, 1000
# Seconds between two states of the bar.
_PERIOD = 0.5
# Characters of the bar itself.
_SHORTEST, _LONGEST = 4, 30


@dataclass(frozen=True)
class Progress:
    """Where a training is.

    Attributes:
        done: iterations, those before a resumption included.
        total: iterations of the whole training.
        eta: seconds left, of iterations alone; None in the first ones.
        images_per_second: of all processes; None in the first iterations.
        seconds: of one iteration; None in the first ones.
        data_seconds: of these, spent waiting for images; None where nobody measured.
        memory: bytes, as :func:`peak_memory`.
        lr: None where there is no schedule.
        loss: the total.
        losses: its parts, without "loss_" in front of their names.
        metrics: what else the model wants to be shown.
    """

    done: int
    total: int
    eta: float | None
    images_per_second: float | None
    seconds: float | None
    data_seconds: float | None
    memory: int
    lr: float | None
    loss: float
    losses: Mapping[str, float]
    metrics: Mapping[str, float]


def read_progress(storage: EventStorage, max_iter: int, device: str) -> Progress | None:
    """Return where a training is, from what it has stored; None before its first iteration.

    Losses and speed are medians of the last 20 iterations, the time left follows from the median
    of the last 1000: both forget what was before a resumption.
    """
    histories = storage.histories()
    if "total_loss" not in histories:
        return None

    def median(name: str) -> float | None:
        if name not in histories:
            return None
        return histories[name].median(storage.count_samples(name, _WINDOW))

    # Not the storage's own count: an iteration may have failed, or all may be done.
    done, eta = histories["total_loss"].values()[-1][1] + 1, None
    if "time" in histories:
        eta = histories["time"].median(_LONG_WINDOW) * (max_iter - done)
    return Progress(
        done=done,
        total=max_iter,
        eta=eta,
        images_per_second=median("images_per_second"),
        seconds=median("time"),
        data_seconds=median("data_time"),
        memory=peak_memory(device),
        lr=histories["lr"].latest() if "lr" in histories else None,
        loss=median("total_loss"),
        losses={
            name.replace("loss_", "", 1): median(name)
            for name in histories
            if "loss" in name and name != "total_loss"
        },
        # Detectron2's mark for what its own printer shows.
        metrics={name: median(name) for name in histories if "[metric]" in name},
    )


def peak_memory(device: str) -> int:
    """Return the most bytes that this process has had: of tensors on a GPU, of RAM on the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # KiB, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def clock(seconds: float | None) -> str:
    """Return seconds as hours, minutes and seconds, such as 26:03:07; "?" for None."""
    if seconds is None:
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class ImagesPerSecond(HookBase):
    """Stores the images a second of each iteration, of all processes.

    To be registered behind IterationTimer, which leaves out the first iterations, and what other
    hooks take: evaluation and checkpoints.
    """

    def __init__(self, images_per_batch: int) -> None:
        """Take the number of images of an iteration, of all processes."""
        self._images = images_per_batch

    def after_step(self) -> None:
        """Store this iteration's."""
        times = self.trainer.storage.histories().get("time")
        if times is not None and times.latest() > 0:
            self.trainer.storage.put_scalar("images_per_second", self._images / times.latest())


def on_terminal() -> bool:
    """Say whether a bar is seen, and alone: both streams go to a terminal."""
    # None is what was closed before the start.
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


class _Bar(tqdm):
    # No thread that looks after it, while data loaders fork.
    monitor_interval = 0


class ProgressBar(HookBase):
    """Shows the progress as one line of stderr that is written again and again.

    What is printed meanwhile appears above it; the plain lines of the progress do not.
    To be registered in the main process, behind the hooks that store time and speed, and before
    the evaluation, whose output it would be in the way of at the end.
    """

    def __init__(self, device: str) -> None:
        """Take the device of the model, whose memory is shown."""
        self._device = device
        self._bar: _Bar | None = None
        self._closing = contextlib.ExitStack()

    def before_train(self) -> None:
        """Open the bar at the iteration that training starts from."""
        # The end of the bar's line, which tqdm leaves in the buffer.
        self._closing.callback(sys.stderr.flush)
        self._bar = self._closing.enter_context(
            _Bar(
                total=self.trainer.max_iter,
                initial=self.trainer.start_iter,
                bar_format="iter {n_fmt}/{total_fmt}",
                file=sys.stderr,
                miniters=1,
                mininterval=_PERIOD,
                dynamic_ncols=True,
            )
        )
        self._shown = 0.0
        if self._bar.disable:
            # TQDM_DISABLE: the plain lines stay.
            return
        for handler in _console_handlers():
            above = self._above(handler.stream)
            self._closing.callback(handler.setStream, handler.stream)
            self._closing.callback(handler.removeFilter, _is_no_progress)
            handler.setStream(above)
            handler.addFilter(_is_no_progress)
        # pycocotools prints too, and Python's warnings.
        self._closing.enter_context(contextlib.redirect_stdout(self._above(sys.stdout)))
        self._closing.enter_context(contextlib.redirect_stderr(self._above(sys.stderr)))

    def _above(self, stream: TextIO) -> _AboveBar:
        return self._closing.enter_context(_AboveBar(stream, self._bar))

    def after_step(self) -> None:
        """Move on by one iteration."""
        done = self.trainer.iter + 1
        now = time.monotonic()
        if now - self._shown >= _PERIOD or done == self.trainer.max_iter:
            progress = read_progress(self.trainer.storage, self.trainer.max_iter, self._device)
            if progress is not None:
                columns = self._bar.format_dict["ncols"] or 80
                self._bar.bar_format = _bar_format(progress, columns)
            self._shown = now
        self._bar.update()

    def after_train(self) -> None:
        """Close the bar, after an exception too, and let its last state stand."""
        if self._bar is not None:
            self._bar.refresh()
        self._closing.close()


class _AboveBar(io.TextIOBase):
    """A stream to a terminal that makes room for whole lines above a bar."""

    def __init__(self, stream: TextIO, bar: _Bar) -> None:
        self._stream, self._bar = stream, bar
        self._rest = ""

    def write(self, text: str) -> int:
        lines, newline, rest = text.rpartition("\n")
        if newline:
            self._print(self._rest + lines + newline)
            self._rest = rest
        else:
            self._rest += text
        return len(text)

    def _print(self, text: str) -> None:
        with self._bar.get_lock():
            self._bar.clear(nolock=True)
            self._stream.write(text)
            self._stream.flush()
            self._bar.refresh(nolock=True)

    def close(self) -> None:
        if self._rest:
            self._print(f"{self._rest}\n")
            self._rest = ""
        # Not the stream's own end.
        super().close()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:
        return self._stream.encoding


def _bar_format(progress: Progress, columns: int) -> str:
    """Return a line as tqdm formats it, that fits: with parts of the loss as there is room."""
    speed, lr = progress.images_per_second, progress.lr
    head = f"iter {progress.done}/{progress.total}"
    fields = [
        f"eta {clock(progress.eta)}",
        *([f"{speed:.3g} img/s"] if speed is not None else []),
        f"{progress.memory / 2**30:.1f} GiB",
        *([f"lr {lr:.2g}"] if lr is not None else []),
        f"loss {progress.loss:.3g}",
    ]
    # A line that fills the last column is two lines on some terminals.
    room = columns - 1 - len("  ".join([head, *fields]))
    for name, value in progress.losses.items():
        part = f"{name} {value:.2g}"
        if room - len(part) - len("  ") < len("  100%||") + 2 * _SHORTEST:
            break
        fields.append(part)
        room -= len(part) + len("  ")
    bar = min(room - len("  100%||"), _LONGEST)
    middle = []
    if bar >= _SHORTEST:
        middle = [f"{{percentage:.0f}}%|{{bar:{bar}}}|"]
    elif room >= len("  100%"):
        middle = ["{percentage:.0f}%"]
    separator = "  " if room >= 0 else " "
    return separator.join([_escaped(head), *middle, *map(_escaped, fields)])


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _console_handlers() -> list[logging.StreamHandler]:
    """Return the handlers that print; Detectron2's of log.txt is a StreamHandler too."""
    return [
        handler
        for name in _LOGGERS
        for handler in logging.getLogger(name).handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
    ]


def _is_no_progress(record: logging.LogRecord) -> bool:
    return record.name != PROGRESS_LOGGER


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == PROGRESS_LOGGER


def quiet_console() -> None:
    """Let only progress and warnings of the loggers reach the terminal; the log file keeps all."""
    for handler in _console_handlers():
        handler.addFilter(_is_worth_a_line)
    # It warns of every data set whose category ids have gaps, COCO's own included.
    logging.getLogger("detectron2.data.datasets.coco").setLevel(logging.ERROR)
