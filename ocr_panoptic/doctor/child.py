"""Make attempts in a process that may die of them: ``python child.py FILE NAME...``.

FILE is a Python file whose ``attempt(name)`` is called for each NAME in turn. What begins and what
came of it is told on stdout, a marked line of json each, so that the one who waits knows what a
crash was in. It ends at the first failure: what a failed import leaves behind changes the imports
after it.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import time
import traceback

__all__ = ["MARK", "main", "tell"]

MARK = "@doctor@ "
"""What a line for the doctor begins with, among whatever else libraries print."""


def tell(record: dict) -> None:
    """Print ``record`` as a marked line of json; libraries may have left a line unfinished."""
    print(f"\n{MARK}{json.dumps(record, default=str)}", flush=True, file=sys.__stdout__)


def main(argv: list[str]) -> None:
    """Make the attempts ``argv[1:]`` of the file ``argv[0]``, up to the first that fails."""
    file, *names = argv
    spec = importlib.util.spec_from_file_location("doctor_attempts", file)
    attempts = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = attempts
    spec.loader.exec_module(attempts)
    # A crash then says where, on stderr.
    faulthandler.enable()
    for name in names:
        tell({"begin": name})
        start = time.monotonic()
        try:
            found = attempts.attempt(name)
        except KeyboardInterrupt:
            raise
        # SystemExit too: a module that ends the process at its import has failed.
        except BaseException as error:
            failure = {
                "error": f"{type(error).__name__}: {_first_line(error)}",
                # Of an ImportError: the module that could not be had.
                "missing": error.name if isinstance(error, ModuleNotFoundError) else None,
                "traceback": traceback.format_exc(),
            }
            tell({"name": name, **failure, "seconds": time.monotonic() - start})
            return
        tell({"name": name, "found": found, "seconds": time.monotonic() - start})


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), "no message")


if __name__ == "__main__":
    # The folder of this file, whose modules are not to be found by their short names. Whether it
    # is there depends on Python's safe path.
    here = os.path.realpath(os.path.dirname(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    main(sys.argv[1:])
