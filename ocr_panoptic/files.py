"""Writing files so that nothing half-written looks complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

__all__ = ["replacing", "replacing_folder", "require_folder", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; renamed to ``path`` when all went well.

    Parent folders are made. If the body raises, the temporary file is removed and what was at
    ``path`` before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside ``path`` to fill; renamed to ``path`` when all went well.

    What was at ``path`` is removed then. If the body raises, the new folder is removed and what
    was there before is untouched.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    # Left behind by a killed process that had this one's number.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        replaced = path.with_name(f"{path.name}.replaced-{os.getpid()}")
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_folder(path: str | os.PathLike[str], name: str) -> None:
    """Make a folder if it is missing, and see that it can be written to.

    A file is really made in it, and removed: permissions alone do not tell.

    Args:
        path: the folder.
        name: what an error calls it, such as a flag or a key.

    Raises:
        InputError: if it cannot be made or written to.
    """
    try:
        if not os.fspath(path):
            raise FileNotFoundError(2, "no name")
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: {path}: {error.strerror}, expected a folder to write to"
        ) from error
