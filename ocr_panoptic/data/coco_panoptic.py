"""Semantic PNGs and an instances json, derived from one COCO panoptic json and its PNGs.

Panoptic-FPN in Detectron2 learns from two ground truths: instances, and a semantic map in which all
things are one class. Both are in the panoptic ground truth already, so they are derived from it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ocr_panoptic.data.images import check_image
from ocr_panoptic.data.panoptic_json import load_panoptic_json, read_panoptic_png
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing_folder, require_folder, write_text
from ocr_panoptic.parallel import parallel_map

__all__ = [
    "IGNORE_LABEL",
    "MAX_STUFF_CLASSES",
    "THINGS_LABEL",
    "PreparedDataset",
    "default_instances_json",
    "default_semantic_root",
    "prepare_coco_panoptic",
    "semantic_labels",
]

THINGS_LABEL = 0
"""Semantic label that all things share."""

IGNORE_LABEL = 255
"""Semantic label of pixels without a segment."""

MAX_STUFF_CLASSES = IGNORE_LABEL - 1
"""What an 8-bit label holds beside :data:`THINGS_LABEL` and :data:`IGNORE_LABEL`."""


@dataclass(frozen=True)
class PreparedDataset:
    """What :func:`prepare_coco_panoptic` made, and what a config must say about it.

    Attributes:
        semantic_root: folder of the semantic PNGs.
        semantic_written: False where the folder existed and was left alone.
        instances_json: the instances json.
        instances_written: False where the file existed and was left alone.
        num_images: images of the panoptic json.
        num_instances: annotations written to the instances json, 0 where it was left alone.
        num_sem_seg_classes: stuff classes + 1, for ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
        num_thing_classes: for ``MODEL.ROI_HEADS.NUM_CLASSES``.
        num_wrong_areas: segments whose ``area`` in the panoptic json is not that of the PNG; 0
            where no complete json was asked for.
    """

    semantic_root: Path
    semantic_written: bool
    instances_json: Path
    instances_written: bool
    num_images: int
    num_instances: int
    num_sem_seg_classes: int
    num_thing_classes: int
    num_wrong_areas: int


def default_semantic_root(panoptic_root: str | Path) -> Path:
    """Return the folder beside ``panoptic_root`` that Detectron2's COCO names expect.

    Raises:
        InputError: the folder's name has no ``panoptic_`` to replace by ``panoptic_stuff_``.
    """
    return _sibling(panoptic_root, "panoptic_stuff_", "--semantic-root")


def default_instances_json(panoptic_json: str | Path) -> Path:
    """Return the json beside ``panoptic_json`` that Detectron2's COCO names expect.

    Raises:
        InputError: the file's name has no ``panoptic_`` to replace by ``instances_``.
    """
    return _sibling(panoptic_json, "instances_", "--instances-json")


def _sibling(path: str | Path, replacement: str, flag: str) -> Path:
    path = Path(path)
    if "panoptic_" not in path.name:
        raise InputError(f"{path}: its name has no 'panoptic_' to derive another from; give {flag}")
    return path.with_name(path.name.replace("panoptic_", replacement, 1))


def semantic_labels(categories: Iterable[dict], source: str | Path = "categories") -> dict:
    """Map each category id to its label in Panoptic-FPN's semantic ground truth.

    Args:
        categories: COCO panoptic categories, each with ``id`` and ``isthing``.
        source: what an error names, the json they come from.

    Returns:
        Category id -> :data:`THINGS_LABEL` for things and 1, 2, ..., n for stuff in the order of
        the ids. For COCO n is 53, which makes 54 classes.

    Raises:
        InputError: more than :data:`MAX_STUFF_CLASSES` stuff classes.
    """
    categories = sorted(categories, key=lambda category: category["id"])
    stuff = [category["id"] for category in categories if not category["isthing"]]
    if len(stuff) > MAX_STUFF_CLASSES:
        raise InputError(
            f"{source}: {len(stuff)} stuff classes; expected at most {MAX_STUFF_CLASSES},"
            f" as labels have 8 bits and {IGNORE_LABEL} marks unlabelled pixels"
        )
    labels = {category["id"]: THINGS_LABEL for category in categories}
    labels.update({category_id: label for label, category_id in enumerate(stuff, start=1)})
    return labels


@dataclass(frozen=True)
class _Derivation:
    """What a worker needs beside the image: immutable, and small enough to send each time."""

    panoptic_json: Path
    panoptic_root: Path
    semantic_folder: Path | None
    labels: dict[int, int]
    thing_ids: frozenset[int]
    with_instances: bool
    image_root: Path | None

    def __call__(self, pair: tuple[dict, dict]) -> tuple[list[dict], list[int]]:
        """Write the semantic PNG of one image.

        Returns:
            Its instances, ids not yet given, and the area of each entry of its segments_info.
        """
        image, annotation = pair
        if self.image_root is not None:
            check_image(self.image_root / image["file_name"], image["width"], image["height"])
        png = self.panoptic_root / annotation["file_name"]
        pixel_ids = read_panoptic_png(png)
        if pixel_ids.shape != (image["height"], image["width"]):
            height, width = pixel_ids.shape
            raise InputError(
                f"{png}: {width}x{height} pixels; expected {image['width']}x{image['height']}, as"
                f" image id {image['id']} has in {self.panoptic_json}"
            )
        segments = sorted(annotation["segments_info"], key=lambda segment: segment["id"])
        ids = np.array([0] + [segment["id"] for segment in segments])
        # Position of each pixel's id: 0 for void, otherwise 1 + its segment's.
        index = np.minimum(np.searchsorted(ids, pixel_ids), len(segments))
        unknown = ids[index] != pixel_ids
        if unknown.any():
            raise InputError(
                f"{png}: pixels with id {pixel_ids[unknown][0]}; expected 0 or an id in the"
                f" segments_info of image_id {image['id']} in {self.panoptic_json}"
            )
        areas = np.bincount(index.ravel(), minlength=len(ids))
        for segment, area in zip(segments, areas[1:], strict=True):
            if area == 0:
                raise InputError(
                    f"{png}: no pixel with id {segment['id']}; expected at least one, as it is in"
                    f" the segments_info of image_id {image['id']} in {self.panoptic_json}"
                )
        if self.semantic_folder is not None:
            table = [IGNORE_LABEL] + [self.labels[segment["category_id"]] for segment in segments]
            semantic = np.array(table, dtype=np.uint8)[index]
            Image.fromarray(semantic).save(self.semantic_folder / _semantic_name(image))
        area_of = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        segment_areas = [area_of[segment["id"]] for segment in annotation["segments_info"]]
        if not self.with_instances:
            return [], segment_areas
        instances = [
            _instance(index == position, int(areas[position]), segment, image["id"])
            for position, segment in enumerate(segments, start=1)
            if segment["category_id"] in self.thing_ids
        ]
        return instances, segment_areas


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Say what could not be written, in any process; what cannot be read is said already."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(
            f"{where}{error.strerror or error}; expected to write it (semantic PNGs have the names"
            " of the images)"
        ) from error


def _semantic_name(image: dict) -> PurePosixPath:
    # Named after the image, not after the panoptic PNG: so Detectron2 pairs them.
    return PurePosixPath(image["file_name"]).with_suffix(".png")


def _instance(mask: np.ndarray, area: int, segment: dict, image_id: int) -> dict:
    """Return the COCO annotation of an (H, W) bool mask, without its id."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "image_id": image_id,
        "category_id": segment["category_id"],
        "iscrowd": int(segment.get("iscrowd", 0)),
        "area": area,
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": {
            "size": [int(side) for side in rle["size"]],
            "counts": rle["counts"].decode("ascii"),
        },
    }


