"""Every problem of a COCO panoptic json that can be seen without its images and PNGs."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ocr_panoptic.data.problems import Problem, shown

__all__ = [
    "MAX_SEGMENT_ID",
    "image_problems",
    "is_area",
    "is_box",
    "is_integer",
    "is_relative_name",
    "json_problems",
    "label_stem",
]

MAX_SEGMENT_ID = 256**3 - 1
"""What 8-bit RGB holds."""


def is_integer(value: object) -> bool:
    """Say whether a json value is an integer; true and false are none."""
    return type(value) is int


def is_relative_name(value: object) -> bool:
    """Say whether a json value names a file within a folder."""
    return isinstance(value, str) and _is_file_name(value) and not _is_outside(value)


def is_area(value: object) -> bool:
    """Say whether a json value is a number that can be an area."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_box(value: object) -> bool:
    """Say whether a json value is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_area, value))


def label_stem(file_name: str) -> PurePosixPath:
    """Return what an image's labels are found by: its name without the suffix."""
    return PurePosixPath(file_name).with_suffix("")


def _is_outside(name: str) -> bool:
    parts = name.split("/")
    # Names decide where labels are written.
    return name.startswith("/") or ".." in parts or not any(part not in ("", ".") for part in parts)


def _is_file_name(name: str) -> bool:
    if not name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which json can hold and no file system.
        return False
    return True


def json_problems(
    path: str | Path, data: dict, panoptic_root: str | Path | None = None
) -> Iterator[Problem]:
    """Yield the problems of a panoptic json: those of ids and fields, in the order of reading.

    Args:
        path: of the json, for messages.
        data: its content, with the lists ``images``, ``annotations`` and ``categories``.
        panoptic_root: folder of the PNGs: a segment's problem names its PNG then, not the json.
    """
    reader = _Reader(str(path), None if panoptic_root is None else Path(panoptic_root))
    categories = yield from reader.categories(data["categories"])
    images = yield from reader.images(data["images"])
    yield from reader.annotations(data["annotations"], images, categories)


def image_problems(path: str | Path, rows: Sequence) -> Iterator[Problem]:
    """Yield the problems of the list ``images`` of a json, as :func:`json_problems` does."""
    yield from _Reader(str(path), None).images(rows)


