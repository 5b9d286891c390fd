"""Files: written so that nothing half-written looks complete, read so that reading ends."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from .errors import InputError

__all__ = [
    "lock",
    "open_regular",
    "read_bytes",
    "replacing",
    "replacing_folder",
    "require_folder",
    "require_output_file",
    "write_text",
]

# Of a name, in a temporary one: with all of it that could be longer than a file system takes.
_MOST_LETTERS = 50
# The least that a file system gives a file that is not empty.
_BLOCK = 4096
_locked: weakref.WeakSet[FileIO] = weakref.WeakSet()


def _require_file(path: str | os.PathLike[str]) -> None:
    """Raise OSError for what is no file, though there is something, and no folder."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "no regular file", os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which would be read for ever, is refused.

    Raises:
        OSError: it cannot be opened, or is no regular file; ``strerror`` says so.
    """
    _require_file(path)
    return open(path, "rb")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file, as :func:`open_regular` reads it.

    Raises:
        OSError: it cannot be read, or is no regular file; ``strerror`` says so.
    """
    with open_regular(path) as file:
        return file.read()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; renamed to ``path`` when all went well.

    Parent folders are made. If the body raises, the temporary file is removed and what was at
    ``path`` before is untouched.

    Raises:
        OSError: a pipe or a device is at ``path``, which a file would replace for everybody.
    """
    path = Path(path)
    _require_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:_MOST_LETTERS]}.{os.getpid()}.tmp")
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


def lock(file: FileIO) -> bool:
    """Lock a file for this process, as long as it is open here.

    A killed process leaves no lock: those it has forked, which may outlive it, close the file.
    Some network file systems have no locks: there, two processes are not told apart.

    Args:
        file: open without a buffer, which a forked process would write too.

    Returns:
        Whether no other has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    _locked.add(file)
    return True


def _close_locked() -> None:
    for file in _locked:
        file.close()


os.register_at_fork(after_in_child=_close_locked)


def require_folder(path: str | os.PathLike[str], name: str) -> None:
    """Make a folder if it is missing, and see that it can be written to.

    A file is really written in it, and removed: permissions alone do not tell.

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
        with tempfile.TemporaryFile(dir=path) as file:
            # An empty file fits on a full disk.
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        raise InputError(
            f"{name}: {path}: {error.strerror}, expected a folder to write to"
        ) from error
    except ValueError as error:
        # A NUL byte, of which the system is not even asked.
        raise InputError(f"{name}: {path}: {error}, expected a folder to write to") from error


def require_output_file(
    path: str | os.PathLike[str], name: str, *inputs: str | os.PathLike[str] | None
) -> None:
    """See that a file can be written, before the work whose result it gets; make its folder.

    Args:
        path: the file.
        name: what an error calls it, such as a flag.
        inputs: files that are read, which it must not replace; None for none.

    Raises:
        InputError: it is a folder, a device, one of ``inputs``, or in a folder that cannot be
            written to.
    """
    # Before anything is made beside it, which might be in /dev.
    if os.path.exists(path) and not os.path.isfile(path):
        found = "folder" if os.path.isdir(path) else "pipe or a device"
        raise InputError(f"{name} {path}: is a {found}, expected a file")
    require_folder(Path(path).parent, name)
    if os.path.realpath(path) in {os.path.realpath(p) for p in inputs if p is not None}:
        raise InputError(f"{name} {path}: is read too, expected another file")
