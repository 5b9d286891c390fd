"""A panoptic data set in Detectron2's catalogs, from one COCO panoptic json."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ocr_panoptic.data.coco_panoptic import semantic_labels
from ocr_panoptic.data.colors import category_colors
from ocr_panoptic.data.derived import (
    DerivedData,
    PanopticSource,
    derive,
    read_panoptic_json,
)
from ocr_panoptic.errors import InputError

__all__ = [
    "NO_THINGS",
    "derive_dataset",
    "is_registered",
    "panoptic_metadata",
    "panoptic_names",
    "register_coco_panoptic",
]

NO_THINGS = "no things"
"""The one thing class of a data set without things, as Detectron2 cannot do with none."""

# Suffix of the name -> Detectron2's evaluator_type.
_TASKS = {"": "coco_panoptic_seg", "_instances": "coco", "_stuffonly": "sem_seg"}
_THINGS_COLOR = [82, 18, 128]  # Detectron2's colour of the merged things of COCO.

_logger = logging.getLogger(__name__)


@dataclass
class _Registered:
    """A data set that :func:`register_coco_panoptic` registered under up to three names."""

    source: PanopticSource
    names: tuple[str, ...]
    num_processes: int | None
    derived: DerivedData | None = None


# Each of the names -> the data set.
_registered: dict[str, _Registered] = {}


def register_coco_panoptic(
    name: str,
    image_root: str | Path,
    panoptic_json: str | Path,
    panoptic_root: str | Path,
    *,
    cache_root: str | Path | None = None,
    num_processes: int | None = None,
    derive_now: bool = True,
) -> None:
    """Register a panoptic data set from a COCO panoptic json, its PNGs and its images.

    Three names are registered: ``name`` for Panoptic-FPN (evaluator type "coco_panoptic_seg"),
    ``name_stuffonly`` for its semantic labels ("sem_seg") and, if there are things,
    ``name_instances`` for its instances ("coco"). What was registered by this function under
    ``name`` before is replaced. In a run of several processes, each one registers. In a script of
    one's own, the call stands under ``if __name__ == "__main__":`` or ``num_processes`` is 1, as
    processes that share the images import the script.

    Semantic PNGs and instances are derived into a folder of their own and found there again, until
    the data set changes; see :mod:`ocr_panoptic.data.derived`. ``panoptic_json`` of the metadata is
    a copy in that folder, with the areas that the PNGs have.

    Args:
        name: letters, digits and ``_ . -``; it also names a folder of results.
        image_root: folder of the images, 8 bits per channel, sizes as EXIF turns them.
        panoptic_json: COCO panoptic json; ids of categories need not be contiguous.
        panoptic_root: folder of its 8-bit RGB PNGs.
        cache_root: folder for what is derived; None for ``$OCR_PANOPTIC_CACHE``, and without that
            for the json's own folder or, where nothing can be written there, ``~/.cache``.
        num_processes: processes that derive, None for one per CPU.
        derive_now: False to derive when the data set is first loaded.

    Raises:
        InputError: the name is taken or cannot be a name, or a file is missing or wrong; names it.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise InputError(
            f"data set name {name!r}: expected letters, digits, '_', '.' and '-' (not in front)"
        )
    source = PanopticSource(
        Path(image_root),
        Path(panoptic_json),
        Path(panoptic_root),
        None if cache_root is None else Path(cache_root),
    )
    categories = read_panoptic_json(source.panoptic_json).categories
    metadata = panoptic_metadata(categories, source.panoptic_json)
    has_things = metadata["thing_classes"] != [NO_THINGS]
    names = {name + end: kind for end, kind in _TASKS.items() if has_things or kind != "coco"}
    _make_room(name, list(names))
    registered = _Registered(source, tuple(names), num_processes)
    for each, kind in names.items():
        DatasetCatalog.register(each, lambda each=each, kind=kind: _load(each, kind))
        MetadataCatalog.get(each).set(
            evaluator_type=kind,
            ignore_label=255,
            image_root=str(source.image_root),
            **metadata,
        )
        _registered[each] = registered
    if derive_now:
        derive_dataset(name)


def panoptic_names(name: str) -> tuple[str, ...]:
    """Return the names that :func:`register_coco_panoptic` may register for ``name``."""
    return tuple(name + end for end in _TASKS)


def _make_room(name: str, names: Sequence[str]) -> None:
    """Remove what this module registered as ``name`` before."""
    ours = ()
    if name in _registered and _registered[name].names[0] == name:
        ours = _registered[name].names
    for each in names:
        if each in DatasetCatalog.list() and each not in ours:
            raise InputError(
                f"data set name '{name}': '{each}' is the name of another data set; expected a new"
                " one"
            )
    for each in ours:
        del _registered[each]
        if each in DatasetCatalog.list():
            DatasetCatalog.remove(each)
    # Metadata can exist without a data set, and keeps the first value that it was given.
    for each in {*ours, *names} & set(MetadataCatalog.list()):
        MetadataCatalog.remove(each)


