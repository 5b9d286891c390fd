"""Builds a result file from saved predictions."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ocr_panoptic.data.json_problems import is_relative_name
from ocr_panoptic.data.problems import shown
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import open_regular, read_bytes, replacing, require_folder
from ocr_panoptic.parallel import parallel_map

from .findings import annotation_findings, detection_findings, image_of, png_findings
from .json_stream import JsonError, JsonStream
from .problems import Finding, Words, make_problem
from .report import LARGEST_JSON, Built, json_size_warning
from .target import (
    MAX_DETECTIONS,
    SPLITS,
    TASKS,
    ListedImage,
    Target,
    load_target,
    result_name,
    split_of_list,
)

__all__ = ["build_submission"]

_PANOPTIC_SOURCES = ("panoptic.json",)
_DETECTION_SOURCES = ("instances.json", "coco_instances_results.json")
# The earliest time that a zip can tell: the same predictions make the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_SCORE_DIGITS, _BOX_DIGITS = 5, 1


def build_submission(
    task: str,
    predictions: str | os.PathLike[str],
    split: str,
    algorithm: str,
    image_info: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    categories: str | os.PathLike[str] | None = None,
    rounded: bool = False,
    min_score: float = 0.0,
    overwrite: bool = False,
) -> Built:
    """Write ``OUTPUT/TYPE_SPLIT_ALGORITHM_results.zip``, whole or not at all.

    What is scored is what was predicted: segments, masks and boxes are unchanged, and detections
    keep their order by score.

    Args:
        task: "panoptic", "segm" or "bbox".
        predictions: a folder with ``panoptic.json`` and ``panoptic/``, or with ``instances.json``
            or ``coco_instances_results.json``; or such a json itself, with its PNGs in the folder
            of the same name.
        split: one of :data:`~ocr_panoptic.evaluation.submission.target.SPLITS`.
        algorithm: the name in the file's name.
        image_info: as in :func:`~ocr_panoptic.evaluation.submission.target.load_target`.
        output: folder of the zip; made if it is missing.
        categories: as in ``load_target``.
        rounded: scores to 5 digits and boxes to 0.1 pixels. Makes AP differ in its last digits.
        min_score: detections below it are left out.
        overwrite: replace a zip that exists.

    Raises:
        InputError: names the file, the image, the field, and what was expected.
    """
    if task not in TASKS:
        raise InputError(f"--task: {task}, expected one of {', '.join(TASKS)}")
    name = result_name(task, split, algorithm)
    if split not in SPLITS:
        raise InputError(f"--split: {split}, expected one of {', '.join(SPLITS)}")
    if other := split_of_list(image_info, split):
        raise InputError(f"--split: {split}, expected {other}, as in --image-info {image_info}")
    if not 0 <= min_score <= 1:
        raise InputError(f"--min-score: {min_score}, expected 0 to 1")
    path = Path(output) / f"{name}.zip"
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: exists; expected --overwrite, or another --output or --alg (segm and bbox"
            " files have one name)"
        )
    target = load_target(task == "panoptic", image_info, categories)
    built = Built(str(path), task, len(target.images))
    if task == "panoptic":
        source = _find_source(predictions, _PANOPTIC_SOURCES)
        text, pngs = _read_panoptic(source, target, built)
    else:
        source = _find_source(predictions, _DETECTION_SOURCES)
        text = _read_detections(source, target, built, rounded, min_score)
        pngs = {}
    require_folder(output, "--output")
    try:
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write(archive, name, text, pngs)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; expected to be able to write it"
        ) from error
    built.warnings += json_size_warning(f"{name}.json", sum(map(len, text)))
    return built


def _find_source(predictions: str | os.PathLike[str], names: Iterable[str]) -> Path:
    path = Path(predictions)
    if path.is_file() and path.suffix == ".json":
        return path
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) != 1:
        both = f"both {' and '.join(map(str, found))}" if found else "no predictions"
        raise InputError(
            f"--predictions: {path}: {both}; expected one {' or '.join(names)}, or the path of one"
        )
    return found[0]


def _rows(source: Path, unit: str, is_list: bool) -> Iterator[tuple[str, Any]]:
    """Yield where each row of a json of predictions is, and the row."""
    expected = "a list of detections" if is_list else "an object with 'annotations'"
    try:
        with open_regular(source) as file:
            stream = JsonStream(file, LARGEST_JSON)
            if stream.is_list() != is_list:
                raise JsonError("another kind of json")
            rows = tqdm(stream.rows("annotations"), desc="json", unit=unit, disable=None)
            for index, row in enumerate(rows):
                yield f"{source}[{index}]", row
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; expected {expected}") from error
    except JsonError as error:
        raise InputError(f"{source}: broken json ({error}); expected {expected}") from error


def _refuse(file: str, image_id: int | None, findings: Iterable[Finding]) -> None:
    for finding in findings:
        raise InputError(make_problem(file, image_id, finding).message)


def _read_detections(
    source: Path, target: Target, built: Built, rounded: bool, min_score: float
) -> list[str]:
    """Return the json of a detection file in pieces; count in ``built``."""
    content = "bbox" if built.task == "bbox" else "segmentation"
    # Their texts take a tenth of the memory of the objects.
    images: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for where, row in _rows(source, "detection", is_list=True):
        if isinstance(row, dict):
            row = _pick(row, ("image_id", "category_id", content, "score"))
            if content in row:
                row[content] = _pick(row[content], ("size", "counts"))
        _refuse(where, image_of(row, target), detection_findings(row, built.task, target))
        built.entries += 1
        score = row["score"]
        row["score"] = round(score, _SCORE_DIGITS) if rounded else _shortest(score)
        if rounded and built.task == "bbox":
            row["bbox"] = [round(value, _BOX_DIGITS) for value in row["bbox"]]
        if score >= min_score:
            text = json.dumps(row, separators=(",", ":"), allow_nan=False)
            images[row["image_id"]].append((score, text))
    lines = []
    for image_id in sorted(images):
        # Stable: of equal scores the first stays the first.
        ranked = sorted(images.pop(image_id), key=lambda detection: -detection[0])
        lines += [text for _, text in ranked[:MAX_DETECTIONS]]
        built.empty -= 1
    if not lines:
        raise InputError(
            f"{source}: {built.entries} detections, none with a score of {min_score:g} or more;"
            " expected some"
        )
    built.empty += built.images
    built.left_out = built.entries - len(lines)
    built.entries = len(lines)
    return ["[", *(line + ",\n" for line in lines[:-1]), lines[-1], "]\n"]


def _pick(row: Any, keys: Sequence[str]) -> Any:
    """Return an object's named fields, in that order; anything else as it is."""
    return {key: row[key] for key in keys if key in row} if isinstance(row, dict) else row


