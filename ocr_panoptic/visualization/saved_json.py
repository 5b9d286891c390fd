"""Saved panoptic results and ground truths, read so that one bad image does not hide the others.

What is wrong with a file as a whole stops the reading; what is wrong with one annotation is found
when its turn comes, by :func:`check_annotation`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import matplotlib
from detectron2.data import Metadata
from matplotlib.ft2font import FT2Font

from ocr_panoptic.data.colors import Color, category_colors, numbered_color
from ocr_panoptic.data.json_problems import MAX_SEGMENT_ID, is_integer, is_relative_name
from ocr_panoptic.data.panoptic_json import load_json, read_json
from ocr_panoptic.data.problems import shown
from ocr_panoptic.errors import InputError

__all__ = [
    "Category",
    "ImageFolder",
    "SavedPanoptic",
    "check_annotation",
    "class_metadata",
    "list_categories",
    "load_categories",
    "load_saved",
    "relative_name",
]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Category:
    """A class. ``label`` is its name in pictures, whose font lacks some letters; colour is RGB."""

    id: int
    name: str
    label: str
    isthing: bool
    color: Color


@dataclass(frozen=True)
class SavedPanoptic:
    """A COCO panoptic json, of results or of ground truth.

    Attributes:
        path: of the json.
        annotations: as they are, not checked.
        file_names: image id -> ``file_name`` of ``images``, as they are; empty without ``images``.
        categories: None where the json has none.
    """

    path: Path
    annotations: list[dict[str, Any]]
    file_names: dict[Any, Any]
    categories: list[Category] | None


def load_saved(path: str | Path) -> SavedPanoptic:
    """Read a COCO panoptic json, whose ``images`` and ``categories`` may be missing.

    Raises:
        InputError: the json is missing or broken, has no annotations, or its categories are wrong.
    """
    data = load_json(path, ("annotations",))
    if not data["annotations"]:
        raise InputError(f"{path}: 'annotations' is empty; expected one for each image")
    images = data.get("images", [])
    if not isinstance(images, list) or not all(isinstance(row, dict) for row in images):
        raise InputError(f"{path}: 'images' is no list of objects; expected COCO's, or none")
    file_names = {row.get("id"): row.get("file_name") for row in images if _is_id(row.get("id"))}
    categories = None
    if "categories" in data:
        categories = _categories(path, data["categories"])
    return SavedPanoptic(Path(path), data["annotations"], file_names, categories)


def load_categories(path: str | Path) -> list[Category]:
    """Read the categories of a json: of its ``categories``, or a list of them as panopticapi has.

    Raises:
        InputError: the json is missing or broken, or its categories are wrong.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        rows = load_json(path, ("categories",))["categories"]
    return _categories(path, rows)


def list_categories(
    known: Iterable[Category], annotations: Iterable[Mapping[str, Any]]
) -> list[Category]:
    """Return the known categories, and one named "id N" for each other id in annotations.

    Things come first, then stuff, then the unknown ones, each in the order of their ids.
    """
    known = sorted(known, key=lambda category: (not category.isthing, category.id))
    found = set()
    for annotation in annotations:
        segments = annotation.get("segments_info")
        for segment in segments if isinstance(segments, list) else ():
            category_id = segment.get("category_id") if isinstance(segment, dict) else None
            if is_integer(category_id):
                found.add(category_id)
    unknown = sorted(found - {category.id for category in known})
    return known + [
        Category(number, f"id {number}", f"id {number}", False, numbered_color(number))
        for number in unknown
    ]


def class_metadata(categories: Iterable[Category]) -> Metadata:
    """Return Detectron2's metadata of categories: class names, colours and contiguous ids."""
    metadata = Metadata()
    for kind, isthing in (("thing", True), ("stuff", False)):
        rows = [category for category in categories if category.isthing == isthing]
        metadata.set(
            **{
                f"{kind}_classes": [category.label for category in rows],
                f"{kind}_colors": [category.color for category in rows],
                f"{kind}_dataset_id_to_contiguous_id": {
                    category.id: index for index, category in enumerate(rows)
                },
            }
        )
    return metadata


