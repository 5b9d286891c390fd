"""Checks of a registered dataset and a config, before anything is loaded.

Detectron2's loaders drop images without a partner, or stop at them with a bare KeyError, and a
wrong number of classes shows only as a CUDA assert.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ocr_panoptic.data.panoptic_json import load_json
from ocr_panoptic.errors import InputError

__all__ = ["check_dataset_files", "check_num_classes"]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def check_dataset_files(dataset_name: str) -> None:
    """Check that the files of a registered dataset are there.

    What its metadata names is checked: ``json_file``, ``panoptic_json``, ``image_root``,
    ``sem_seg_root`` and ``panoptic_root``. Images are those of the json; without a json, image and
    semantic label are matched by name, and each needs its partner.

    Args:
        dataset_name: a name in Detectron2's ``DatasetCatalog``.

    Raises:
        InputError: the name is not registered, a json is missing or broken, or an image or its
            label is missing: names the first and says how many more.
    """
    metadata = _registered_metadata(dataset_name)
    jsons = {
        key: load_json(PathManager.get_local_path(metadata.get(key)), lists)
        for key, lists in (
            ("json_file", ("images",)),
            ("panoptic_json", ("images", "annotations")),
        )
        if metadata.get(key) is not None
    }
    if not jsons:
        _check_pairs(dataset_name, metadata)
        return

    # Detectron2 takes the images from the instances json.
    images = jsons.get("json_file", jsons.get("panoptic_json"))["images"]
    # LVIS names its images by address only.
    image_names = [
        _file_name(dataset_name, i) for i in images if "coco_url" not in i or "file_name" in i
    ]
    panoptic_names = []
    if "panoptic_json" in jsons:
        annotations = jsons["panoptic_json"]["annotations"]
        names = {a.get("image_id"): _file_name(dataset_name, a) for a in annotations}
        without = [image for image in images if image.get("id") not in names]
        if without:
            raise InputError(
                f"{metadata.panoptic_json}: no annotation of image id {without[0].get('id')}"
                f"{_and_more(len(without) - 1)}; expected one for each image of dataset"
                f" {dataset_name}"
            )
        panoptic_names = [names[image.get("id")] for image in images]
    # Detectron2 pairs semantic labels with images by name.
    semantic_names = [str(PurePath(name).with_suffix(".png")) for name in image_names]
    for key, kind, names in (
        ("image_root", "image", image_names),
        ("panoptic_root", "panoptic PNG", panoptic_names),
        ("sem_seg_root", "semantic PNG", semantic_names),
    ):
        if metadata.get(key) is not None:
            _check_files(dataset_name, kind, metadata.get(key), names)


def check_num_classes(cfg: CfgNode) -> None:
    """Check a config's numbers of classes against its datasets, DATASETS.TRAIN and TEST.

    ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` is checked where the meta-architecture has a semantic head
    ("Panoptic" in its name, or SemanticSegmentor), ``MODEL.ROI_HEADS.NUM_CLASSES`` where it has
    boxes ("PanopticFPN" or "RCNN" in its name).

    Raises:
        InputError: names the key, its value, the dataset and the value it asks for; or a dataset
            that is not registered, or whose metadata has no class names.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    checks = []
    if "Panoptic" in architecture or architecture == "SemanticSegmentor":
        checks.append(("SEM_SEG_HEAD", "stuff_classes"))
    if "PanopticFPN" in architecture or "RCNN" in architecture:
        checks.append(("ROI_HEADS", "thing_classes"))
    for dataset_name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = _registered_metadata(dataset_name)
        for node, field in checks:
            classes = _class_names(metadata, field)
            if classes is None:
                raise InputError(
                    f"dataset {dataset_name}: its metadata has no {field}; expected the class names"
                    f" that MODEL.{node}.NUM_CLASSES counts"
                )
            value = cfg.MODEL[node].NUM_CLASSES
            if value != len(classes):
                raise InputError(
                    f"MODEL.{node}.NUM_CLASSES is {value}; expected {len(classes)}, the number of"
                    f" {field} of dataset {dataset_name} ({', '.join(map(str, classes[:3]))}"
                    f"{', ...' if len(classes) > 3 else ''})"
                )


def _registered_metadata(dataset_name: str) -> Metadata:
    names = DatasetCatalog.list()
    if dataset_name not in names:
        close = difflib.get_close_matches(dataset_name, names)
        hint = f"did you mean {' or '.join(close)}" if close else "no name is close to it"
        raise InputError(f"dataset '{dataset_name}' is not registered; {hint}")
    return MetadataCatalog.get(dataset_name)


def _class_names(metadata: Metadata, field: str) -> list | None:
    if metadata.get(field) is not None:
        return metadata.get(field)
    if field == "thing_classes" and metadata.get("json_file") is not None:
        # Detectron2 fills them in from the json only when the dataset is loaded.
        path = PathManager.get_local_path(metadata.json_file)
        categories = load_json(path, ("categories",))["categories"]
        return [category.get("name") for category in categories]
    return None


def _file_name(dataset_name: str, row: dict) -> str:
    if not isinstance(row.get("file_name"), str):
        raise InputError(
            f"dataset {dataset_name}: an entry of its json, id"
            f" {row.get('id', row.get('image_id'))}, has no 'file_name'; expected text"
        )
    return row["file_name"]


def _check_files(dataset_name: str, kind: str, root: str, names: Iterable[str]) -> None:
    folders = defaultdict(list)
    for name in names:
        path = PurePath(root, name)
        folders[str(path.parent)].append(path.name)
    missing = []
    # One listing for each folder: far quicker than asking for each file on a network disk.
    for folder, file_names in folders.items():
        present = set(_list_folder(dataset_name, kind, folder))
        missing += [str(PurePath(folder, name)) for name in file_names if name not in present]
    _raise_if_missing(dataset_name, kind, missing)


def _check_pairs(dataset_name: str, metadata: Metadata) -> None:
    """Check a semantic dataset without json: images and labels pair by name."""
    image_root, label_root = metadata.get("image_root"), metadata.get("sem_seg_root")
    if image_root is None or label_root is None:
        return
    images = _stems(_list_folder(dataset_name, "image", image_root), _IMAGE_SUFFIXES)
    labels = _stems(_list_folder(dataset_name, "semantic PNG", label_root), (".png",))
    if not images:
        raise InputError(f"{image_root}: holds no image; expected those of dataset {dataset_name}")
    for kind, root, suffix, stems in (
        ("semantic PNG", label_root, ".png", images - labels),
        ("image", image_root, ".jpg", labels - images),
    ):
        missing = [str(PurePath(root, stem + suffix)) for stem in sorted(stems)]
        _raise_if_missing(dataset_name, kind, missing)


def _stems(names: Iterable[str], suffixes: tuple[str, ...]) -> set[str]:
    return {PurePath(name).stem for name in names if name.lower().endswith(suffixes)}


def _list_folder(dataset_name: str, kind: str, folder: str) -> list[str]:
    if not PathManager.isdir(folder):
        raise InputError(
            f"{folder}: no such folder; expected each {kind} of dataset {dataset_name}"
            " (the data folder is $DETECTRON2_DATASETS, ./datasets by default)"
        )
    return PathManager.ls(folder)


def _raise_if_missing(dataset_name: str, kind: str, missing: list[str]) -> None:
    if missing:
        raise InputError(
            f"{missing[0]}{_and_more(len(missing) - 1)}: missing;"
            f" expected as {kind} of dataset {dataset_name}"
        )


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""
