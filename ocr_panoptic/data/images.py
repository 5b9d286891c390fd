"""What an image file must be for Detectron2 to read it right, seen from its header."""

from __future__ import annotations

from pathlib import Path

from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

from ocr_panoptic.errors import InputError

__all__ = [
    "MODES_OF_8_BITS",
    "ON_ITS_SIDE",
    "check_image",
    "check_image_mode",
    "exif_orientation",
    "require_8_bits",
]

# Pillow's conversion to RGB keeps what these show; it clips greater depths to white. (Of 16-bit RGB
# it takes the higher 8 bits when it reads, and calls it RGB.) Of grey these would not do: files of
# 10 or 12 bits, as cameras and scanners make them, have 16 too, and would be black.
MODES_OF_8_BITS = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
)
"""Pillow's modes of 8 bits per channel at most."""

ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


def check_image(path: str | Path, width: int, height: int) -> None:
    """Check the header of an image: its depth, and its size as Detectron2 reads it.

    Detectron2 turns an image as its EXIF orientation says, so that is the size that counts.

    Args:
        path: the file.
        width: pixels that its annotation says.
        height: likewise.

    Raises:
        InputError: the file is missing, no image, of more than 8 bits per channel or of another
            size; names it.
    """
    mode, size, orientation = _header(path)
    require_8_bits(path, mode)
    turned = orientation in ON_ITS_SIDE
    displayed = size[::-1] if turned else size
    if displayed != (width, height):
        exif = f", turned as its EXIF orientation {orientation} says" if turned else ""
        raise InputError(
            f"{path}: image of {displayed[0]}x{displayed[1]} pixels{exif};"
            f" expected {width}x{height}, as its annotation says"
        )


def check_image_mode(path: str | Path) -> None:
    """Check that an image has 8 bits per channel, as models take them.

    Raises:
        InputError: the file is missing, no image, or of more than 8 bits per channel; names it.
    """
    require_8_bits(path, _header(path)[0])


def require_8_bits(path: str | Path, mode: str) -> None:
    """Check Pillow's mode of an image; training, prediction and pictures refuse the same files.

    Raises:
        InputError: it is none of :data:`MODES_OF_8_BITS`; names the file.
    """
    if mode not in MODES_OF_8_BITS:
        raise InputError(
            f"{path}: image of Pillow's mode {mode}; expected 8 bits per channel, as greyscale,"
            " palette, RGB, RGBA or CMYK (convert it: its values would be clipped)"
        )


def _header(path: str | Path) -> tuple[str, tuple[int, int], int | None]:
    """Return (mode, (width, height) as stored, EXIF orientation)."""
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file) as image:
            return image.mode, image.size, exif_orientation(image)
    # A broken file can raise nearly anything from within Pillow's parser.
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{path}: missing; expected the image") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: no image ({reason}); expected the image") from error


def exif_orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation by which Detectron2 turns an image, None for none."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    # As in Detectron2, an image whose EXIF is broken is taken as it is stored; Pillow's parser can
    # raise nearly anything.
    except Exception:
        return None
