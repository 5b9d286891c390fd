"""What a result file is made for: the task, the split, the list of images and the categories."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ocr_panoptic.data.panoptic_json import load_json
from ocr_panoptic.data.test_dev import load_image_info
from ocr_panoptic.errors import InputError

__all__ = [
    "MAX_DETECTIONS",
    "SPLITS",
    "TASKS",
    "ListedImage",
    "Target",
    "load_target",
    "parse_name",
    "result_name",
    "split_of_list",
]

TASKS = ("panoptic", "segm", "bbox")
"""What is scored: panoptic segmentation, instance masks, boxes."""
SPLITS = {
    "val2017": "val2017",
    "test-dev2017": "test-dev2017",
    "test-challenge2017": "test2017",
}
"""Split -> how COCO names its list of images."""
MAX_DETECTIONS = 100
"""Detections of an image that count."""

_ALGORITHM = r"[A-Za-z0-9_-]{1,100}"
_NAME = re.compile(rf"(panoptic|detections)_({'|'.join(SPLITS)})_{_ALGORITHM}_results")
_SPLIT = re.compile(r"(?:train|val|test-dev|test-challenge|test)2017")


@dataclass(frozen=True)
class ListedImage:
    """An image that results are expected for."""

    png: str
    """Name of its panoptic PNG."""
    height: int
    width: int


@dataclass(frozen=True)
class Target:
    """The images and the categories that results may name."""

    image_info: str
    """Path of the list of images."""
    images: dict[int, ListedImage]
    categories: frozenset[int]


def result_name(task: str, split: str, algorithm: str) -> str:
    """Return the name of a result file without suffix, ``TYPE_SPLIT_ALGORITHM_results``.

    Masks and boxes are both of the type "detections".

    Raises:
        InputError: for an algorithm's name with other characters than the servers' tools expect.
    """
    if not re.fullmatch(_ALGORITHM, algorithm):
        raise InputError(
            f"--alg: {algorithm!r}, expected 1 to 100 letters, digits, hyphens and underscores"
        )
    return f"{'panoptic' if task == 'panoptic' else 'detections'}_{split}_{algorithm}_results"


def parse_name(stem: str) -> tuple[str, str] | None:
    """Return type and split of a result file's name without suffix, None where it is no such."""
    match = _NAME.fullmatch(stem)
    return (match[1], match[2]) if match else None


def split_of_list(path: str | os.PathLike[str], split: str) -> str | None:
    """Return the split that a list's name tells, if it is another one than ``split``."""
    match = _SPLIT.search(Path(path).name)
    return match[0] if match and match[0] not in (split, SPLITS[split]) else None


def load_target(
    panoptic: bool, image_info: str | os.PathLike[str], categories: str | os.PathLike[str] | None
) -> Target:
    """Read what results may name.

    Args:
        panoptic: things and stuff; otherwise things only.
        image_info: a COCO json with ``images``, such as ``image_info_test-dev2017.json`` or the
            annotations of a split.
        categories: a panoptic json with ``categories``; None for those of ``image_info``, or
            COCO's where it has none or, for panoptic, has COCO's without ``isthing``.

    Raises:
        InputError: a file is missing or broken, two images would have one PNG, or the categories
            cannot be told.
    """
    images: dict[int, ListedImage] = {}
    pngs = set()
    for image_id, row in load_image_info(image_info).items():
        png = PurePosixPath(row["file_name"]).stem + ".png"
        if png in pngs:
            raise InputError(
                f"{image_info}: image id {image_id}: 'file_name' {row['file_name']}: another image"
                f" has the PNG {png} too; expected different names, as folders are no part of PNGs'"
            )
        try:
            png.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{image_info}: image id {image_id}: 'file_name' {row['file_name']}; expected text,"
                " as a zip names its files by it"
            ) from error
        pngs.add(png)
        images[image_id] = ListedImage(png, row["height"], row["width"])
    return Target(str(image_info), images, _category_ids(panoptic, image_info, categories))


def _category_ids(
    panoptic: bool, image_info: str | os.PathLike[str], categories: str | os.PathLike[str] | None
) -> frozenset[int]:
    path = image_info if categories is None else categories
    rows = load_json(path, () if categories is None else ("categories",)).get("categories")
    if categories is None and rows is None:
        rows = COCO_CATEGORIES
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) and type(row.get("id")) is int for row in rows)
    ):
        raise InputError(
            f"{path}: 'categories' is no list of objects with an integer 'id'; expected COCO's form"
        )
    if panoptic and not all(row.get("isthing") in (0, 1) for row in rows):
        known = {(row["id"], row["name"]) for row in COCO_CATEGORIES}
        if categories is not None or not {(row["id"], row.get("name")) for row in rows} <= known:
            raise InputError(
                f"{path}: a category has no 'isthing'; expected --categories with a panoptic json,"
                " such as panoptic_val2017.json"
            )
        rows = COCO_CATEGORIES
    return frozenset(row["id"] for row in rows if panoptic or row.get("isthing", 1))
