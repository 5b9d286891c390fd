"""What a user's mistake is called, and how a command line answers it."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["BAD_INPUT", "INTERRUPTED", "ArgumentParser", "InputError", "command_line", "fail"]

BAD_INPUT = 2
"""Exit status of every command line for bad input."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit status of every command line after Ctrl-C, as shells count it."""


class InputError(Exception):
    """A mistake in a file, a config or an argument: one line that says what, where, what instead.

    The message names the file, the field or the value, and what was expected. It survives the
    journey out of a data loader's worker, where torch rebuilds exceptions from a traceback text.
    """

    def __init__(self, message: str) -> None:
        """Keep ``message``, reduced to its own line if torch wrapped it in a traceback."""
        if "\n" in message:
            last = message.strip().splitlines()[-1]
            message = last.removeprefix(f"{InputError.__module__}.{InputError.__qualname__}: ")
        super().__init__(message)


def fail(message: str) -> NoReturn:
    """Raise InputError; as an argparse parser's ``error`` it makes a mistake one line."""
    raise InputError(message)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that answers a mistake with :class:`InputError`."""

    error = staticmethod(fail)


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn ``main(argv)`` into a command line that answers :class:`InputError` with one line.

    Returns:
        A function that returns the exit status: ``main``'s own, 0 where it returns None, and
        :data:`BAD_INPUT` for an :class:`InputError`, whose message goes to stderr,
        :data:`INTERRUPTED` for Ctrl-C. Every other exception is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return run
