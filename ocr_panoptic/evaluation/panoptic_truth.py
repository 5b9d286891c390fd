"""The panoptic ground truth of an evaluation: small in memory, checked as it is read."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from panopticapi.evaluation import VOID

from ocr_panoptic.data.panoptic_json import load_panoptic_json, read_panoptic_png
from ocr_panoptic.data.segments import measure_segments
from ocr_panoptic.errors import InputError
from ocr_panoptic.parallel import parallel_map

from .panoptic_quality import TruthSegment, overlaps

__all__ = ["GroundTruth"]


class _Image(NamedTuple):
    file_name: str
    segments: tuple[TruthSegment, ...]


class GroundTruth:
    """A COCO panoptic json and its PNGs.

    The json is checked at once, a PNG when it is read: panopticapi trusts both, and gives a PQ far
    above 100 or of 0 where an ``area`` is not the number of the segment's pixels.

    Attributes:
        json_file, folder: where they are.
        header: the json's content but for its annotations.
        categories: category id -> category.
        images: image id -> file name of the PNG and segments, in the order of the json.
    """

    def __init__(self, json_file: str | Path, folder: str | Path) -> None:
        """Read the json.

        Args:
            json_file: COCO panoptic json.
            folder: of its PNGs, which are not read yet.

        Raises:
            InputError: it is missing or no panoptic json, or a segment lacks ``iscrowd`` or
                ``area``; names the entry and what was expected.
        """
        self.json_file, self.folder = Path(json_file), Path(folder)
        data = load_panoptic_json(json_file)
        self.header = {key: value for key, value in data.items() if key != "annotations"}
        self.categories = {category["id"]: category for category in data["categories"]}
        self.images = {
            annotation["image_id"]: _Image(
                annotation["file_name"],
                tuple(self._segment(annotation, row) for row in annotation["segments_info"]),
            )
            for annotation in data["annotations"]
        }

    def _segment(self, annotation: Mapping[str, Any], row: Mapping[str, Any]) -> TruthSegment:
        where = f"{self.json_file}: annotation of image_id {annotation['image_id']}: segment id"
        if "iscrowd" not in row:
            raise InputError(f"{where} {row['id']}: 'iscrowd' is missing; expected 0 or 1")
        area = row.get("area")
        if isinstance(area, bool) or not isinstance(area, int | float):
            found = repr(area) if "area" in row else "missing"
            raise InputError(
                f"{where} {row['id']}: 'area' is {found}; expected its number of pixels"
            )
        return TruthSegment(row["id"], row["category_id"], int(row["iscrowd"]), area)

    def annotation(self, image_id: int) -> dict[str, Any]:
        """Return the annotation of an image as the json has it, for panopticapi and hotcoco."""
        image = self.images[image_id]
        return {
            "image_id": image_id,
            "file_name": image.file_name,
            "segments_info": [segment._asdict() for segment in image.segments],
        }

    def overlaps(self, image_id: int, prediction_ids: np.ndarray) -> dict[tuple[int, int], int]:
        """Count the pixels of each pair of ids of the truth and of a prediction.

        Args:
            image_id: of an image of the json.
            prediction_ids: (H, W) integers, the prediction's segment id of each pixel, 0 for void.

        Returns:
            As :func:`~.panoptic_quality.overlaps`.

        Raises:
            InputError: the PNG is missing, broken or of another size, or it contradicts the json;
                names it, the segment, and what was expected.
        """
        path = self.folder / self.images[image_id].file_name
        truth_ids = read_panoptic_png(path)
        if truth_ids.shape != prediction_ids.shape:
            (height, width), (rows, columns) = truth_ids.shape, prediction_ids.shape
            raise InputError(
                f"{path}: {width}x{height} pixels; expected {columns}x{rows}, as the prediction of"
                f" image id {image_id} has"
            )
        pixels = overlaps(truth_ids, prediction_ids)
        areas: dict[int, int] = {}
        for (segment_id, _), count in pixels.items():
            areas[segment_id] = areas.get(segment_id, 0) + count
        _check_areas(self.json_file, path, image_id, self.images[image_id].segments, areas)
        return pixels

    def check(self, num_processes: int) -> None:
        """Read the PNG of every image and compare it with the json.

        Raises:
            InputError: as :meth:`overlaps` does.
        """
        check = functools.partial(_check_image, self.json_file, self.folder)
        checked = parallel_map(
            check, list(self.images.items()), num_processes, description="check ground truth"
        )
        with contextlib.closing(checked):
            for _ in checked:
                pass


def _check_image(json_file: Path, folder: Path, item: tuple[int, _Image]) -> None:
    image_id, image = item
    path = folder / image.file_name
    measured = measure_segments(read_panoptic_png(path))
    areas = dict(zip(measured.ids.tolist(), measured.areas.tolist(), strict=True))
    _check_areas(json_file, path, image_id, image.segments, areas)


def _check_areas(
    json_file: Path,
    path: Path,
    image_id: int,
    segments: Sequence[TruthSegment],
    areas: Mapping[int, int],
) -> None:
    """Compare the pixels of each id with what the json says."""
    areas = dict(areas)
    areas.pop(VOID, None)
    for segment in segments:
        area = areas.pop(segment.id, 0)
        if area == 0:
            raise InputError(
                f"{path}: no pixel with id {segment.id}; expected at least one, as it is in the"
                f" segments_info of image_id {image_id} in {json_file}"
            )
        if area != segment.area:
            raise InputError(
                f"{path}: segment id {segment.id} has {area} pixels, but 'area' {segment.area} in"
                f" {json_file} (image_id {image_id}); expected the same number in both, as PQ is"
                " computed with it"
            )
    for segment_id in areas:
        raise InputError(
            f"{path}: pixels with id {segment_id}; expected 0 or an id in the segments_info of"
            f" image_id {image_id} in {json_file}"
        )
