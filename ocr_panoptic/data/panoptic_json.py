"""COCO panoptic ground truth, read and checked: a json, and a PNG of segment ids per image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ocr_panoptic.data.json_problems import MAX_SEGMENT_ID, json_problems
from ocr_panoptic.data.png import PngError, decode_png
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import read_bytes, replacing

__all__ = [
    "PANOPTIC_LISTS",
    "load_json",
    "load_json_object",
    "load_panoptic_json",
    "panoptic_ids",
    "read_json",
    "read_panoptic_png",
    "write_panoptic_png",
]

PANOPTIC_LISTS = ("images", "annotations", "categories")
"""What a panoptic json holds."""

# What training does without: areas and boxes are recomputed, crowds are the default. Refusing them
# would refuse data that trains well; an evaluation, whose figures an area decides, is stricter.
_TOLERATED = frozenset(
    {
        "duplicate-category-name",
        "duplicate-png",
        "missing-iscrowd",
        "crowd-stuff",
        "crowds-of-one-category",
        "missing-area",
        "wrong-area",
        "missing-bbox",
        "wrong-bbox",
    }
)


def read_json(path: str | Path) -> Any:
    """Read a json file of anything.

    Raises:
        InputError: the file is missing or no json.
    """
    try:
        return json.loads(read_bytes(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a json file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken json ({error}); expected a COCO json file") from error


def load_json_object(path: str | Path, lists: Sequence[str]) -> dict:
    """Read a json file whose top level is an object with the named lists, of anything.

    Raises:
        InputError: the file is missing or no json, or a list is missing or no list.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: a json {type(data).__name__}; expected an object with {', '.join(lists)}"
        )
    for key in lists:
        if not isinstance(data.get(key), list):
            found = "is no list of objects" if key in data else "is missing"
            raise InputError(f"{path}: '{key}' {found}; expected the COCO lists {', '.join(lists)}")
    return data


def load_json(path: str | Path, lists: Sequence[str]) -> dict:
    """Read a json file whose top level is an object with the named lists of objects.

    Raises:
        InputError: the file is missing or no json, or a list is missing or no list of objects.
    """
    data = load_json_object(path, lists)
    for key in lists:
        if not all(isinstance(row, dict) for row in data[key]):
            raise InputError(
                f"{path}: '{key}' is no list of objects; expected the COCO lists {', '.join(lists)}"
            )
    return data


def load_panoptic_json(path: str | Path) -> dict:
    """Read a COCO panoptic json and check every field that training needs.

    Returns:
        The json's content, with ``images``, ``annotations`` and ``categories``: one annotation for
        each image, ids unique, every ``category_id`` among the categories.

    Raises:
        InputError: the first problem: names the file, the entry, the field or value and what was
            expected.
    """
    data = load_json(path, PANOPTIC_LISTS)
    for problem in json_problems(path, data):
        if problem.kind not in _TOLERATED:
            raise InputError(problem.message)
    return data


def read_panoptic_png(path: str | Path) -> np.ndarray:
    """Read a panoptic PNG.

    Returns:
        (H, W) int32, the segment id R + 256 G + 65536 B of each pixel, 0 for void.

    Raises:
        InputError: the file is missing, truncated or no 8-bit RGB PNG.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a panoptic PNG") from error
    try:
        return panoptic_ids(decode_png(content, "RGB"))
    except PngError as fault:
        raise InputError(f"{path}: {fault}") from fault


def panoptic_ids(bgr: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the segment ids of a panoptic PNG's pixels.

    Args:
        bgr: (H, W, 3) uint8.
        out: (H, W, 4) uint8 to be used as memory of the result; None for new memory.

    Returns:
        (H, W) int32, R + 256 G + 65536 B.
    """
    # Red, green, blue and a zero are the bytes of a little-endian integer.
    ids = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA, out).view("<u4")[:, :, 0]
    ids &= MAX_SEGMENT_ID
    return ids.view(np.int32)


def write_panoptic_png(path: str | Path, segment_ids: np.ndarray) -> None:
    """Write a panoptic PNG; it appears whole or not at all.

    Args:
        path: of the file; its folder is made.
        segment_ids: (H, W) integers, from 0 for void to 2**24 - 1.

    Raises:
        ValueError: an id does not fit into 8-bit RGB.
    """
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() <= MAX_SEGMENT_ID:
        raise ValueError(f"{path}: segment ids must be 0 to {MAX_SEGMENT_ID}")
    # OpenCV takes BGR: R + 256 G + 65536 B is a little-endian number of three bytes.
    bytes_of_ids = np.ascontiguousarray(segment_ids, dtype="<u4").view(np.uint8)
    rgb = bytes_of_ids.reshape(*segment_ids.shape, 4)[:, :, :3]
    encoded = cv2.imencode(".png", rgb[:, :, ::-1])[1]
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(encoded)
