"""What a user's mistake is called, and how a command line answers it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import io
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, TextIO

__all__ = [
    "BAD_INPUT",
    "INTERRUPTED",
    "LOST_PROCESS",
    "NON_FINITE_LOSS",
    "ArgumentParser",
    "InputError",
    "LostProcessError",
    "NonFiniteLossError",
    "OneLineError",
    "command_line",
    "error_of_traceback",
    "fail",
    "message_of_traceback",
    "patient_streams",
    "printable",
]

BAD_INPUT = 2
"""Exit status of every command line for bad input."""
NON_FINITE_LOSS = 3
"""Exit status of a training whose loss is infinite or not a number."""
LOST_PROCESS = 4
"""Exit status of a run of which a process has ended before its time; it can be resumed."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit status of every command line after Ctrl-C, as shells count it."""


class OneLineError(Exception):
    """What ends a command line with one line on stderr and a status of its own, no traceback."""

    status: int
    """Exit status."""

    def __init__(self, message: str) -> None:
        """Keep ``message``, with an escape for what is no visible character."""
        super().__init__(printable(message))


class NonFiniteLossError(OneLineError):
    """A training has been stopped, as its loss, or what it trains, is not finite."""

    status = NON_FINITE_LOSS


class LostProcessError(OneLineError):
    """A process of a run was killed, or does not answer any more."""

    status = LOST_PROCESS


class InputError(OneLineError):
    """A mistake in a file, a config or an argument: one line that says what, where, what instead.

    The message names the file, the field or the value, and what was expected. Names can hold
    anything: what is no visible character is written as an escape. The message survives the
    journey out of a data loader's worker, where torch rebuilds exceptions from a traceback text.
    """

    status = BAD_INPUT

    def __init__(self, message: str) -> None:
        """Keep ``message``, reduced to its own line if torch wrapped it in a traceback."""
        if message.startswith("Caught ") and "\nOriginal Traceback" in message:
            message = message_of_traceback(message) or message
        super().__init__(message)


def error_of_traceback(text: str) -> OneLineError | None:
    """Return the :class:`OneLineError` whose traceback ``text`` ends with, if any."""
    last = text.strip().splitlines()[-1]
    for kind in (InputError, LostProcessError, NonFiniteLossError):
        name = f"{kind.__module__}.{kind.__qualname__}: "
        if last.startswith(name):
            return kind(last.removeprefix(name))
    return None


def message_of_traceback(text: str) -> str | None:
    """Return the message of the :class:`InputError` whose traceback ``text`` ends with, if any."""
    error = error_of_traceback(text)
    return str(error) if isinstance(error, InputError) else None


def printable(text: str) -> str:
    """Return ``text`` with what a terminal cannot or should not show written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fail(message: str) -> NoReturn:
    """Raise InputError; as an argparse parser's ``error`` it makes a mistake one line."""
    raise InputError(message)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that answers a mistake with :class:`InputError`."""

    error = staticmethod(fail)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """As argparse's, but says where overrides of the config belong."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hint = ""
            if "--opts" in self._option_string_actions and not unknown[0].startswith("-"):
                hint = "; expected KEY VALUE behind --opts, the last option"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn ``main(argv)`` into a command line that answers :class:`OneLineError` with one line.

    Returns:
        A function that returns the exit status: ``main``'s own, 0 where it returns None, and
        that of a :class:`OneLineError`, whose message goes to stderr (:data:`BAD_INPUT` for an
        :class:`InputError`), :data:`INTERRUPTED` for Ctrl-C. A name that is too long for the file
        system is bad input too. Every other exception is a bug and keeps its traceback.
        A reader of its output that has read enough, such as ``head``, ends neither the work nor
        the status; a letter that the terminal's encoding lacks is printed as an escape.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        with patient_streams():
            try:
                return main(*args, **kwargs) or 0
            except OneLineError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.status
            except OSError as error:
                # pathlib raises it where it is only asked whether there is such a file.
                if error.errno != errno.ENAMETOOLONG:
                    raise
                name = printable(str(error.filename))
                print(f"error: {name}: {error.strerror}, expected a shorter one", file=sys.stderr)
                return BAD_INPUT
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                return INTERRUPTED

    return run


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Let a body print, whether or not anybody reads on, and whatever the terminal can show."""
    with (
        contextlib.redirect_stdout(_patient(sys.stdout)),
        contextlib.redirect_stderr(_patient(sys.stderr)),
        _flushed(),
    ):
        yield


class _Patient(io.FileIO):
    """A file descriptor to which writing goes on when nobody reads any more."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _patient(stream: TextIO | None) -> TextIO | None:
    """Return a stream to where ``stream`` writes, but for its mistakes; itself if it is no file."""
    try:
        descriptor = stream.fileno()
        stream.flush()
    # Closed by the shell, or something of a test's that holds text only.
    except (AttributeError, OSError, ValueError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(descriptor, "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
    )


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Write at the end what was printed; the streams are those of the moment."""
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
