"""The pictures of one saved panoptic result, and its PQ."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from panopticapi.evaluation import PQStat, pq_compute_single_core
from PIL import Image

from ocr_panoptic.engine.prediction import read_rgb
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing

from .gallery import GalleryImage, gallery_file
from .page import Panel, draw_page
from .panoptic import draw_panoptic, from_ground_truth, legend
from .saved_jobs import Job, SavedFiles
from .saved_json import Category

__all__ = ["Drawing", "Drawn", "Style", "panel_titles", "quality"]

# Longer side of a panel: smaller images are enlarged, so that text stands on them.
_MIN_SIDE, _MAX_SIDE = 480, 2048


@dataclass(frozen=True)
class Style:
    """How results are drawn.

    Attributes:
        alpha: weight of the class colour against the image, in [0, 1].
        text: whether class names are written on the segments.
        gallery: whether an html page of all pictures is written too.
    """

    alpha: float = 0.6
    text: bool = True
    gallery: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: ``alpha`` is not in [0, 1].
        """
        if not 0 <= self.alpha <= 1:
            raise InputError(f"--alpha {self.alpha}: expected 0 to 1")


@dataclass(frozen=True)
class Drawn:
    """One picture that was written; ``counts`` are those of PQ, None without ground truth."""

    path: Path
    image: GalleryImage
    counts: PQStat | None


@dataclass(frozen=True)
class Drawing:
    """Draws one image after another; what a process needs beside the image.

    Attributes:
        files: where the annotations come from.
        output: an existing folder.
        style: how they are drawn.
        categories: all that the annotations name.
        metadata: of ``categories``.
    """

    files: SavedFiles
    output: Path
    style: Style
    categories: Sequence[Category]
    metadata: Metadata

    def __call__(self, job: Job | InputError) -> Drawn | InputError:
        """Write the pictures of one image, or return what is wrong with it."""
        if isinstance(job, InputError):
            return job
        try:
            return self._draw(job)
        except InputError as error:
            return error

    def _draw(self, job: Job) -> Drawn:
        image = read_rgb(job.image)
        sources = {"panoptic": (job.png, job.annotation, self.files.panoptic_json)}
        if job.truth is not None:
            truth = job.truth_png, job.truth, self.files.ground_truth_json
            sources = {"ground_truth": truth, **sources}
        longest = max(image.shape[:2])
        scale = float(np.clip(1.0, _MIN_SIDE / longest, _MAX_SIDE / longest))
        pictures, segments = {"input": _resized(image, scale)}, {}
        for key, (png, annotation, json) in sources.items():
            panoptic_map, segments_info = from_ground_truth(png, annotation, self.metadata)
            if panoptic_map.shape != image.shape[:2]:
                found, expected = (f"{a.shape[1]}x{a.shape[0]}" for a in (panoptic_map, image))
                raise InputError(f"{png}: {found} pixels, expected {expected} as {job.image} has")
            segments[key] = _with_pixels(png, panoptic_map, segments_info, json)
            pictures[key] = draw_panoptic(
                image,
                panoptic_map,
                segments[key],
                self.metadata,
                alpha=self.style.alpha,
                scale=scale,
                text=self.style.text,
                stripe_crowds=True,
            )
        counts = None if job.truth is None else self._count(job, **segments)
        drawn = [segment for rows in segments.values() for segment in rows]
        entry = self._entry(job, pictures["input"], drawn, counts)
        self._write(job.picture(self.output), self._page(entry, pictures, drawn))
        if self.style.gallery:
            for key, picture in pictures.items():
                self._write(self.output / gallery_file(job.name, key), picture)
        return Drawn(job.picture(self.output), entry, counts)

    def _entry(
        self, job: Job, picture: np.ndarray, segments: Sequence[Mapping], counts: PQStat | None
    ) -> GalleryImage:
        present = {segment["dataset_category_id"] for segment in segments}
        overall, per_class = quality(counts, self.categories)
        return GalleryImage(
            name=str(job.image.relative_to(self.files.image_root)),
            path=job.name,
            size=(picture.shape[1], picture.shape[0]),
            quality=overall,
            classes={c.id: per_class.get(c.id) for c in self.categories if c.id in present},
        )

    def _page(
        self, entry: GalleryImage, pictures: Mapping[str, np.ndarray], segments: Sequence[Mapping]
    ) -> np.ndarray:
        with_truth = "ground_truth" in pictures
        subheading = self.files.panoptic_json.name
        if with_truth:
            value = "\N{EN DASH}" if entry.quality is None else f"{entry.quality:.1f}"
            subheading = f"PQ {value} \N{MIDDLE DOT} {subheading}"
        titles = panel_titles(with_truth)
        panels = [Panel(titles[key], picture) for key, picture in pictures.items()]
        return draw_page(entry.name, subheading, panels, legend=legend(segments, self.metadata))

    def _write(self, path: Path, picture: np.ndarray) -> None:
        # Photographs hardly get smaller with more effort; and chroma subsampling smears coloured
        # outlines and labels.
        png = {"format": "PNG", "compress_level": 3}
        jpeg = {"format": "JPEG", "quality": 88, "subsampling": 0}
        try:
            with replacing(path) as temporary:
                Image.fromarray(picture).save(temporary, **(png if path.suffix == ".png" else jpeg))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error

    def _count(self, job: Job, ground_truth: list[dict], panoptic: list[dict]) -> PQStat:
        """Return the counts of PQ of one image, counted by panopticapi.

        Args:
            job: with a ground truth.
            ground_truth: segments that have pixels; those that have none are missed by any
                prediction.
            panoptic: predicted segments that have pixels; panopticapi refuses others.
        """
        areas = {segment["id"]: segment["area"] for segment in ground_truth}
        truth = [
            # Areas are counted: panopticapi would believe the json's.
            {**row, "iscrowd": int(row.get("iscrowd", 0)), "area": areas.get(row["id"], 0)}
            for row in job.truth["segments_info"]
        ]
        predicted = [
            {"id": segment["id"], "category_id": segment["dataset_category_id"]}
            for segment in panoptic
        ]
        pair = (
            {**job.truth, "segments_info": truth},
            {**job.annotation, "segments_info": predicted},
        )
        roots = str(self.files.ground_truth_root), str(self.files.panoptic_root)
        # It prints how far it is.
        with contextlib.redirect_stdout(io.StringIO()):
            return pq_compute_single_core(0, [pair], *roots, {c.id: c for c in self.categories})


