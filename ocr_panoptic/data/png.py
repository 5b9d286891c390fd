"""PNGs of ids and labels, decoded strictly: a broken file is never read as if it were whole.

Pillow takes rows that are missing for black, which is void, and 16-bit RGB for 8-bit.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

__all__ = ["PngError", "decode_png", "png_size"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}
_CHUNK = struct.Struct(">I4s")
_MODES = {
    "RGB": (2, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION),
    "greyscale": (0, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION),
}
# Pillow opens no larger image, so nothing else here could.
_MAX_PIXELS = 178_956_970


class PngError(Exception):
    """Why a PNG is not taken: ``found; expected ...``.

    Attributes:
        kind: ``format`` for another format, ``mode`` for other pixels, ``broken``.
        found: what was found.
        expected: what was expected.
    """

    def __init__(self, kind: str, found: str, expected: str) -> None:
        super().__init__(f"{found}; expected {expected}")
        self.kind, self.found, self.expected = kind, found, expected


def png_size(content: bytes) -> tuple[int, int]:
    """Return (width, height) from the header of a PNG that is at least 24 bytes long."""
    return struct.unpack_from(">II", content, 16)


def decode_png(content: bytes, mode: str) -> np.ndarray:
    """Decode an 8-bit PNG, exactly.

    Args:
        content: of the file.
        mode: ``RGB`` or ``greyscale``.

    Returns:
        uint8: (H, W, 3), channels in the order BGR, or (H, W) greyscale.

    Raises:
        PngError: it is no PNG, of another kind, or not whole.
    """
    colour_type, flags = _MODES[mode]
    if not content.startswith(_SIGNATURE):
        raise PngError("format", "not a PNG", f"an 8-bit {mode} PNG")
    if len(content) >= 26 and (content[24], content[25]) != (8, colour_type):
        colour = _COLOUR_TYPES.get(content[25], f"colour type {content[25]}")
        raise PngError("mode", f"{content[24]}-bit {colour} PNG", f"8-bit {mode}")
    reason = _broken_chunk(content)
    if reason is None:
        width, height = png_size(content)
        if width * height > _MAX_PIXELS:
            reason = f"{width}x{height} pixels are more than Pillow opens"
        else:
            pixels = _imdecode(content, flags)
            if pixels is not None and pixels.shape[:2] == (height, width):
                return pixels
            reason = "its pixels cannot be decoded"
    raise PngError("broken", f"truncated or broken PNG ({reason})", "a whole file")


def _imdecode(content: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def _broken_chunk(content: bytes) -> str | None:
    """Return what is wrong with the chunks of a PNG, None where they are whole."""
    position, name = len(_SIGNATURE), b""
    while name != b"IEND":
        if position + 12 > len(content):
            return f"it ends after {len(content)} bytes"
        length, name = _CHUNK.unpack_from(content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            return f"it ends after {len(content)} bytes"
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return f"wrong checksum at byte {position}"
        if position == len(_SIGNATURE) and (name, length) != (b"IHDR", 13):
            return "no header"
        position = end + 4
    return None
