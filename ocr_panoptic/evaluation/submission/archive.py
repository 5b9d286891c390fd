"""Zips of any origin: what their entries are, and reading from them without trust."""

from __future__ import annotations

import functools
import lzma
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from .problems import Finding

__all__ = [
    "ZIP_ERRORS",
    "BrokenEntryError",
    "Entry",
    "entry_findings",
    "open_zip",
    "read_entry",
    "reason_of",
]

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises for a broken file, apart from bugs of ours."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


@functools.lru_cache(maxsize=1)
def open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip for reading; the last one stays open, as listing its entries takes a while."""
    return zipfile.ZipFile(path)


class BrokenEntryError(Exception):
    """Why an entry of a zip cannot be read."""


class Entry:
    """A file in a zip, read from its start; what zipfile raises becomes BrokenEntryError."""

    def __init__(self, path: str, name: str) -> None:
        try:
            self._file = open_zip(path).open(name)
        except ZIP_ERRORS as error:
            raise BrokenEntryError(reason_of(error)) from error

    def read(self, most: int) -> bytes:
        """Return the next bytes, at most ``most``; none at the end."""
        try:
            return self._file.read(most)
        except ZIP_ERRORS as error:
            raise BrokenEntryError(reason_of(error)) from error


def read_entry(path: str, name: str, most: int) -> bytes:
    """Return an entry of a zip, whatever size it claims to have.

    Raises:
        BrokenEntryError: if it cannot be read, or has more than ``most`` bytes.
    """
    data = Entry(path, name).read(most + 1)
    if len(data) > most:
        raise BrokenEntryError(f"more than {most} bytes")
    return data


def reason_of(error: Exception) -> str:
    """Return in one line what an exception says, or its name."""
    return " ".join(str(error).split()) or type(error).__name__


def entry_findings(entries: list[zipfile.ZipInfo]) -> Iterator[tuple[str, Finding]]:
    """Yield each entry's name with what is wrong with its name, kind or compression."""
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            yield name, ("duplicate-entry", count, "each name once")
    for entry in entries:
        # zipfile shows names with slashes and cut at a NUL.
        name = entry.orig_filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if (
            "\\" in name
            or "\0" in name
            or ":" in name
            or name.startswith("/")
            or ".." in parts
            or not parts
        ):
            yield name, ("unsafe-name", None, "a relative path with slashes, without ..")
        if any(part in _JUNK or part.startswith("._") for part in parts):
            yield name, ("junk-file", None, "nothing of the operating system (zip -X, zip -d)")
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield name, ("link", None, "a file")
        if entry.flag_bits & _ENCRYPTED:
            yield name, ("encrypted", None, "no password")
        if entry.compress_type not in _COMPRESSIONS:
            yield name, ("compression", entry.compress_type, "stored (0) or deflated (8)")