def panel_titles(with_truth: bool) -> dict[str, str]:
    """Return the key and the title of each panel, from left to right."""
    if with_truth:
        return {"input": "Input", "ground_truth": "Ground truth", "panoptic": "Prediction"}
    return {"input": "Input", "panoptic": "Segments"}


def quality(
    counts: PQStat | None, categories: Sequence[Category]
) -> tuple[float | None, dict[int, float]]:
    """Return PQ in percent: overall and of each class that counts; None where none does."""
    known = {category.id: {"isthing": category.isthing} for category in categories}
    counting = {
        category_id: known[category_id]
        for category_id, row in (counts.pq_per_cat.items() if counts else ())
        if row.tp + row.fp + row.fn > 0
    }
    # panopticapi would divide by zero.
    if not counting:
        return None, {}
    overall, per_class = counts.pq_average(counting, isthing=None)
    return 100 * float(overall["pq"]), {
        category_id: 100 * float(values["pq"]) for category_id, values in per_class.items()
    }


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize an image as draw_panoptic does."""
    if scale == 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _with_pixels(
    png: Path, panoptic_map: np.ndarray, segments: Sequence[dict], json: Path
) -> list[dict]:
    """Return the segments that have pixels, each with their number as ``area``.

    Raises:
        InputError: pixels have an id that no segment has.
    """
    ids, counts = np.unique(panoptic_map, return_counts=True)
    areas = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    unknown = sorted(areas.keys() - {segment["id"] for segment in segments} - {0})
    if unknown:
        raise InputError(
            f"{png}: pixels with id {unknown[0]}, expected 0 or an id of its segments in {json}"
        )
    return [{**row, "area": areas[row["id"]]} for row in segments if row["id"] in areas]