class _Reader:
    """The walk through the lists of one json, each a generator of problems."""

    def __init__(self, path: str, panoptic_root: Path | None) -> None:
        self._path = path
        self._root = panoptic_root

    def _problem(
        self,
        kind: str,
        where: str,
        found: str,
        expected: str,
        *,
        row_id: int | None = None,
        value: object = None,
        file: str | None = None,
    ) -> Problem:
        place = f"{self._path}: {where}" if where else self._path
        return Problem(kind, file or self._path, row_id, value, expected, place, found)

    def _index(
        self,
        name: str,
        rows: Sequence,
        key: str,
        duplicate: str,
        file: str | None = None,
    ) -> Generator[Problem, None, dict[int, dict]]:
        """Map the integer ``key`` of each row to the first row that has it."""
        index: dict[int, dict] = {}
        for position, row in enumerate(rows):
            if not isinstance(row, dict):
                yield self._problem(
                    "entry-not-object",
                    f"{name}[{position}]",
                    f"is {shown(row)}",
                    "an object",
                    value=row,
                    file=file,
                )
                continue
            value = row.get(key)
            if not is_integer(value):
                yield self._problem(
                    "bad-id",
                    f"{name}[{position}]",
                    f"'{key}' is {_shown_field(row, key)}",
                    "an integer",
                    value=value,
                    file=file,
                )
            elif value in index:
                yield self._problem(
                    duplicate,
                    name,
                    f"'{key}' {shown(value)} occurs twice",
                    "unique ids",
                    row_id=value,
                    value=value,
                    file=file,
                )
            else:
                index[value] = row
        return index

    def categories(self, rows: Sequence) -> Generator[Problem, None, dict[int, dict]]:
        """Yield problems of the categories; return them by id."""
        index = yield from self._index("categories", rows, "id", "duplicate-category-id")
        names = set()
        for where, category_id, category in _entries("category id", "categories", rows, "id"):
            if category.get("isthing") not in (0, 1):
                yield self._problem(
                    "bad-isthing",
                    where,
                    f"'isthing' is {_shown_field(category, 'isthing')}",
                    "0 or 1 (a panoptic json, not an instances or image_info json)",
                    row_id=category_id,
                    value=category.get("isthing"),
                )
            name = category.get("name")
            if not isinstance(name, str) or not name:
                yield self._problem(
                    "bad-category-name",
                    where,
                    f"'name' is {_shown_field(category, 'name')}",
                    "text",
                    row_id=category_id,
                    value=name,
                )
            elif name in names:
                yield self._problem(
                    "duplicate-category-name",
                    where,
                    f"'name' {shown(name)} occurs twice",
                    "unique names",
                    row_id=category_id,
                    value=name,
                )
            else:
                names.add(name)
        return index

    def images(self, rows: Sequence) -> Generator[Problem, None, dict[int, dict]]:
        """Yield problems of the images; return them by id."""
        index = yield from self._index("images", rows, "id", "duplicate-image-id")
        stems = set()
        for where, image_id, image in _entries("image id", "images", rows, "id"):
            yield from self._file_name(where, image_id, image)
            if is_relative_name(image.get("file_name")):
                stem = label_stem(image["file_name"])
                if stem in stems:
                    yield self._problem(
                        "duplicate-file-name",
                        where,
                        f"'file_name' {_bare(image['file_name'])} occurs twice, but for its suffix",
                        "unique names, as labels and results are found by them",
                        row_id=image_id,
                        value=image["file_name"],
                    )
                stems.add(stem)
            for side in ("height", "width"):
                if not is_integer(image.get(side)) or image[side] < 1:
                    yield self._problem(
                        "bad-size",
                        where,
                        f"'{side}' is {shown(image.get(side))}",
                        "pixels, at least 1",
                        row_id=image_id,
                        value=image.get(side),
                    )
        return index

    def annotations(self, rows: Sequence, images: dict, categories: dict) -> Iterator[Problem]:
        """Yield problems of the annotations and their segments."""
        index = yield from self._index("annotations", rows, "image_id", "duplicate-annotation")
        for image_id in sorted(index.keys() - images.keys()):
            yield self._problem(
                "annotation-without-image",
                "",
                f"annotation of image_id {shown(image_id)}",
                "an id in 'images'",
                row_id=image_id,
                value=image_id,
            )
        # Detectron2 stops with a bare KeyError at an image that has no semantic PNG.
        for image_id in sorted(images.keys() - index.keys()):
            yield self._problem(
                "image-without-annotation",
                "",
                f"image id {shown(image_id)} ({_bare(images[image_id].get('file_name'))}) has no"
                " annotation",
                "one for each image",
                row_id=image_id,
            )
        if not index:
            yield self._problem(
                "no-annotations", "", "'annotations' is empty", "one for each image"
            )
        names = set()
        for where, image_id, annotation in _entries(
            "annotation of image_id", "annotations", rows, "image_id"
        ):
            yield from self._file_name(where, image_id, annotation)
            file = None
            name = annotation.get("file_name")
            if is_relative_name(name):
                file = self._path if self._root is None else str(self._root / name)
                if PurePosixPath(name) in names:
                    yield self._problem(
                        "duplicate-png",
                        where,
                        f"'file_name' {_bare(name)} occurs twice",
                        "a PNG of its own for each image",
                        row_id=image_id,
                        value=name,
                    )
                names.add(PurePosixPath(name))
            yield from self._segments(where, image_id, file, annotation, categories)

    def _file_name(self, where: str, row_id: int | None, row: dict) -> Iterator[Problem]:
        name = row.get("file_name")
        if is_relative_name(name):
            return
        kind, expected = "bad-file-name", "text"
        if isinstance(name, str) and name:
            is_file_name = _is_file_name(name)
            kind = "file-name-outside" if is_file_name else "bad-file-name"
            expected = "a path within its folder" if is_file_name else "a name that a file can have"
        found = f"'file_name' is {_shown_field(row, 'file_name')}"
        yield self._problem(kind, where, found, expected, row_id=row_id, value=name)

    def _segments(
        self, where: str, image_id: int | None, file: str | None, annotation: dict, categories: dict
    ) -> Iterator[Problem]:
        segments = annotation.get("segments_info")
        if not isinstance(segments, list):
            yield self._problem(
                "bad-segments-info",
                where,
                "no 'segments_info'",
                "a list of objects",
                row_id=image_id,
                value=segments,
                file=file,
            )
            return
        name = f"{where}: segments_info"
        yield from self._index(name, segments, "id", "duplicate-segment-id", file)
        crowds = set()
        for position, segment in enumerate(segments):
            if isinstance(segment, dict):
                for kind, found, expected, value in _segment_problems(segment, categories, crowds):
                    at, segment_id = _entry(f"{where}: segment id", name, position, segment, "id")
                    yield self._problem(
                        kind, at, found, expected, row_id=segment_id, value=value, file=file
                    )


