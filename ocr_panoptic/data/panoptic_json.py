"""COCO panoptic ground truth, read and checked: a json, and a PNG of segment ids per image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from panopticapi.utils import rgb2id
from PIL import Image

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing

__all__ = ["load_json", "load_panoptic_json", "read_panoptic_png", "write_panoptic_png"]

_MAX_SEGMENT_ID = 256**3 - 1
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPES = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}


def load_json(path: str | Path, lists: Sequence[str]) -> dict:
    """Read a json file whose top level is an object with the named lists of objects.

    Raises:
        InputError: the file is missing or no json, or a list is missing or no list of objects.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a json file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken json ({error}); expected a COCO json file") from error
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: a json {type(data).__name__}; expected an object with {', '.join(lists)}"
        )
    for key in lists:
        rows = data.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            found = "is no list of objects" if key in data else "is missing"
            raise InputError(f"{path}: '{key}' {found}; expected the COCO lists {', '.join(lists)}")
    return data


def load_panoptic_json(path: str | Path) -> dict:
    """Read a COCO panoptic json and check every field that training needs.

    Returns:
        The json's content, with ``images``, ``annotations`` and ``categories``: one annotation for
        each image, ids unique, every ``category_id`` among the categories.

    Raises:
        InputError: names the file, the entry, the field or value and what was expected.
    """
    data = load_json(path, ("images", "annotations", "categories"))
    categories = _index(path, "categories", data["categories"], "id")
    for category_id, category in categories.items():
        if category.get("isthing") not in (0, 1):
            found = repr(category["isthing"]) if "isthing" in category else "missing"
            raise InputError(
                f"{path}: category id {category_id}: 'isthing' is {found}; expected 0 or 1"
                " (a panoptic json, not an instances or image_info json)"
            )
        _require_text(path, f"category id {category_id}", category, "name")
    images = _index(path, "images", data["images"], "id")
    stems = set()
    for image_id, image in images.items():
        _require_relative(path, f"image id {image_id}", image)
        stem = PurePosixPath(image["file_name"]).with_suffix("")
        if stem in stems:
            raise InputError(
                f"{path}: image id {image_id}: 'file_name' {image['file_name']} occurs twice, but"
                " for its suffix; expected unique names, as labels are found by them"
            )
        stems.add(stem)
        for side in ("height", "width"):
            if type(image.get(side)) is not int or image[side] < 1:
                raise InputError(
                    f"{path}: image id {image_id}: '{side}' is {image.get(side)!r};"
                    " expected pixels, at least 1"
                )
    annotations = _index(path, "annotations", data["annotations"], "image_id")
    _require_same_images(path, images, annotations)
    if not annotations:
        raise InputError(f"{path}: 'annotations' is empty; expected one for each image")
    for image_id, annotation in annotations.items():
        where = f"annotation of image_id {image_id}"
        _require_relative(path, where, annotation)
        _check_segments(path, where, annotation, categories)
    return data


def _index(path: str | Path, name: str, rows: Iterable[dict], key: str) -> dict[int, dict]:
    """Map the integer ``key`` of each row to the row."""
    index: dict[int, dict] = {}
    for position, row in enumerate(rows):
        value = row.get(key)
        if type(value) is not int:
            found = repr(value) if key in row else "missing"
            raise InputError(f"{path}: {name}[{position}]: '{key}' is {found}; expected an integer")
        if value in index:
            raise InputError(f"{path}: {name}: '{key}' {value} occurs twice; expected unique ids")
        index[value] = row
    return index


def _require_text(path: str | Path, where: str, row: dict, key: str) -> None:
    if not isinstance(row.get(key), str) or not row[key]:
        found = repr(row[key]) if key in row else "missing"
        raise InputError(f"{path}: {where}: '{key}' is {found}; expected text")


