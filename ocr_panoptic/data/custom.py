"""Data sets that a config lists itself, under DATASETS.CUSTOM."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ocr_panoptic.config_files import config_chain, value_at
from ocr_panoptic.data.register import (
    NO_THINGS,
    derive_dataset,
    is_registered,
    panoptic_names,
    register_coco_panoptic,
)
from ocr_panoptic.errors import InputError

__all__ = [
    "derive_custom_datasets",
    "explicit_num_classes",
    "register_custom_datasets",
    "set_num_classes",
]

_SEMANTIC, _INSTANCES = "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"
_FIELDS = ("NAME", "IMAGE_ROOT", "PANOPTIC_JSON", "PANOPTIC_ROOT")


def register_custom_datasets(
    cfg: CfgNode, *, again: bool = False, missing_ok: bool = False
) -> None:
    """Register the data sets of DATASETS.CUSTOM that DATASETS.TRAIN or TEST names.

    Only their jsons are read: nothing is derived yet. ``~`` and ``$VARIABLE`` in a path are
    replaced; a relative path starts at the current folder.

    Args:
        cfg: of a run.
        again: register also what is registered already, as its json may have changed.
        missing_ok: leave out a data set whose json does not exist.

    Raises:
        InputError: an entry is not as expected, or its json is missing or wrong; names it.
    """
    used = set(_used(cfg))
    for entry in _entries(cfg):
        names = panoptic_names(entry["NAME"])
        if used.isdisjoint(names) or (not again and is_registered(entry["NAME"])):
            continue
        panoptic_json = _path(entry["PANOPTIC_JSON"])
        if missing_ok and not panoptic_json.exists():
            continue
        register_coco_panoptic(
            entry["NAME"],
            _path(entry["IMAGE_ROOT"]),
            panoptic_json,
            _path(entry["PANOPTIC_ROOT"]),
            cache_root=_path(cfg.DATASETS.CACHE) if cfg.DATASETS.CACHE else None,
            derive_now=False,
        )


def _entries(cfg: CfgNode) -> list[dict[str, str]]:
    names = set()
    if not isinstance(cfg.DATASETS.CUSTOM, list | tuple):
        raise InputError(f"DATASETS.CUSTOM: {cfg.DATASETS.CUSTOM}, expected a list of data sets")
    for position, entry in enumerate(cfg.DATASETS.CUSTOM):
        where = f"DATASETS.CUSTOM[{position}]"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: {entry!r}, expected a mapping with {', '.join(_FIELDS)}")
        for key in entry:
            if key not in _FIELDS:
                close = difflib.get_close_matches(str(key), _FIELDS) or _FIELDS
                raise InputError(f"{where}: unknown key {key!r}, expected {' or '.join(close)}")
        for key in _FIELDS:
            if not isinstance(entry.get(key), str) or not entry[key]:
                found = repr(entry[key]) if key in entry else "missing"
                raise InputError(f"{where}: {key} is {found}, expected text")
        if entry["NAME"] in names:
            raise InputError(f"{where}: NAME {entry['NAME']} occurs twice, expected unique names")
        names.add(entry["NAME"])
    return list(cfg.DATASETS.CUSTOM)


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _used(cfg: CfgNode) -> list[str]:
    # None can override a value of any type; the check of the config tells.
    lists = (names for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) if names is not None)
    return [name for names in lists for name in names if isinstance(name, str)]


def explicit_num_classes(config_file: str, overrides: Sequence[str]) -> set[str]:
    """Return which NUM_CLASSES are the user's own, not those of a config that his is based on.

    His are the overrides, and the files from ``config_file`` down its ``_BASE_`` to the first that
    sets DATASETS.CUSTOM; only ``config_file`` where none does.

    Args:
        config_file: a yaml config that could be read.
        overrides: keys and values in turn.
    """
    found = {key for key in overrides[::2] if key in (_SEMANTIC, _INSTANCES)}
    if "DATASETS.CUSTOM" in overrides[::2]:
        return found
    chain = [file.content for file in config_chain(config_file)]
    last = next((i for i, each in enumerate(chain) if value_at(each, "DATASETS.CUSTOM")), 0)
    for each in chain[: last + 1]:
        found |= {key for key in (_SEMANTIC, _INSTANCES) if value_at(each, key) is not None}
    return found


def set_num_classes(cfg: CfgNode, explicit: Collection[str] = ()) -> None:
    """Set both NUM_CLASSES as the registered panoptic data sets of TRAIN and TEST have it.

    Without things, no instance is ever let through: Detectron2 cannot do without a thing class,
    and its boxes, which learn nothing then, must not cover the stuff.

    Args:
        cfg: changed in place; left alone if TRAIN and TEST name no such data set.
        explicit: keys that are not changed, from :func:`explicit_num_classes`.

    Raises:
        InputError: two of the data sets have other classes; names them.
    """
    names = [name for name in _used(cfg) if is_registered(name)]
    if not names:
        return
    first = MetadataCatalog.get(names[0])
    for name in names[1:]:
        for field in ("thing_classes", "stuff_classes"):
            classes, expected = MetadataCatalog.get(name).get(field), first.get(field)
            if classes != expected:
                raise InputError(
                    f"data set {name}: its {field} are {_shown(classes)}; expected those of"
                    f" {names[0]}, {_shown(expected)}"
                )
    for key, classes in ((_SEMANTIC, first.stuff_classes), (_INSTANCES, first.thing_classes)):
        if key not in explicit:
            cfg.merge_from_list([key, len(classes)])
    if first.thing_classes == [NO_THINGS]:
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0


def _shown(classes: list[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"


def derive_custom_datasets(cfg: CfgNode, *, train: bool) -> list[str]:
    """Derive what the registered panoptic data sets of a run need, before the run.

    Args:
        cfg: of a run.
        train: whether DATASETS.TRAIN is going to be read.

    Returns:
        What a user should know, a line each: both NUM_CLASSES, where it was derived, wrong areas,
        dropped images.

    Raises:
        InputError: a file is missing or wrong, or no image would be trained on; names it.
    """
    said = []
    training = cfg.DATASETS.TRAIN if train else ()
    names = [name for name in (*training, *cfg.DATASETS.TEST) if is_registered(name)]
    if names:
        semantic, instances = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.ROI_HEADS
        said.append(
            f"{_SEMANTIC} {semantic.NUM_CLASSES}, {_INSTANCES} {instances.NUM_CLASSES}: as data set"
            f" {names[0]} has"
        )
        if MetadataCatalog.get(names[0]).thing_classes == [NO_THINGS]:
            said.append(
                f"MODEL.ROI_HEADS.SCORE_THRESH_TEST {instances.SCORE_THRESH_TEST}: data set"
                f" {names[0]} has no things, so no instance is predicted"
            )
    for name in dict.fromkeys(names):
        derived = derive_dataset(name)
        if derived.is_new:
            said.append(f"data set {name}: semantic labels and instances are in {derived.folder}")
        if derived.num_wrong_areas:
            said.append(
                f"data set {name}: the json says another 'area' than the PNG for"
                f" {derived.num_wrong_areas} segments; the PNG's are used"
            )
        dropped = derived.num_images_without_instance
        has_instances = MetadataCatalog.get(name).get("json_file") is not None
        if name in training and has_instances and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
            if dropped == derived.num_images:
                raise InputError(
                    f"{key}: True, but no image of data set {name} has an instance; expected False"
                )
            if dropped:
                said.append(
                    f"{key}: True drops {dropped} of {derived.num_images} images of data set"
                    f" {name}, without instance, from training; False keeps them"
                )
    return said
