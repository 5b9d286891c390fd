"""OUTPUT_DIR of a run: one training at a time writes to it, and a disk that fills up is one line.

Detectron2 lets the error of a writer replace the one that ends a training, and logging answers a
full disk with a traceback for every line.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import EventWriter

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import lock

__all__ = [
    "LOCK_SECONDS",
    "RunWriter",
    "end_last_line",
    "output_errors_named",
    "reserve_for_training",
    "tell_once_of_a_lost_log",
]

_logger = logging.getLogger(__name__)

LOCK_SECONDS = 10.0
"""How long a training waits for one that was killed a moment ago: its processes end one by one."""

_EXPECTED = "expected a folder that can be written to, with room"
# Whatever was written then: there is no room, or nobody may write.
_REFUSED = (errno.EDQUOT, errno.EFBIG, errno.EROFS)
_LITTLE = 16 * 2**20
# Those that write to the file too.
_LOGGERS = ("ocr_panoptic", "fvcore", "detectron2")
_LOG = "log.txt"


@contextlib.contextmanager
def reserve_for_training(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other trainings out of a folder, whose checkpoints they would overwrite.

    The lock is on the log file, which is there anyway: nothing is left behind, and it ends with the
    process. To be called in the main process of a run, before anything is written.

    Args:
        folder: OUTPUT_DIR, which exists.

    Raises:
        InputError: another training still writes to it after :data:`LOCK_SECONDS`.
    """
    with output_errors_named(folder):
        file = open(Path(folder) / _LOG, "ab", buffering=0)  # noqa: SIM115
    with file:
        end = time.monotonic() + LOCK_SECONDS
        told = False
        while not lock(file):
            if time.monotonic() >= end:
                raise InputError(
                    f"OUTPUT_DIR: {folder}: another training is writing to it, expected a folder "
                    "of its own"
                )
            if not told:
                # There is no log yet.
                print(f"OUTPUT_DIR: {folder}: waiting for another training to end", flush=True)
                told = True
            time.sleep(0.2)
        yield


@contextlib.contextmanager
def output_errors_named(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the error of a body that cannot write its results into an InputError.

    Every other error stays what it is.

    Args:
        folder: OUTPUT_DIR.
    """
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else None
        inside = name is not None and Path(folder).resolve() in (
            Path(name).resolve(),
            *Path(name).resolve().parents,
        )
        # An error without a name may be of elsewhere, such as shared memory.
        full = error.errno == errno.ENOSPC and name is None and _free(folder) < _LITTLE
        if not inside and not full and error.errno not in _REFUSED:
            raise
        where = name or os.fspath(folder)
        raise InputError(f"OUTPUT_DIR: {where}: {_reason(error)}, {_EXPECTED}") from error


class RunWriter(PeriodicWriter):
    """Detectron2's hook, which ends a run with one line where its numbers cannot be written.

    At the end every writer is closed, and an exception that ends the training stays the one.
    """

    def __init__(
        self, writers: Sequence[EventWriter], period: int, folder: str | os.PathLike[str]
    ) -> None:
        """Make the hook.

        Args:
            writers: as for Detectron2's.
            period: as for Detectron2's.
            folder: OUTPUT_DIR, that errors name.
        """
        super().__init__(writers, period)
        self._folder = folder
        self._hook_before = threading.excepthook

    def before_train(self) -> None:
        """Leave errors of TensorBoard's thread to its writer, which raises them in this one too."""
        self._hook_before = threading.excepthook
        threading.excepthook = self._of_thread

    def _of_thread(self, args: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(args.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(args.exc_value, OSError)):
            self._hook_before(args)

    def after_step(self) -> None:
        """Write, where it is time.

        Raises:
            InputError: something cannot be written.
        """
        try:
            super().after_step()
        except OSError as error:
            raise self._error(error) from error

    def after_train(self) -> None:
        """Write what is left, and close.

        Raises:
            InputError: something cannot be written, and no other exception ends the training.
        """
        ended_by = sys.exc_info()[1]
        found = None
        for writer in self._writers:
            for act in (writer.write, writer.close):
                try:
                    act()
                except OSError as error:
                    found = found or error
        threading.excepthook = self._hook_before
        if found is not None and ended_by is not None:
            _logger.warning(str(self._error(found)))
        elif found is not None:
            raise self._error(found) from found

    def _error(self, error: OSError) -> InputError:
        return InputError(
            f"OUTPUT_DIR: {self._folder}: metrics cannot be written ({_reason(error)}), {_EXPECTED}"
        )


def tell_once_of_a_lost_log(folder: str | os.PathLike[str]) -> None:
    """Let the loggers of a run say once that its log file cannot be written, and go on without.

    Args:
        folder: OUTPUT_DIR, whose log file the loggers have opened.
    """
    told: list[str] = []
    for logger in map(logging.getLogger, _LOGGERS):
        for handler in logger.handlers:
            stream = getattr(handler, "stream", None)
            path = Path(str(getattr(stream, "name", "")))
            if path.parent == Path(folder) and path.name.startswith(_LOG):
                handler.handleError = functools.partial(_lost_log, handler, path, told)
                # Before Detectron2 closes it at the end of the process, with a traceback.
                atexit.register(_close, stream)


def _lost_log(
    handler: logging.Handler, path: Path, told: list[str], record: logging.LogRecord
) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        # A mistake in our own words.
        type(handler).handleError(handler, record)
    elif not told:
        told.append(str(path))
        _logger.warning(f"{path}: the log cannot be written ({_reason(error)}), going on without")


def _close(stream: TextIO) -> None:
    with contextlib.suppress(OSError):
        stream.close()


def end_last_line(path: Path) -> None:
    """End the last line of a file, if there is one that a killed run has not ended.

    Whatever is appended to it would be glued to half a line.

    Raises:
        OSError: it cannot be read or written.
    """
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _free(folder: str | os.PathLike[str]) -> int:
    """Return the free bytes, 0 where the folder has gone."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())[:200]
