"""COCO's test images, which have no annotations: lists of images, and their registration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from ocr_panoptic.errors import InputError

from .checks import check_dataset_files
from .json_problems import image_problems
from .panoptic_json import load_json

__all__ = ["TEST_LISTS", "load_image_info", "load_test_images", "register_all_test_images"]

TEST_LISTS = {
    "coco_2017_test-dev_panoptic": "coco/annotations/image_info_test-dev2017.json",
    "coco_2017_test_panoptic": "coco/annotations/image_info_test2017.json",
}
"""Name of a data set -> its list of images. All of test2017 is the test-challenge split."""
_IMAGES = "coco/test2017"


def load_image_info(path: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """Read the ``images`` of a COCO json, with or without annotations.

    Returns:
        image id -> its row, with ``file_name``, ``height`` and ``width`` (pixels), in the file's
        order.

    Raises:
        InputError: the file is missing or broken, an id or a name (but for its suffix) occurs
            twice, or a field is missing or wrong: names the file, the image, the field and what was
            expected.
    """
    rows = load_json(path, ("images",))["images"]
    for problem in image_problems(path, rows):
        raise InputError(problem.message)
    if not rows:
        raise InputError(f"{path}: 'images' is empty; expected a list of images")
    return {row["id"]: row for row in rows}


def load_test_images(name: str) -> list[dict[str, Any]]:
    """Return the images of a registered data set without annotations as Detectron2's dicts.

    Args:
        name: a data set whose metadata has ``json_file``, the list of images, and ``image_root``.

    Returns:
        A dict with ``file_name``, ``image_id``, ``height`` and ``width`` for each image.

    Raises:
        InputError: if the list or an image is missing; names it.
    """
    check_dataset_files(name)
    metadata = MetadataCatalog.get(name)
    return [
        {
            "file_name": str(Path(metadata.image_root, row["file_name"])),
            "image_id": image_id,
            "height": row["height"],
            "width": row["width"],
        }
        for image_id, row in load_image_info(metadata.json_file).items()
    ]


def register_all_test_images(root: str | os.PathLike[str]) -> None:
    """Register :data:`TEST_LISTS`, with the classes of Detectron2's separated COCO panoptic.

    Their ``evaluator_type`` is "coco_panoptic_results": results are written, not scored.

    Args:
        root: the folder of data sets, ``$DETECTRON2_DATASETS``. Nothing in it needs to exist yet.

    Raises:
        AssertionError: from Detectron2, if a name is taken.
    """
    for name, image_list in TEST_LISTS.items():
        DatasetCatalog.register(name, lambda name=name: load_test_images(name))
        MetadataCatalog.get(name).set(
            image_root=os.path.join(root, _IMAGES),
            json_file=os.path.join(root, image_list),
            evaluator_type="coco_panoptic_results",
            ignore_label=255,
            **_get_builtin_metadata("coco_panoptic_separated"),
        )