def prepare_coco_panoptic(
    panoptic_json: str | Path,
    panoptic_root: str | Path,
    semantic_root: str | Path | None = None,
    instances_json: str | Path | None = None,
    *,
    overwrite: bool = False,
    num_processes: int | None = None,
    image_root: str | Path | None = None,
    complete_json: str | Path | None = None,
) -> PreparedDataset:
    """Derive semantic PNGs and an instances json from a COCO panoptic json and its PNGs.

    Both are made under temporary names and renamed when they are whole. Where one of the two
    exists, it is left alone and the other is made.

    Args:
        panoptic_json: COCO panoptic json.
        panoptic_root: folder of its 8-bit RGB PNGs.
        semantic_root: folder to make, of 8-bit greyscale PNGs with the images' names; None for
            :func:`default_semantic_root`.
        instances_json: COCO instances json to make, with things only and exact RLE masks; None for
            :func:`default_instances_json`.
        overwrite: make both again where they exist.
        num_processes: processes that share the images, as in
            :func:`~ocr_panoptic.parallel.parallel_map`.
        image_root: folder of the images; where it is given, each is checked as in
            :func:`~ocr_panoptic.data.images.check_image`.
        complete_json: panoptic json to make with what panopticapi needs and trusts: the area of
            each segment as in its PNG, and ``iscrowd``; None for none.

    Returns:
        What was made, with both class counts.

    Raises:
        InputError: both outputs exist and ``overwrite`` is False, an output would replace something
            that is not of its kind, or the input is not valid; names the file and the value.
    """
    panoptic_json, panoptic_root = Path(panoptic_json), Path(panoptic_root)
    semantic_root = Path(semantic_root or default_semantic_root(panoptic_root))
    instances_json = Path(instances_json or default_instances_json(panoptic_json))
    if num_processes is not None and num_processes < 1:
        raise InputError(f"number of processes is {num_processes}; expected at least 1")
    with_semantic, with_instances = _what_to_make(
        panoptic_json, panoptic_root, semantic_root, instances_json, overwrite
    )
    data = load_panoptic_json(panoptic_json)
    labels = semantic_labels(data["categories"], panoptic_json)
    things = [category for category in data["categories"] if category["isthing"]]
    images = {image["id"]: image for image in data["images"]}
    pairs = [(images[annotation["image_id"]], annotation) for annotation in data["annotations"]]

    with _writing(), contextlib.ExitStack() as stack:
        semantic_folder = None
        if with_semantic:
            semantic_folder = stack.enter_context(replacing_folder(_real(semantic_root)))
            for folder in {_semantic_name(image).parent for image in data["images"]}:
                (semantic_folder / folder).mkdir(parents=True, exist_ok=True)
        derive = _Derivation(
            panoptic_json,
            panoptic_root,
            semantic_folder,
            labels,
            frozenset(category["id"] for category in things),
            with_instances,
            None if image_root is None else Path(image_root),
        )
        instances, wrong_areas = [], 0
        # Closed before the folder that its processes write into is removed or renamed.
        with contextlib.closing(parallel_map(derive, pairs, num_processes)) as results:
            for (_, annotation), (found, areas) in zip(pairs, results, strict=True):
                instances += found
                if complete_json is not None:
                    wrong_areas += _complete(annotation["segments_info"], areas)
        instances = [{"id": number, **row} for number, row in enumerate(instances, start=1)]
        if with_instances:
            content = {
                **{key: data[key] for key in ("info", "licenses") if key in data},
                "images": data["images"],
                "annotations": instances,
                "categories": things,
            }
            write_text(_real(instances_json), json.dumps(content))
        if complete_json is not None:
            write_text(Path(complete_json), json.dumps(data))
    return PreparedDataset(
        semantic_root=semantic_root,
        semantic_written=with_semantic,
        instances_json=instances_json,
        instances_written=with_instances,
        num_images=len(pairs),
        num_instances=len(instances),
        num_sem_seg_classes=len(labels) - len(things) + 1,
        num_thing_classes=len(things),
        num_wrong_areas=wrong_areas,
    )