def _require_relative(path: str | Path, where: str, row: dict) -> None:
    _require_text(path, where, row, "file_name")
    name = PurePosixPath(row["file_name"])
    # Names decide where labels are written.
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise InputError(
            f"{path}: {where}: 'file_name' is {row['file_name']!r};"
            " expected a path within its folder"
        )


def _require_same_images(path: str | Path, images: dict, annotations: dict) -> None:
    for image_id in sorted(annotations.keys() - images.keys()):
        raise InputError(f"{path}: annotation of image_id {image_id}; expected an id in 'images'")
    # Detectron2 stops with a bare KeyError at an image that has no semantic PNG.
    for image_id in sorted(images.keys() - annotations.keys()):
        raise InputError(
            f"{path}: image id {image_id} ({images[image_id]['file_name']}) has no annotation;"
            " expected one for each image"
        )


def _check_segments(path: str | Path, where: str, annotation: dict, categories: dict) -> None:
    segments = annotation.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(row, dict) for row in segments):
        raise InputError(f"{path}: {where}: no 'segments_info'; expected a list of objects")
    for segment_id, segment in _index(path, f"{where}: segments_info", segments, "id").items():
        if not 0 < segment_id <= _MAX_SEGMENT_ID:
            raise InputError(
                f"{path}: {where}: segment id {segment_id}; expected 1 to {_MAX_SEGMENT_ID}"
                " (0 is void)"
            )
        category_id = segment.get("category_id")
        if type(category_id) is not int or category_id not in categories:
            found = repr(category_id) if "category_id" in segment else "missing"
            raise InputError(
                f"{path}: {where}: segment id {segment_id}: category_id {found};"
                f" expected one of the {len(categories)} ids in 'categories'"
            )
        if segment.get("iscrowd", 0) not in (0, 1):
            raise InputError(
                f"{path}: {where}: segment id {segment_id}: 'iscrowd' is"
                f" {segment['iscrowd']!r}; expected 0 or 1"
            )


def read_panoptic_png(path: str | Path) -> np.ndarray:
    """Read a panoptic PNG.

    Returns:
        (H, W) int32, the segment id R + 256 G + 65536 B of each pixel, 0 for void.

    Raises:
        InputError: the file is missing, truncated or no 8-bit RGB PNG.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(26)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a panoptic PNG") from error
    if not header.startswith(_PNG_SIGNATURE):
        raise InputError(f"{path}: not a PNG; expected an 8-bit RGB PNG")
    if len(header) == 26:
        # Pillow reads 16-bit RGB silently as 8 bits, so the header's own fields are read.
        bit_depth, colour_type = header[24], header[25]
        if (bit_depth, colour_type) != (8, 2):
            colour = _PNG_COLOUR_TYPES.get(colour_type, f"colour type {colour_type}")
            raise InputError(f"{path}: {bit_depth}-bit {colour} PNG; expected 8-bit RGB")
    try:
        with Image.open(path) as image:
            return rgb2id(np.asarray(image))
    # A broken file can raise nearly anything from within Pillow's parser.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: truncated or broken PNG ({reason}); expected a whole file"
        ) from error


def write_panoptic_png(path: str | Path, segment_ids: np.ndarray) -> None:
    """Write a panoptic PNG; it appears whole or not at all.

    Args:
        path: of the file; its folder is made.
        segment_ids: (H, W) integers, from 0 for void to 2**24 - 1.

    Raises:
        ValueError: an id does not fit into 8-bit RGB.
    """
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() <= _MAX_SEGMENT_ID:
        raise ValueError(f"{path}: segment ids must be 0 to {_MAX_SEGMENT_ID}")
    # OpenCV takes BGR: R + 256 G + 65536 B is a little-endian number of three bytes.
    bytes_of_ids = np.ascontiguousarray(segment_ids, dtype="<u4").view(np.uint8)
    rgb = bytes_of_ids.reshape(*segment_ids.shape, 4)[:, :, :3]
    encoded = cv2.imencode(".png", rgb[:, :, ::-1])[1]
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(encoded)
