"""Checking COCO panoptic data whole: the json, the images and the PNGs, every problem of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ocr_panoptic.data.coco_panoptic import IGNORE_LABEL, MAX_STUFF_CLASSES, semantic_labels
from ocr_panoptic.data.dataset_files import image_files, stray_files
from ocr_panoptic.data.file_problems import FileChecker
from ocr_panoptic.data.json_problems import is_integer, json_problems
from ocr_panoptic.data.panoptic_json import PANOPTIC_LISTS, load_json_object
from ocr_panoptic.data.problems import KINDS, Problem
from ocr_panoptic.errors import InputError
from ocr_panoptic.parallel import parallel_map

__all__ = ["DatasetReport", "LabelCount", "check_panoptic_dataset"]


@dataclass(frozen=True)
class LabelCount:
    """How often a semantic label occurs.

    Attributes:
        label: 0 to 255.
        name: of its category; "things" for 0, "unlabelled" for 255, None where it has no meaning.
        pixels: of all semantic PNGs.
        images: whose semantic PNG has such a pixel.
    """

    label: int
    name: str | None
    pixels: int
    images: int


@dataclass(frozen=True)
class DatasetReport:
    """What :func:`check_panoptic_dataset` found.

    Attributes:
        images: entries of the json's ``images``.
        segments: entries of all its ``segments_info``.
        problems: what is wrong, in the order of :data:`~ocr_panoptic.data.problems.KINDS`.
        notes: what is worth knowing and breaks nothing, in the same order.
        labels: histogram of the semantic PNGs: each class, and each other value that occurs;
            empty where no folder of semantic PNGs was given.
    """

    images: int
    segments: int
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    labels: list[LabelCount] = field(default_factory=list)

    def to_json(self) -> dict:
        """Return what ``tools/check_dataset.py --json`` writes."""
        return {
            "images": self.images,
            "segments": self.segments,
            "problems": [problem.to_json() for problem in self.problems],
            "notes": [note.to_json() for note in self.notes],
            "labels": [asdict(label) for label in self.labels],
        }


def check_panoptic_dataset(
    panoptic_json: str | Path,
    panoptic_root: str | Path,
    image_root: str | Path,
    *,
    sem_seg_root: str | Path | None = None,
    deep: bool = False,
    num_processes: int | None = None,
) -> DatasetReport:
    """Check a COCO panoptic json, its PNGs and its images, and tell every problem.

    Args:
        panoptic_json: COCO panoptic json.
        panoptic_root: folder of its PNGs, which are decoded.
        image_root: folder of its images.
        sem_seg_root: folder of the semantic PNGs derived from it, to be compared; None for none.
        deep: decode the images too; otherwise their headers are read.
        num_processes: processes that share the images, as in
            :func:`~ocr_panoptic.parallel.parallel_map`.

    Returns:
        The problems and notes.

    Raises:
        InputError: the json is missing, broken or without one of its lists, or a folder is missing.
    """
    if num_processes is not None and num_processes < 1:
        raise InputError(f"number of processes is {num_processes}; expected at least 1")
    panoptic_root, image_root = Path(panoptic_root), Path(image_root)
    sem_seg_root = None if sem_seg_root is None else Path(sem_seg_root)
    for folder, what in (
        (panoptic_root, "panoptic PNGs"),
        (image_root, "images"),
        (sem_seg_root, "semantic PNGs"),
    ):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected the {what}")

    data = load_json_object(panoptic_json, PANOPTIC_LISTS)
    found = list(json_problems(panoptic_json, data, panoptic_root))
    labels = _semantic_labels(panoptic_json, data["categories"], found)
    names = None if labels is None else _label_names(data["categories"], labels)
    files = list(image_files(data, labels or {}))
    num_images, num_segments = len(data["images"]), _count_segments(data["annotations"])
    # The json of a large data set takes gigabytes, of which nothing is needed any more.
    del data

    checker = FileChecker(
        image_root, panoptic_root, sem_seg_root, deep, None if names is None else len(names) - 1
    )
    pixels = np.zeros(IGNORE_LABEL + 1, np.int64)
    images = np.zeros_like(pixels)
    # Closed at an exception or Ctrl-C: the processes end with it.
    with contextlib.closing(
        parallel_map(checker, files, num_processes, description="check")
    ) as checks:
        for check in checks:
            found += check.problems
            if check.label_pixels is not None:
                pixels += check.label_pixels
                images += check.label_pixels > 0
    found += stray_files(image_root, panoptic_root, files)
    order = {kind: position for position, kind in enumerate(KINDS)}
    found.sort(key=lambda problem: order[problem.kind])
    return DatasetReport(
        images=num_images,
        segments=num_segments,
        problems=[problem for problem in found if not KINDS[problem.kind].is_note],
        notes=[problem for problem in found if KINDS[problem.kind].is_note],
        labels=[] if sem_seg_root is None else _label_counts(names or {}, pixels, images),
    )


def _semantic_labels(
    path: str | Path, rows: Sequence, found: list[Problem]
) -> dict[int, int] | None:
    """Return the label of each category id; None where the categories do not tell it."""
    ids = [row.get("id") for row in rows if isinstance(row, dict)]
    is_valid = (
        len(ids) == len(rows)
        and all(map(is_integer, ids))
        and len(set(ids)) == len(ids)
        and all(row.get("isthing") in (0, 1) for row in rows)
    )
    if not is_valid:
        return None
    num_stuff = sum(not row["isthing"] for row in rows)
    if num_stuff > MAX_STUFF_CLASSES:
        expected = f"at most {MAX_STUFF_CLASSES}, as labels have 8 bits"
        text = f"{num_stuff} stuff classes"
        found.append(
            Problem("too-many-stuff", str(path), None, num_stuff, expected, str(path), text)
        )
        return None
    return semantic_labels(rows, path)


def _label_names(categories: Sequence[dict], labels: dict[int, int]) -> dict[int, str]:
    """Name each semantic label: the classes, and the unlabelled."""
    names = {0: "things"}
    for category in sorted(categories, key=lambda category: labels[category["id"]]):
        if not category["isthing"]:
            names[labels[category["id"]]] = str(category.get("name"))
    return {**names, IGNORE_LABEL: "unlabelled"}


def _label_counts(names: dict[int, str], pixels: np.ndarray, images: np.ndarray) -> list:
    return [
        LabelCount(label, names.get(label), int(pixels[label]), int(images[label]))
        for label in range(len(pixels))
        if label in names or pixels[label]
    ]


def _count_segments(annotations: Iterable) -> int:
    rows = (row.get("segments_info") for row in annotations if isinstance(row, dict))
    return sum(len(segments) for segments in rows if isinstance(segments, list))