def _complete(segments: list[dict], areas: list[int]) -> int:
    """Give each segment its area and ``iscrowd``; return how many said another area."""
    wrong = sum(
        segment.get("area", area) != area for segment, area in zip(segments, areas, strict=True)
    )
    for segment, area in zip(segments, areas, strict=True):
        segment["area"] = area
        segment["iscrowd"] = int(segment.get("iscrowd", 0))
    return wrong


def _real(path: Path) -> Path:
    # Path.resolve has an error of its own for links that go round.
    return Path(os.path.realpath(path))


def _what_to_make(
    panoptic_json: Path,
    panoptic_root: Path,
    semantic_root: Path,
    instances_json: Path,
    overwrite: bool,
) -> tuple[bool, bool]:
    """Return whether to make the semantic PNGs and the instances json."""
    if not panoptic_root.is_dir():
        raise InputError(f"{panoptic_root}: no such folder; expected the panoptic PNGs")
    real_panoptic, real_semantic = _real(panoptic_root), _real(semantic_root)
    if real_semantic == real_panoptic or real_semantic in real_panoptic.parents:
        raise InputError(
            f"--semantic-root {semantic_root}: holds the panoptic PNGs; expected another"
        )
    real_instances = _real(instances_json)
    if real_instances == _real(panoptic_json):
        raise InputError(
            f"--instances-json {instances_json}: is the panoptic json; expected another"
        )
    if real_instances == real_semantic or real_semantic in real_instances.parents:
        raise InputError(
            f"--instances-json {instances_json}: is in --semantic-root {semantic_root}, which is"
            " made anew; expected another place"
        )
    if semantic_root.exists() and not semantic_root.is_dir():
        raise InputError(f"--semantic-root {semantic_root}: is a file; expected a folder")
    if instances_json.is_dir():
        raise InputError(f"--instances-json {instances_json}: is a folder; expected a json file")
    has_semantic = semantic_root.is_dir() and any(semantic_root.iterdir())
    has_instances = instances_json.exists()
    if has_semantic and has_instances and not overwrite:
        raise InputError(
            f"{semantic_root} and {instances_json} exist; expected other names or --overwrite"
        )
    if has_semantic and overwrite:
        # Overwriting removes the folder: one given by mistake must survive it.
        for path in semantic_root.rglob("*"):
            if path.is_file() and path.suffix != ".png":
                raise InputError(f"{path}: expected only PNGs in a folder that --overwrite removes")
    require_folder(real_semantic.parent, "--semantic-root")
    require_folder(real_instances.parent, "--instances-json")
    return overwrite or not has_semantic, overwrite or not has_instances
