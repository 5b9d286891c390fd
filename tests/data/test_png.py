"""PNGs decoded strictly: equal to Pillow's pixels, and no broken file taken for a whole one."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, PngImagePlugin

from ocr_panoptic.data.png import PngError, decode_png, png_size

PIXELS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 3)))


def encoded(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def from_rows(rows, width=3, height=2, more=b"", interlace=0):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    parts = (chunk(b"IHDR", header), more, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


ROWS = b"".join(b"\0" + bytes(range(9 * y, 9 * y + 9)) for y in range(2))
ROW_PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def kind_of(content, mode="RGB"):
    with pytest.raises(PngError) as caught:
        decode_png(content, mode)
    assert "\n" not in str(caught.value)
    return caught.value.kind


@given(pixels=PIXELS)
@settings(max_examples=50, deadline=None)
def test_pixels_are_exact(pixels):
    content = encoded(pixels)
    assert np.array_equal(decode_png(content, "RGB")[:, :, ::-1], pixels)
    assert png_size(content) == pixels.shape[1::-1]
    assert np.array_equal(decode_png(encoded(pixels[:, :, 0]), "greyscale"), pixels[:, :, 0])


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"tRNS", struct.pack(">HHH", 0, 1, 2)),
        chunk(b"bKGD", struct.pack(">HHH", 9, 9, 9)),
        chunk(b"sBIT", bytes([5, 6, 5])),
        chunk(b"tEXt", b"Comment\0ids"),
    ],
    ids=lambda more: more[4:8].decode(),
)
def test_what_is_said_of_colours_changes_no_id(more):
    pixels = decode_png(from_rows(zlib.compress(ROWS), more=more), "RGB")
    assert np.array_equal(pixels[:, :, ::-1], ROW_PIXELS)


def test_orientation_turns_no_id():
    exif = Image.Exif()
    exif[274] = 6
    pixels = decode_png(encoded(ROW_PIXELS, exif=exif), "RGB")
    assert np.array_equal(pixels[:, :, ::-1], ROW_PIXELS)


def test_long_files_with_text_and_many_chunks():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * 10000, zip=True)
    content = encoded(pixels, pnginfo=info)
    assert content.count(b"IDAT") > 1
    assert np.array_equal(decode_png(content, "RGB")[:, :, ::-1], pixels)


def test_no_byte_can_be_cut_off_or_flipped():
    content = encoded(ROW_PIXELS)
    for length in range(len(content)):
        assert kind_of(content[:length]) == ("format" if length < 8 else "broken")
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1
        assert kind_of(bytes(flipped)) in ("format", "mode", "broken")


@pytest.mark.parametrize(
    "rows",
    [
        zlib.compress(ROWS[:10]),
        zlib.compress(ROWS)[:-6],
        zlib.compress(ROWS)[:-1] + b"\0",
        zlib.compress(b"\x09" + ROWS[1:]),
        b"",
        b"no zlib",
    ],
    ids=["one row", "stream cut", "checksum", "filter", "empty", "garbage"],
)
def test_broken_pixels_in_whole_chunks(rows):
    assert kind_of(from_rows(rows)) == "broken"


@pytest.mark.parametrize(
    ("width", "height"), [(0, 2), (3, 0), (2**31 - 1, 2**31 - 1), (9000, 9000)]
)
def test_sizes_that_are_not_those_of_the_pixels(width, height):
    assert kind_of(from_rows(zlib.compress(ROWS), width, height)) == "broken"


def test_kinds_of_other_files():
    assert kind_of(b"GIF89a" + bytes(100)) == "format"
    assert kind_of(encoded(ROW_PIXELS[:, :, 0])) == "mode"
    assert kind_of(encoded(ROW_PIXELS), "greyscale") == "mode"
    with pytest.raises(PngError, match=r"^8-bit greyscale PNG; expected 8-bit RGB$"):
        decode_png(encoded(ROW_PIXELS[:, :, 0]), "RGB")
    # A header that is not where it must be.
    content = encoded(ROW_PIXELS)
    assert kind_of(
        content[:8] + chunk(b"tEXt", b"a\0b" + bytes(9) + b"\x08\x02") + content[8:]
    ) in (
        "mode",
        "broken",
    )
