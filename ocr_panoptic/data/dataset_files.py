"""Files that a panoptic json names, where its entries can be read, and files beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from ocr_panoptic.data.file_problems import UNKNOWN_LABEL, ImageFiles, SegmentEntry
from ocr_panoptic.data.json_problems import (
    MAX_SEGMENT_ID,
    is_area,
    is_box,
    is_integer,
    is_relative_name,
)
from ocr_panoptic.data.problems import Problem

__all__ = ["image_files", "stray_files"]

_IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_files(data: dict, labels: Mapping[int, int]) -> Iterator[ImageFiles]:
    """Yield what can be checked of each image, and of each annotation that no image has.

    Entries may be anything: what is not valid is left out, and is
    :func:`~ocr_panoptic.data.json_problems.json_problems`'s to tell.

    Args:
        data: a json with the lists ``images`` and ``annotations``.
        labels: category id -> label in the semantic PNGs.
    """
    first: dict[int, dict] = {}
    others = []
    for annotation in data["annotations"]:
        if isinstance(annotation, dict):
            image_id = annotation.get("image_id")
            if is_integer(image_id) and image_id not in first:
                first[image_id] = annotation
            else:
                others.append(annotation)
    sizes: dict[int, tuple[int, int] | None] = {}
    for image in data["images"]:
        if isinstance(image, dict):
            image_id = image.get("id") if is_integer(image.get("id")) else None
            size = _size(image)
            sizes.setdefault(image_id, size)
            name = _name(image)
            yield ImageFiles(
                image_id,
                size,
                name,
                # Of two images with one id, the first has the annotation.
                *_annotated(first.pop(image_id, {}), labels),
                None if name is None else str(PurePosixPath(name).with_suffix(".png")),
            )
    for annotation in (*first.values(), *others):
        image_id = annotation.get("image_id") if is_integer(annotation.get("image_id")) else None
        size = sizes.get(image_id) if image_id is not None else None
        yield ImageFiles(image_id, size, None, *_annotated(annotation, labels), None)


def _size(image: dict) -> tuple[int, int] | None:
    size = image.get("width"), image.get("height")
    return size if all(is_integer(side) and side >= 1 for side in size) else None


def _name(row: dict) -> str | None:
    name = row.get("file_name")
    return name if is_relative_name(name) else None


def _annotated(
    annotation: dict, labels: Mapping[int, int]
) -> tuple[str | None, list[SegmentEntry] | None]:
    """Return the name of an annotation's PNG, and its segments."""
    rows = annotation.get("segments_info")
    if not isinstance(rows, list):
        return _name(annotation), None
    segments: dict[int, SegmentEntry] = {}
    for row in rows:
        if not isinstance(row, dict) or not is_integer(row.get("id")):
            continue
        segment_id, area, bbox = row["id"], row.get("area"), row.get("bbox")
        category_id = row.get("category_id")
        if 0 < segment_id <= MAX_SEGMENT_ID and segment_id not in segments:
            segments[segment_id] = SegmentEntry(
                segment_id,
                area if is_area(area) else None,
                bbox if is_box(bbox) else None,
                labels.get(category_id, UNKNOWN_LABEL)
                if is_integer(category_id)
                else UNKNOWN_LABEL,
            )
    return _name(annotation), list(segments.values())


def stray_files(
    image_root: Path, panoptic_root: Path, files: Iterable[ImageFiles]
) -> Iterator[Problem]:
    """Yield notes on images and PNGs that the json does not name, and on names without ``.jpg``.

    Only folders of named files are listed.
    """
    files = list(files)
    suffixes = Counter(
        PurePosixPath(f.image_name).suffix for f in files if f.image_name is not None
    )
    for suffix, count in suffixes.items():
        if suffix != ".jpg":
            path = str(image_root)
            found = f"names of images that end in '{suffix}': {count}"
            yield Problem("image-suffix", path, None, suffix, ".jpg", path, found)
    named = {
        "unnamed-image": _paths(image_root, (f.image_name for f in files)),
        "unnamed-png": _paths(panoptic_root, (f.png_name for f in files)),
    }
    # Images and PNGs may share a folder.
    known = set().union(*named.values())
    for kind, endings in (("unnamed-image", _IMAGE_SUFFIXES), ("unnamed-png", (".png",))):
        for folder in sorted({os.path.dirname(path) for path in named[kind]}):
            for name in _listing(folder):
                path = os.path.join(folder, name)
                if name.lower().endswith(endings) and path not in known:
                    known.add(path)
                    yield Problem(kind, path, None, None, "only files of the json", path, "unnamed")


def _paths(root: Path, names: Iterable[str | None]) -> set[str]:
    return {os.path.join(root, PurePosixPath(name)) for name in names if name is not None}


def _listing(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())
    # A folder that is missing is told by the files that are missing in it.
    except OSError:
        return []
