"""What is drawn of saved panoptic results: for each annotation its image and its ground truth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ocr_panoptic.data.problems import shown
from ocr_panoptic.errors import InputError

from .saved_json import ImageFolder, SavedPanoptic, check_annotation, relative_name

__all__ = ["Job", "SavedFiles", "list_jobs"]

_IDS = "(predict.py --image-info gives images the ids that a json has)"


@dataclass(frozen=True)
class SavedFiles:
    """What is drawn: the arguments of the command line.

    Attributes:
        panoptic_json: COCO panoptic json, of results or of ground truth; ``images`` and
            ``categories`` may be missing.
        panoptic_root: folder of its PNGs.
        image_root: folder of the images.
        ground_truth_json: what the results are compared with, None for nothing.
        ground_truth_root: folder of its PNGs.
        categories: json whose categories name the classes; None for those of ``panoptic_json``,
            and then of ``ground_truth_json``.
    """

    panoptic_json: Path
    panoptic_root: Path
    image_root: Path
    ground_truth_json: Path | None = None
    ground_truth_root: Path | None = None
    categories: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading.

        Raises:
            InputError: a folder is missing, or of the ground truth one of two is given.
        """
        if (self.ground_truth_json is None) != (self.ground_truth_root is None):
            raise InputError("expected --ground-truth-json and --ground-truth-root together")
        for flag, folder, content in (
            ("--panoptic-root", self.panoptic_root, "panoptic PNGs"),
            ("--image-root", self.image_root, "images"),
            ("--ground-truth-root", self.ground_truth_root, "panoptic PNGs"),
        ):
            if folder is not None and not folder.is_dir():
                raise InputError(f"{flag} {folder}: no such folder, expected the {content}")


@dataclass(frozen=True)
class Job:
    """One image: its files, which may be missing or broken, and its checked annotations.

    Attributes:
        image: its file.
        png: panoptic PNG of ``annotation``.
        annotation: an entry of a COCO panoptic json.
        truth_png: as ``png``, of the ground truth; None without one, as is ``truth``.
        truth: as ``annotation``.
    """

    image: Path
    png: Path
    annotation: Mapping[str, Any]
    truth_png: Path | None = None
    truth: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Path of the pictures below the output folder, without suffix."""
        return str(relative_name("", self.annotation["file_name"]).with_suffix(""))

    def picture(self, output: Path) -> Path:
        """Return the path of the picture below the output folder."""
        # Not with_suffix: a name may have dots in it.
        return output / f"{self.name}.png"


def list_jobs(
    files: SavedFiles,
    saved: SavedPanoptic,
    truth: SavedPanoptic | None,
    output: Path,
    limit: int | None,
) -> list[Job | InputError]:
    """Return what is to be drawn for each annotation, or what is wrong with it.

    Args:
        files: as on the command line.
        saved: read from ``files.panoptic_json``.
        truth: read from ``files.ground_truth_json``, None without one.
        output: folder of the pictures.
        limit: how many annotations, from the first; None for all.

    Raises:
        InputError: a picture would replace a file that is read.
    """
    make = _JobMaker(files, saved, truth)
    jobs: list[Job | InputError] = []
    for annotation in saved.annotations[:limit]:
        try:
            jobs.append(make(annotation))
        except InputError as error:
            # It keeps its place among the others.
            jobs.append(error)
    _keep_input(output, [job for job in jobs if isinstance(job, Job)])
    return jobs


class _JobMaker:
    """Checks annotations, and finds the image and the ground truth of each."""

    def __init__(
        self, files: SavedFiles, saved: SavedPanoptic, truth: SavedPanoptic | None
    ) -> None:
        self._files, self._saved, self._truth = files, saved, truth
        self._file_names = {**(truth.file_names if truth else {}), **saved.file_names}
        self._folder = ImageFolder(files.image_root)
        self._truths: dict[Any, dict] = {}
        for annotation in truth.annotations if truth else ():
            image_id = annotation.get("image_id")
            if isinstance(image_id, int | str):
                self._truths.setdefault(image_id, annotation)
        self._names: set[str] = set()

    def __call__(self, annotation: dict[str, Any]) -> Job:
        check_annotation(self._saved.path, annotation)
        png = self._files.panoptic_root / annotation["file_name"]
        truth_png = truth = None
        if self._truth is not None:
            truth = self._truths.get(annotation["image_id"])
            if truth is None:
                raise InputError(
                    f"{self._truth.path}: no annotation of image_id"
                    f" {shown(annotation['image_id'])}, expected one for each of"
                    f" {self._saved.path} {_IDS}"
                )
            self._require_one_image(annotation["image_id"])
            check_annotation(self._truth.path, truth)
            truth_png = self._files.ground_truth_root / truth["file_name"]
        job = Job(self._image(annotation, png), png, annotation, truth_png, truth)
        if job.name in self._names:
            raise InputError(
                f"{self._saved.path}: annotation of image_id {shown(annotation['image_id'])}:"
                f" 'file_name' {annotation['file_name']} occurs twice, expected different names"
            )
        self._names.add(job.name)
        return job

    def _require_one_image(self, image_id: Any) -> None:
        """Refuse an id under which the two jsons have different images."""
        names = [source.file_names.get(image_id) for source in (self._saved, self._truth)]
        # One of the two may have the folder in its names too, or another suffix.
        ends = [_from_the_end(name) for name in names if isinstance(name, str)]
        if len(ends) == 2 and any(part != other for part, other in zip(*ends, strict=False)):
            raise InputError(
                f"{self._saved.path}: image id {shown(image_id)} is {names[0]}, but {names[1]} in"
                f" {self._truth.path}, expected one image {_IDS}"
            )

    def _image(self, annotation: Mapping[str, Any], png: Path) -> Path:
        """Find an image by its id in ``images``, or by the annotation's name."""
        image_id = annotation["image_id"]
        if image_id in self._file_names:
            where = f"{self._saved.path}: image id {shown(image_id)}"
            return self._folder.root / relative_name(where, self._file_names[image_id])
        return self._folder.find(relative_name("", annotation["file_name"]), png)


def _from_the_end(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    return path.stem, *reversed(path.parent.parts)


def _keep_input(output: Path, jobs: Sequence[Job]) -> None:
    """Refuse to write over a file that is read."""
    inputs = {
        os.path.realpath(path): path
        for job in jobs
        for path in (job.image, job.png, job.truth_png)
        if path is not None
    }
    for job in jobs:
        path = inputs.get(os.path.realpath(job.picture(output)))
        if path is not None:
            raise InputError(f"--output {output}: {path} would be replaced, expected another")
