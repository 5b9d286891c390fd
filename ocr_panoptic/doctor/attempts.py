"""Attempts in other processes, which may fail in any way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .child import MARK

__all__ = ["CRASHED", "FAILED", "HUNG", "NOT_TRIED", "OK", "Attempt", "attempt_all"]

OK, FAILED, CRASHED, HUNG, NOT_TRIED = "ok", "failed", "crashed", "hung", "not tried"
"""What may come of an attempt."""

_CHILD = Path(__file__).with_name("child.py")
# The keys of what it tells: of a beginning, of what went well, of a failure.
_TOLD = (
    {"begin"},
    {"name", "found", "seconds"},
    {"name", "error", "missing", "traceback", "seconds"},
)


@dataclass(frozen=True)
class Attempt:
    """What came of one attempt.

    Attributes:
        state: :data:`OK`, or how it went wrong.
        found: what it returned, empty if it did not return.
        error: the exception as one line, or how the process ended; what was waited for, of an
            attempt that was not made.
        missing: the module that a ModuleNotFoundError names.
        traceback: of the exception; of a process that crashed, what it wrote to stderr.
        seconds: that it took.
    """

    state: str
    found: Mapping = field(default_factory=dict)
    error: str = ""
    missing: str | None = None
    traceback: str = ""
    seconds: float = 0.0


def attempt_all(
    file: Path,
    needs: Mapping[str, Sequence[str]],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Attempt]:
    """Make attempts in turn, in one process, and in a new one after each that fails.

    Args:
        file: Python file with a function ``attempt(name)``, which returns what json can hold; it
            is run by itself, not as a part of its package.
        needs: attempt -> those before it without which it is not made.
        timeout: seconds for all the attempts of a process.
        environment: of the processes; None for this one's own.

    Returns:
        One :class:`Attempt` for each key of ``needs``, in their order.
    """
    done: dict[str, Attempt] = {}
    while len(done) < len(needs):
        names = []
        for name in (name for name in needs if name not in done):
            lacking = [need for need in needs[name] if need in done and done[need].state != OK]
            if lacking:
                done[name] = Attempt(NOT_TRIED, error=_root(done, lacking[0]))
            else:
                names.append(name)
        if names:
            done.update(_one_process(file, names, timeout, environment))
    return {name: done[name] for name in needs}


def _root(done: Mapping[str, Attempt], name: str) -> str:
    """Return what really failed: a need that was itself not tried names its own."""
    return done[name].error if done[name].state == NOT_TRIED else name


def _one_process(
    file: Path, names: Sequence[str], timeout: float, environment: Mapping[str, str] | None
) -> dict[str, Attempt]:
    """Make ``names`` in one process, up to the first that fails; at least one is in the result."""
    output, errors, status = _run(
        [sys.executable, str(_CHILD), str(file), *names], timeout, environment
    )
    done: dict[str, Attempt] = {}
    begun = None
    for line in output.split("\n"):
        record = _record(line)
        if begun is None:
            begun = record.get("begin")
        elif record.pop("name", None) == begun:
            done[begun] = Attempt(FAILED if "error" in record else OK, **record)
            begun = None
    if begun is not None:
        # It began and never came back: what the process ended of.
        state = HUNG if status is None else CRASHED
        done[begun] = Attempt(state, error=_ending(status, timeout), traceback=errors)
    if not done:
        reason = errors.strip().splitlines()[-1:] or [_ending(status, timeout)]
        error = f"Python does not start: {reason[0]}"
        done[names[0]] = Attempt(CRASHED, error=error, traceback=errors)
        done.update((name, Attempt(NOT_TRIED, error=names[0])) for name in names[1:])
    return done


def _record(line: str) -> dict:
    """Return what :func:`.child.tell` has told; nothing of a library's line, whatever it prints."""
    if not line.startswith(MARK):
        return {}
    try:
        record = json.loads(line[len(MARK) :])
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    return record if set(record) in _TOLD else {}


def _ending(status: int | None, timeout: float) -> str:
    if status is None:
        return f"not done after {timeout:.0f} s"
    if status >= 0:
        return f"the process ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"the process ended with {signal.Signals(-status).name}"
    return f"the process ended with signal {-status}"


def _run(
    command: Sequence[str], timeout: float, environment: Mapping[str, str] | None
) -> tuple[str, str, int | None]:
    """Run ``command``; returns its stdout, its stderr and its status, None if it took too long.

    It leads a group of processes, all of which end with it, or with whatever ends the wait.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    status = None
    try:
        output, errors = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        _end(process)
        output, errors = process.communicate()
    finally:
        _end(process)
    return output, errors, status


def _end(process: subprocess.Popen) -> None:
    """End what is left of the group of ``process``."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
