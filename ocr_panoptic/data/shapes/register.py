"""Shapes in Detectron2's catalogs."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic_separated

from .difficulty import DIFFICULTIES, get_difficulty
from .scene import SPLITS

__all__ = [
    "register_all_shapes",
    "register_shapes",
    "register_shapes_instances",
    "shapes_metadata",
]

_THINGS_COLOR = [82, 18, 128]  # Detectron2's colour of the merged things of COCO.


def shapes_metadata(difficulty: str) -> dict:
    """Return the metadata of Shapes, in the fields that Detectron2 uses for COCO.

    Args:
        difficulty: ``"easy"`` or ``"hard"``.

    Returns:
        ``thing_classes``, ``thing_colors``, ``thing_dataset_id_to_contiguous_id``,
        ``stuff_classes``, ``stuff_colors`` and ``stuff_dataset_id_to_contiguous_id``. The first
        stuff class is the merged "things", whose id 0 maps to 0.

    Raises:
        InputError: if there is no such difficulty.
    """
    parameters = get_difficulty(difficulty)
    return {
        "thing_classes": [category.name for category in parameters.things],
        "thing_colors": [list(category.color) for category in parameters.things],
        "thing_dataset_id_to_contiguous_id": {
            category.id: label for label, category in enumerate(parameters.things)
        },
        "stuff_classes": ["things", *(category.name for category in parameters.stuff)],
        "stuff_colors": [_THINGS_COLOR, *(list(category.color) for category in parameters.stuff)],
        "stuff_dataset_id_to_contiguous_id": {
            0: 0,
            **{category.id: label for label, category in enumerate(parameters.stuff, 1)},
        },
    }


def register_shapes(
    name: str, root: str | os.PathLike[str], split: str, difficulty: str = "easy"
) -> None:
    """Register ``NAME_separated`` (Panoptic-FPN) and ``NAME_stuffonly`` (semantic segmentation).

    Args:
        name: the prefix of the two names, such as ``"shapes_easy_train_panoptic"``.
        root: folder made by ``datasets/prepare_shapes.py``; read when the data set is first used.
        split: ``"train"`` or ``"val"``.
        difficulty: the one it was made with.

    Raises:
        InputError: if there is no such difficulty.
        AssertionError: from Detectron2, if a name is taken.
    """
    root = Path(root)
    register_coco_panoptic_separated(
        name,
        shapes_metadata(difficulty),
        image_root=str(root / split),
        panoptic_root=str(root / f"panoptic_{split}"),
        panoptic_json=str(root / "annotations" / f"panoptic_{split}.json"),
        sem_seg_root=str(root / f"panoptic_stuff_{split}"),
        instances_json=str(root / "annotations" / f"instances_{split}.json"),
    )


def register_shapes_instances(
    name: str, root: str | os.PathLike[str], split: str, difficulty: str = "easy"
) -> None:
    """Register ``NAME`` for instance segmentation (evaluator type "coco").

    Args:
        name: the name.
        root: as in :func:`register_shapes`.
        split: ``"train"`` or ``"val"``.
        difficulty: the one it was made with.

    Raises:
        InputError: if there is no such difficulty.
        AssertionError: from Detectron2, if the name is taken.
    """
    root = Path(root)
    metadata = shapes_metadata(difficulty)
    register_coco_instances(
        name,
        {key: value for key, value in metadata.items() if key.startswith("thing_")},
        json_file=str(root / "annotations" / f"instances_{split}.json"),
        image_root=str(root / split),
    )


def register_all_shapes(root: str | os.PathLike[str]) -> None:
    """Register every split of ``ROOT/shapes_easy`` and ``ROOT/shapes_hard``.

    The names are ``shapes_easy_train`` (instances), ``shapes_easy_train_panoptic_separated`` and
    ``shapes_easy_train_panoptic_stuffonly``, and so on for ``hard`` and ``val``.

    Args:
        root: the folder of data sets, ``$DETECTRON2_DATASETS``. Nothing in it needs to exist yet.

    Raises:
        AssertionError: from Detectron2, if a name is taken.
    """
    for difficulty in DIFFICULTIES:
        for split in SPLITS:
            name, folder = f"shapes_{difficulty}_{split}", Path(root) / f"shapes_{difficulty}"
            register_shapes_instances(name, folder, split, difficulty)
            register_shapes(f"{name}_panoptic", folder, split, difficulty)