def _segment_problems(
    segment: dict, categories: dict[int, dict], crowds: set[int]
) -> Iterator[tuple[str, str, str, object]]:
    """Yield (kind, found, expected, value) of one segment's fields.

    ``crowds`` holds the categories of the crowds that came before in the image, and gets its own.
    """
    segment_id, category_id = segment.get("id"), segment.get("category_id")
    if is_integer(segment_id) and not 0 < segment_id <= MAX_SEGMENT_ID:
        expected = f"1 to {MAX_SEGMENT_ID} (0 is void)"
        yield "segment-id-range", "", expected, segment_id
    category = categories.get(category_id) if is_integer(category_id) else None
    if category is None:
        expected = f"one of the {len(categories)} ids in 'categories'"
        found = f"category_id {_shown_field(segment, 'category_id')}"
        yield "unknown-category", found, expected, category_id
    iscrowd = segment.get("iscrowd")
    if "iscrowd" not in segment:
        yield "missing-iscrowd", "'iscrowd' is missing", "0 or 1", None
    elif iscrowd not in (0, 1):
        yield "bad-iscrowd", f"'iscrowd' is {shown(iscrowd)}", "0 or 1", iscrowd
    elif iscrowd and category is not None and category.get("isthing") == 0:
        yield "crowd-stuff", "a crowd of stuff", "'iscrowd' 0, as things alone are crowds", iscrowd
    if iscrowd == 1 and category is not None:
        if category_id in crowds:
            found = f"a second crowd of category_id {category_id}"
            yield "crowds-of-one-category", found, "one in an image", category_id
        crowds.add(category_id)
    for key, is_valid, expected in (
        ("area", is_area, "a number of pixels"),
        ("bbox", is_box, "[x, y, width, height]"),
    ):
        if key not in segment:
            yield f"missing-{key}", f"'{key}' is missing", expected, None
        elif not is_valid(segment[key]):
            yield f"wrong-{key}", f"'{key}' is {shown(segment[key])}", expected, segment[key]


def _entries(
    name: str, list_name: str, rows: Sequence, key: str
) -> Iterator[tuple[str, int | None, dict]]:
    """Yield what to call each object of a list, its id, None if it has none, and itself."""
    for position, row in enumerate(rows):
        if isinstance(row, dict):
            yield *_entry(name, list_name, position, row, key), row


def _entry(name: str, list_name: str, position: int, row: dict, key: str) -> tuple[str, int | None]:
    """Return what to call an object of a list, and its id, None if it has none."""
    row_id = row.get(key)
    if is_integer(row_id):
        return f"{name} {shown(row_id)}", row_id
    return f"{list_name}[{position}]", None


def _shown_field(row: dict, key: str) -> str:
    return shown(row[key]) if key in row else "missing"


def _bare(value: object) -> str:
    return shown(value)[1:-1] if isinstance(value, str) else shown(value)