def check_annotation(path: str | Path, annotation: Mapping[str, Any]) -> None:
    """Check one annotation as far as it is drawn; categories need not be known.

    Raises:
        InputError: names the json, the annotation, the field and what was expected.
    """
    where = f"{path}: annotation of image_id {shown(annotation.get('image_id'))}"
    if not _is_id(annotation.get("image_id")):
        raise InputError(f"{where}: expected an image id, a number or text")
    relative_name(where, annotation.get("file_name"))
    segments = annotation.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(row, dict) for row in segments):
        raise InputError(f"{where}: no 'segments_info'; expected a list of objects")
    seen = set()
    for segment in segments:
        segment_id = segment.get("id")
        if not is_integer(segment_id) or not 0 < segment_id <= MAX_SEGMENT_ID:
            raise InputError(
                f"{where}: segment id {shown(segment_id)};"
                f" expected 1 to {MAX_SEGMENT_ID} (0 is void)"
            )
        if segment_id in seen:
            raise InputError(f"{where}: segment id {segment_id} occurs twice; expected unique ids")
        seen.add(segment_id)
        score = segment.get("score")
        has_score = isinstance(score, int | float) and abs(score) < 1e6
        for key, right, expected in (
            ("category_id", is_integer(segment.get("category_id")), "an integer"),
            ("iscrowd", segment.get("iscrowd", 0) in (0, 1), "0 or 1"),
            ("score", score is None or has_score, "a number"),
        ):
            if not right:
                raise InputError(
                    f"{where}: segment id {segment_id}: '{key}' is {shown(segment.get(key))};"
                    f" expected {expected}"
                )


def relative_name(where: str, name: Any) -> PurePosixPath:
    """Return a ``file_name`` as a path that stays within its folder.

    Raises:
        InputError: it is no text that a file can be called, or leaves the folder.
    """
    # Names decide where pictures are written.
    if not is_relative_name(name):
        raise InputError(
            f"{where}: 'file_name' is {shown(name)}; expected a path within its folder"
        )
    return PurePosixPath(name)


class ImageFolder:
    """A folder of images that are looked up by name without suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: PurePosixPath, other_than: Path) -> Path:
        """Return the image whose path below the root is that of ``name``, but for its suffix.

        Args:
            name: such as the ``file_name`` of an annotation.
            other_than: the panoptic PNG, which may lie beside the image.

        Raises:
            InputError: there is none, or more than one.
        """
        folder = self.root / name.parent
        found = [
            folder / file
            for file in self._listing(folder).get(name.stem, ())
            if os.path.realpath(folder / file) != os.path.realpath(other_than)
        ]
        if not found:
            raise InputError(f"{folder / name.stem}.*: no such file, expected an image")
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1].name}: expected one image of that name")
        return found[0]

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listings:
            files = self._listings[folder] = {}
            try:
                names = sorted(os.listdir(folder))
            except OSError as error:
                raise InputError(f"{folder}: {error.strerror}, expected images in it") from error
            for path in map(Path, names):
                if path.suffix.lower() in _IMAGE_SUFFIXES:
                    files.setdefault(path.stem, []).append(path.name)
        return self._listings[folder]


def _is_id(value: Any) -> bool:
    return type(value) in (int, str)


def _categories(path: str | Path, rows: Any) -> list[Category]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: 'categories' is no list of objects; expected COCO's, or none")
    seen = set()
    for position, row in enumerate(rows):
        category_id, color = row.get("id"), row.get("color")
        where = f"{path}: categories[{position}]"
        if not is_integer(category_id):
            raise InputError(f"{where}: 'id' is {shown(category_id)}; expected an integer")
        if category_id in seen:
            raise InputError(f"{where}: 'id' {category_id} occurs twice; expected unique ids")
        seen.add(category_id)
        name = row.get("name")
        has_color = isinstance(color, list | tuple) and len(color) == 3
        has_color = has_color and all(is_integer(c) and 0 <= c <= 255 for c in color)
        for key, right, expected in (
            ("name", isinstance(name, str) and name, "text"),
            ("isthing", row.get("isthing") in (0, 1), "0 or 1, as in a panoptic json"),
            ("color", color is None or has_color, "three integers from 0 to 255"),
        ):
            if not right:
                raise InputError(f"{where}: '{key}' is {shown(row.get(key))}; expected {expected}")
    colors = category_colors(rows)
    return [
        Category(
            row["id"],
            row["name"],
            _label(row["name"], row["id"]),
            bool(row["isthing"]),
            colors[row["id"]],
        )
        for row in rows
    ]


def _label(name: str, category_id: int) -> str:
    """Return a class name for pictures: one line, "id N" where their font lacks a letter of it."""
    label = " ".join(name.split())
    drawable = all(ord(letter) in _drawable_letters() for letter in label)
    return label if label and drawable and label.isprintable() else f"id {category_id}"


@functools.cache
def _drawable_letters() -> Sequence[int] | Mapping[int, int]:
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return FT2Font(str(font)).get_charmap()
