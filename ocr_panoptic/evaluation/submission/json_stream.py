"""A json of results read row by row: COCO's can be larger than the memory that they would fill."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["JsonError", "JsonStream"]

_CHUNK = 1 << 20
_WHITESPACE = re.compile(r"[ \t\n\r]*")
# A number may go on behind the end of what was read; none is this long.
_LONGEST_NUMBER = 8192


class Readable(Protocol):
    """A binary file, as far as it is needed here."""

    def read(self, most: int, /) -> bytes:
        """Return the next bytes, none at the end."""


class JsonError(Exception):
    """What is wrong with a json, in words."""


class JsonStream:
    """Reads the rows of a list, or of a list in an object, without holding all of them."""

    LARGEST_ROW = 4 << 20
    """Characters that a row may have."""

    def __init__(self, file: Readable, max_bytes: int) -> None:
        """Read from ``file``, at most ``max_bytes``."""
        self.non_ascii: int | None = None
        """Offset in bytes of the first byte so far that is not ASCII."""
        self.constants: list[str] = []
        """The constants that no json has (NaN, Infinity) of the last row."""
        self._file, self._max_bytes, self._bytes = file, max_bytes, 0
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self._decoder = json.JSONDecoder(parse_constant=self._constant)
        # The text from _position on is unread; _offset characters came before it.
        self._text, self._position, self._offset, self._ended = "", 0, 0, False

    def is_list(self) -> bool:
        """Return whether the top level is a list. Nothing is taken from the stream."""
        return self._peek() == "["

    def rows(self, key: str) -> Iterator[Any]:
        """Yield the rows of the list at the top level, or of the object's list ``key``.

        Raises:
            JsonError: broken json, no such list, or a row or the file is too large.
        """
        if self.is_list():
            yield from self._list()
        elif self._peek() == "{":
            found = False
            for name in self._keys():
                if self._peek() != "[":
                    if name == key:
                        raise JsonError(f"'{key}' is no list")
                    self._value()
                    continue
                for row in self._list():
                    if name == key:
                        yield row
                found = found or name == key
            if not found:
                raise JsonError(f"there is no '{key}'")
        else:
            raise JsonError("neither a list nor an object")
        if self._peek():
            raise JsonError(f"text after the end, at character {self._offset + self._position}")

    def _constant(self, name: str) -> float:
        self.constants.append(name)
        return float(name)

    def _fill(self) -> bool:
        """Read more; False at the end of the file."""
        if self._ended:
            return False
        left = self._max_bytes - self._bytes
        # As much again as there is: a large row is not parsed from its start too often.
        data = self._file.read(min(max(_CHUNK, len(self._text) - self._position), left + 1))
        if len(data) > left:
            raise JsonError(f"more than {self._max_bytes} bytes")
        if self.non_ascii is None and not data.isascii():
            self.non_ascii = self._bytes + next(i for i, byte in enumerate(data) if byte > 127)
        self._bytes += len(data)
        self._ended = not data
        self._text = self._text[self._position :] + self._decode(data, self._ended)
        self._offset += self._position
        self._position = 0
        return True

    def _peek(self) -> str:
        """Return the next character that is no white space, "" at the end."""
        while True:
            self._position = _WHITESPACE.match(self._text, self._position).end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def _take(self, expected: str) -> str:
        """Return the next character, one of ``expected``, and go on behind it."""
        character = self._peek()
        if not character or character not in expected:
            found = repr(character) if character else "the end"
            raise JsonError(
                f"{found} at character {self._offset + self._position}, expected"
                f" {' or '.join(expected)}"
            )
        self._position += 1
        return character

    def _list(self) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            self._position += 1
            return
        yield self._value()
        while self._take(",]") == ",":
            yield self._value()

    def _keys(self) -> Iterator[str]:
        """Yield an object's keys; the caller takes the value of each."""
        self._take("{")
        if self._peek() == "}":
            self._position += 1
            return
        while True:
            if self._peek() != '"':
                self._take('"')
            key = self._value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def _value(self) -> Any:
        if self._peek() not in ("{", "[", '"'):
            while len(self._text) - self._position < _LONGEST_NUMBER and self._fill():
                pass
        while True:
            self.constants.clear()
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._position > self.LARGEST_ROW or not self._fill():
                    raise JsonError(self._reason(error)) from error
                continue
            self._position = end
            return value

    def _reason(self, error: Exception) -> str:
        if isinstance(error, json.JSONDecodeError):
            return f"{error.msg} at character {self._offset + error.pos}"
        start = self._offset + self._position
        return f"{type(error).__name__} in what begins at character {start}"