def _shortest(score: float) -> float:
    """Return a score of float32 as the shortest number that is read as the same float32.

    Scores stay in their order, and equal ones equal, which is all that AP looks at.
    """
    single = np.float32(score)
    return float(str(single)) if float(single) == score else score


def _read_panoptic(
    source: Path, target: Target, built: Built
) -> tuple[list[str], dict[str, Path | ListedImage]]:
    """Return the json of a panoptic file in pieces, and the PNGs; count in ``built``.

    Of a PNG there is the file that it is copied from, or the image that it is void for.
    """
    folder = source.with_suffix("")
    listed = {image.png: image_id for image_id, image in target.images.items()}
    annotations: dict[int, dict[str, Any]] = {}
    pngs: dict[int, Path] = {}
    for where, row in _rows(source, "image", is_list=False):
        image_id = image_of(row, target)
        if image_id in annotations:
            raise InputError(f"{where}: image_id {image_id} occurs twice; expected each image once")
        if isinstance(row, dict):
            row = _pick(row, ("image_id", "file_name", "segments_info"))
            png = _png_name(where, row.get("file_name"))
            if isinstance(row.get("segments_info"), list):
                segments = [
                    _pick(segment, ("id", "category_id")) for segment in row["segments_info"]
                ]
                row["segments_info"] = segments
            # Ids of another count name other images: those of the PNGs' names.
            named = listed.get(PurePosixPath(png).name, image_id)
            if image_id is not None and named != image_id:
                raise InputError(
                    f"{where}: image_id {image_id} with file_name {png}, which is image id {named} "
                    f"of {target.image_info}; expected predictions made with its ids (predict.py "
                    "--image-info)"
                )
            if image_id is not None:
                row["file_name"] = target.images[image_id].png
        _refuse(where, image_id, annotation_findings(row, target))
        annotations[image_id], pngs[image_id] = row, folder / png
    if not annotations:
        raise InputError(f"{source}: no annotations; expected predictions")

    jobs = [
        (str(pngs[image_id]), image_id, image.height, image.width, _segment_ids(annotation))
        for image_id, annotation in annotations.items()
        for image in [target.images[image_id]]
    ]
    with contextlib.closing(parallel_map(_check_png, jobs, description="PNGs")) as results:
        for job, findings in zip(jobs, results, strict=True):
            _refuse(job[0], job[1], findings)

    rows, sources = [], {}
    for image_id, image in sorted(target.images.items()):
        void = {"image_id": image_id, "file_name": image.png, "segments_info": []}
        row = annotations.get(image_id, void)
        built.empty += image_id not in annotations
        built.entries += len(row["segments_info"])
        rows.append(json.dumps(row, separators=(",", ":")))
        sources[image.png] = pngs.get(image_id, image)
    return ['{"annotations":[', ",\n".join(rows), "]}\n"], sources


def _png_name(where: str, name: Any) -> str:
    """Return a PNG's name, which decides what is read."""
    if not is_relative_name(name):
        raise InputError(
            f"{where}: file_name {shown(name)}; expected a path within the folder of PNGs"
        )
    return name


def _segment_ids(annotation: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(segment["id"] for segment in annotation["segments_info"])


def _check_png(job: tuple[str, int, int, int, tuple[int, ...]]) -> list[Finding]:
    path, _, height, width, segment_ids = job
    try:
        data = read_bytes(path)
    except OSError as error:
        return [("png", Words(error.strerror), "a panoptic PNG")]
    return list(png_findings(data, height, width, segment_ids))


def _write(
    archive: zipfile.ZipFile,
    name: str,
    text: Sequence[str],
    pngs: Mapping[str, Path | ListedImage],
) -> None:
    """Write the json ``name``.json of pieces of ASCII, and the PNGs into the folder ``name``."""
    entry = _entry(f"{name}.json", zipfile.ZIP_DEFLATED)
    # Decides whether the entry is one of more than 2 GB.
    entry.file_size = sum(map(len, text))
    with archive.open(entry, "w") as file:
        for piece in text:
            file.write(piece.encode("ascii"))
    for png, source in tqdm(pngs.items(), desc="zip", unit="PNG", disable=None):
        if isinstance(source, ListedImage):
            data = _void_png(source.height, source.width)
        else:
            data = read_bytes(source)
        # PNGs are compressed already.
        archive.writestr(_entry(f"{name}/{png}", zipfile.ZIP_STORED), data)


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.compress_type = compression
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


@functools.lru_cache(maxsize=64)
def _void_png(height: int, width: int) -> bytes:
    return cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()
