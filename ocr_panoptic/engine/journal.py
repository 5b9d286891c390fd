"""A journal of finished work: one json object a line, with which a killed run goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import lock

__all__ = ["Journal"]


class Journal:
    """Records of finished images in a file, which survive the death of the process.

    A record is there when its line is whole; what a killed process left of a line is cut off. The
    file is locked while it is open, so that no second run writes to the same folder. The content
    of records is not kept in memory.
    """

    def __init__(self, path: Path, origin: Mapping[str, str], name: str) -> None:
        """Open or start a journal.

        Args:
            path: the file; its folder exists.
            origin: what the records depend on, by name; kept in the first line.
            name: what an error calls the folder, such as a flag with its value.

        Raises:
            InputError: the file is no journal, holds records of another origin, of which it names
                the parts, or is open in another process.
        """
        # Name -> state of its source, and where its line begins.
        self._records: dict[str, tuple[Any, int]] = {}
        # Not buffered: what could not be written must not be tried again when the file is closed.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            self._lock(name)
            self._reader = open(path, "rb")  # noqa: SIM115
        except BaseException:
            self._file.close()
            raise
        try:
            self._read(path, dict(origin), name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._reader.close()
        self._file.close()

    def _lock(self, name: str) -> None:
        if not lock(self._file):
            raise InputError(
                f"{name}: another process is writing to it, expected a folder of its own"
            )

    def _read(self, path: Path, origin: dict[str, str], name: str) -> None:
        found, whole = None, 0
        for number, line in enumerate(self._reader):
            if not line.endswith(b"\n"):
                break
            record = _parse(line, path, number)
            if number == 0:
                found = record["origin"]
            else:
                # The last one counts, of work that was done again.
                self._records[record["name"]] = record["source"], whole
            whole += len(line)
        if found != origin:
            if self._records:
                others = [key for key in origin if found.get(key) != origin[key]]
                raise InputError(
                    f"{name}: holds a run with other {' and other '.join(others)}, expected the "
                    f"same to go on with it, or a new folder ({path.name} says so)"
                )
            whole = 0
        self._file.truncate(whole)
        if whole == 0:
            self._append({"origin": origin})

    def _append(self, record: Mapping[str, Any]) -> int:
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except BaseException:
            # A full disk, or Ctrl-C: the next record must not follow half of this one.
            with contextlib.suppress(OSError):
                self._file.truncate(offset)
            raise
        return offset

    def has(self, name: str, source: Any) -> bool:
        """Say whether ``name`` has a record, made from a source in the state that it is in now."""
        return name in self._records and self._records[name][0] == source

    def add(self, name: str, source: Any, content: Mapping[str, Any]) -> None:
        """Record that ``name`` is finished; a record that it has already is replaced.

        Args:
            name: of the work.
            source: the state of what it was made from, that json can hold.
            content: that json can hold.
        """
        record = {"name": name, "source": source, "content": content}
        self._records[name] = source, self._append(record)

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Read the content of a record.

        Raises:
            KeyError: if there is none.
        """
        self._reader.seek(self._records[name][1])
        return json.loads(self._reader.readline())["content"]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    keys, key, kind = {"name", "source", "content"}, "name", str
    if number == 0:
        keys, key, kind = {"origin"}, "origin", dict
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict) and record.keys() == keys and isinstance(record[key], kind):
        return record
    raise InputError(f"{path}: line {number + 1} is no record, expected the journal of a run")