def is_registered(name: str) -> bool:
    """Return whether ``name`` is one of those that :func:`register_coco_panoptic` registered."""
    return name in _registered and name in DatasetCatalog.list()


def derive_dataset(name: str) -> DerivedData:
    """Derive what a registered data set needs, if that has not been done, and tell its metadata.

    Args:
        name: a name that :func:`register_coco_panoptic` registered.

    Raises:
        InputError: a file is missing or wrong; names it.
    """
    registered = _registered[name]
    if registered.derived is None:
        derived = derive(registered.source, registered.num_processes)
        if derived.is_new:
            _logger.info(f"data set {registered.names[0]}: derived data in {derived.folder}")
        for each in registered.names:
            metadata = MetadataCatalog.get(each)
            if metadata.evaluator_type != "coco":
                metadata.sem_seg_root = str(derived.semantic_root)
                metadata.panoptic_json = str(derived.panoptic_json)
            if metadata.evaluator_type != "sem_seg":
                metadata.json_file = str(derived.instances_json)
            if metadata.evaluator_type == "coco_panoptic_seg":
                metadata.panoptic_root = str(registered.source.panoptic_root)
        registered.derived = derived
    return registered.derived


def _load(name: str, evaluator_type: str) -> list[dict]:
    """Return Detectron2's dicts: every image of the json, in the order of the ids."""
    derived = derive_dataset(name)
    image_root = _registered[name].source.image_root
    # Without a name, Detectron2 leaves the ids and the metadata alone.
    dicts = load_coco_json(str(derived.instances_json), str(image_root))
    contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    for record in dicts:
        if evaluator_type == "sem_seg":
            del record["annotations"]
        else:
            for annotation in record["annotations"]:
                annotation["category_id"] = contiguous[annotation["category_id"]]
        if evaluator_type != "coco":
            relative = PurePosixPath(record["file_name"]).relative_to(image_root.as_posix())
            label = derived.semantic_root / relative.with_suffix(".png")
            record["sem_seg_file_name"] = str(label)
    return dicts


def panoptic_metadata(categories: Sequence[dict], source: str | Path = "categories") -> dict:
    """Return the metadata of a panoptic data set, in the fields that Detectron2 uses for COCO.

    Classes are in the order of the category ids. Colours are those of
    :func:`~ocr_panoptic.data.colors.category_colors`.

    Args:
        categories: of a COCO panoptic json, checked.
        source: what an error names, the json they come from.

    Returns:
        ``thing_classes``, ``thing_colors``, ``thing_dataset_id_to_contiguous_id``,
        ``stuff_classes``, ``stuff_colors`` and ``stuff_dataset_id_to_contiguous_id``. The first
        stuff class is the merged "things", under an id that no category has, 0 if it is free.
        Without things, the one thing class is :data:`NO_THINGS`, of which there is no instance.

    Raises:
        InputError: no or too many classes, or a ``color`` that is none; names the category.
    """
    if not categories:
        raise InputError(f"{source}: 'categories' is empty; expected at least one")
    labels = semantic_labels(categories, source)
    categories = sorted(categories, key=lambda category: category["id"])
    things = [category for category in categories if category["isthing"]]
    stuff = [category for category in categories if not category["isthing"]]
    for category in categories:
        _check_color(category, source)
    colors = {key: list(color) for key, color in category_colors(categories).items()}
    free = max(category["id"] for category in categories) + 1
    metadata = {
        "thing_classes": [category["name"] for category in things],
        "thing_colors": [colors[category["id"]] for category in things],
        "thing_dataset_id_to_contiguous_id": {
            category["id"]: label for label, category in enumerate(things)
        },
        "stuff_classes": ["things", *(category["name"] for category in stuff)],
        "stuff_colors": [_THINGS_COLOR, *(colors[category["id"]] for category in stuff)],
        "stuff_dataset_id_to_contiguous_id": {
            (free if any(category["id"] == 0 for category in stuff) else 0): 0,
            **{category["id"]: labels[category["id"]] for category in stuff},
        },
    }
    if not things:
        metadata["thing_classes"] = [NO_THINGS]
        metadata["thing_colors"] = [_THINGS_COLOR]
        metadata["thing_dataset_id_to_contiguous_id"] = {free + 1: 0}
    return metadata


def _check_color(category: dict, source: str | Path) -> None:
    color = category.get("color")
    if color is not None and (
        not isinstance(color, list)
        or len(color) != 3
        or not all(type(channel) is int and 0 <= channel <= 255 for channel in color)
    ):
        raise InputError(
            f"{source}: category id {category['id']}: 'color' is {color!r};"
            " expected [red, green, blue], each 0 to 255"
        )
