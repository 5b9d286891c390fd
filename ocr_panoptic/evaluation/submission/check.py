"""Checks a result file of any origin for all that COCO's servers rejected or silently misread."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from ocr_panoptic.data.json_problems import is_integer
from ocr_panoptic.errors import InputError
from ocr_panoptic.parallel import parallel_map

from .archive import (
    ZIP_ERRORS,
    BrokenEntryError,
    Entry,
    entry_findings,
    open_zip,
    read_entry,
    reason_of,
)
from .findings import annotation_findings, detection_findings, image_of, png_findings
from .json_stream import JsonError, JsonStream
from .problems import Finding, Problems, Words
from .report import LARGEST_JSON, Report, json_size_warning
from .target import MAX_DETECTIONS, Target, load_target, parse_name, result_name, split_of_list

__all__ = ["check_submission"]

_PNG_OVERHEAD = 1 << 20


def check_submission(
    path: str | os.PathLike[str],
    image_info: str | os.PathLike[str],
    *,
    task: str | None = None,
    categories: str | os.PathLike[str] | None = None,
) -> Report:
    """Check a zip of results; nothing of it is written anywhere.

    Args:
        path: of the zip.
        image_info: as in :func:`~ocr_panoptic.evaluation.submission.target.load_target`.
        task: "panoptic", "segm" or "bbox"; None to tell it from the zip.
        categories: as in ``load_target``.

    Returns:
        The report. A zip that cannot be read is a problem in it.

    Raises:
        InputError: there is no such zip, or ``image_info`` or ``categories`` are wrong.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected a zip of results")
    name = Path(path).name
    open_zip.cache_clear()
    try:
        entries = open_zip(str(path)).infolist()
    except ZIP_ERRORS as error:
        report = Report(str(path), task or "unknown")
        report.problems.add("broken-zip", name, Words(reason_of(error)), "a whole zip")
        return report
    try:
        return _check_entries(Path(path), entries, image_info, task, categories)
    finally:
        open_zip(str(path)).close()
        open_zip.cache_clear()


def _check_entries(
    path: Path,
    entries: list[zipfile.ZipInfo],
    image_info: str | os.PathLike[str],
    task: str | None,
    categories: str | os.PathLike[str] | None,
) -> Report:
    named = parse_name(path.stem) if path.suffix == ".zip" else None
    if task is not None:
        panoptic = task == "panoptic"
    elif named:
        panoptic = named[0] == "panoptic"
    else:
        panoptic = any(entry.filename.lower().endswith(".png") for entry in entries)
    target = load_target(panoptic, image_info, categories)
    report = Report(str(path), task or ("panoptic" if panoptic else "detections"))
    problems = report.problems

    kind = "panoptic" if panoptic else "detections"
    if named is None or named[0] != kind:
        example = f"{result_name(report.task, 'val2017', 'NAME')}.zip"
        problems.add("zip-name", path.name, None, f"a name such as {example}")
    elif other := split_of_list(image_info, named[1]):
        problems.add("split", path.name, Words(named[1]), f"{other}, as in {Path(image_info).name}")
    for entry, finding in entry_findings(entries):
        problems.extend(entry, None, [finding])
    files = {entry.filename: entry for entry in entries if not entry.is_dir()}
    json_name = _find_json(path.stem, files, problems)
    if json_name is None:
        return report
    report.warnings += json_size_warning(json_name, files[json_name].file_size)
    check = _check_panoptic if panoptic else _check_detections
    check(report, target, path.stem, json_name, entries)
    return report


def _find_json(stem: str, files: dict[str, zipfile.ZipInfo], problems: Problems) -> str | None:
    """Return the json to check: that of the right name, or the one that is meant."""
    right = f"{stem}.json"
    jsons = [
        name
        for name in files
        if name.lower().endswith(".json") and not name.startswith("__MACOSX/")
    ]
    chosen = right if right in files else min(jsons, key=lambda name: name.count("/"), default=None)
    if chosen is None:
        problems.add("no-json", f"{stem}.zip", None, right)
    elif chosen != right:
        problems.add("json-name", chosen, None, right)
    return chosen


def _rows(
    report: Report, json_name: str, key: str, unit: str, is_list: bool
) -> Iterator[tuple[str, Any]]:
    """Yield where each row is and the row; what is wrong with the json becomes problems."""
    problems = report.problems
    stream = None
    try:
        stream = JsonStream(Entry(report.zip, json_name), LARGEST_JSON)
        if stream.is_list() != is_list:
            expected = "a list of objects" if is_list else f"an object with '{key}'"
            problems.add("json-layout", json_name, None, expected)
            return
        rows = tqdm(stream.rows(key), desc="json", unit=unit, disable=None)
        for index, row in enumerate(rows):
            where = f"{json_name}[{index}]"
            for constant in sorted(set(stream.constants)):
                problems.add("not-finite", where, Words(constant), "plain json", _image_id(row))
            yield where, row
    except JsonError as error:
        problems.add("broken-json", json_name, Words(error), "a whole json of results")
    except BrokenEntryError as error:
        problems.add("broken-entry", json_name, Words(error), "a whole file")
    if stream and stream.non_ascii is not None:
        problems.add("non-ascii", json_name, Words(f"byte {stream.non_ascii}"), "ASCII only")


def _image_id(row: Any) -> int | None:
    """Return what a row says its image is, None if that is no integer."""
    image_id = row.get("image_id") if isinstance(row, dict) else None
    return image_id if is_integer(image_id) else None


def _check_detections(
    report: Report,
    target: Target,
    stem: str,
    json_name: str,
    entries: list[zipfile.ZipInfo],
) -> None:
    problems = report.problems
    for entry in entries:
        if entry.is_dir() or "/" in entry.filename:
            problems.add("directory", entry.filename, None, f"only {stem}.json, no folder")
        elif entry.filename != json_name:
            problems.add("extra-file", entry.filename, None, f"only {stem}.json")
    counts: Counter[int] = Counter()
    largest, is_sorted = None, True
    for where, row in _rows(report, json_name, "annotations", "detection", is_list=True):
        if report.task == "detections":
            has_mask = isinstance(row, dict) and "segmentation" in row
            report.task = "segm" if has_mask else "bbox"
        report.entries += 1
        problems.extend(where, _image_id(row), detection_findings(row, report.task, target))
        image_id = image_of(row, target)
        if image_id is None:
            continue
        counts[image_id] += 1
        if is_sorted and largest is not None and image_id < largest:
            problems.add("unsorted", where, image_id, "detections sorted by image_id", image_id)
            is_sorted = False
        largest = image_id
    report.images = len(counts)
    for image_id, count in counts.items():
        if count > MAX_DETECTIONS:
            expected = f"at most {MAX_DETECTIONS} detections of an image"
            problems.add("too-many-detections", json_name, count, expected, image_id)
    if report.entries == 0 and not len(problems):
        problems.add("no-detections", json_name, 0, "detections")


def _check_panoptic(
    report: Report,
    target: Target,
    stem: str,
    json_name: str,
    entries: list[zipfile.ZipInfo],
) -> None:
    problems = report.problems
    folder = _check_png_folder(stem, json_name, entries, problems)
    pngs = {
        entry.filename
        for entry in entries
        if not entry.is_dir() and PurePosixPath(entry.filename).parent == PurePosixPath(folder)
    }
    pngs.discard(json_name)
    seen: set[int] = set()
    jobs = []
    expected_pngs = set()
    for where, row in _rows(report, json_name, "annotations", "image", is_list=False):
        problems.extend(where, _image_id(row), annotation_findings(row, target))
        image_id = image_of(row, target)
        if image_id in seen:
            problems.add("duplicate-image", where, image_id, "each image once", image_id)
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str):
            continue
        png = f"{folder}/{name}" if folder else name
        expected_pngs.add(png)
        segments = row.get("segments_info")
        segments = segments if isinstance(segments, list) else []
        report.entries += len(segments)
        if image_id is None or image_id in seen:
            continue
        seen.add(image_id)
        if png not in pngs:
            problems.add("missing-png", png, None, "a PNG for each image", image_id)
            continue
        ids = [segment.get("id") for segment in segments if isinstance(segment, dict)]
        ids = tuple(set(filter(is_integer, ids)))
        image = target.images[image_id]
        jobs.append((report.zip, png, image_id, image.height, image.width, ids))
    report.images = len(seen)
    # Of a json that could not be read to its end it is not known what it lacks.
    if not problems.has("json-layout", "broken-json", "broken-entry"):
        for image_id in sorted(target.images.keys() - seen):
            problems.add("missing-image", json_name, None, "an annotation of each image", image_id)
        for png in sorted(pngs - expected_pngs):
            problems.add("extra-png", png, None, "only PNGs that the json names")
    for job, found in zip(jobs, parallel_map(_check_png, jobs, description="PNGs"), strict=True):
        problems.extend(job[1], job[2], found)


def _check_png_folder(
    stem: str, json_name: str, entries: list[zipfile.ZipInfo], problems: Problems
) -> str:
    """Return the folder of the PNGs: that of the right name, or the one that most are in."""
    parents = Counter(
        str(PurePosixPath(entry.filename).parent)
        for entry in entries
        if entry.filename.lower().endswith(".png") and not entry.filename.startswith("__MACOSX/")
    )
    folder = stem if stem in parents or not parents else parents.most_common(1)[0][0]
    folder = "" if folder == "." else folder
    if folder != stem:
        problems.add("png-folder", f"{stem}.zip", Words(folder or "no folder"), f"{stem}/")
    for entry in entries:
        name = entry.filename
        if entry.is_dir():
            if name != f"{stem}/" and name != f"{folder}/":
                problems.add("directory", name, None, f"only {stem}/")
        elif name != json_name and str(PurePosixPath(name).parent) != (folder or "."):
            problems.add("extra-file", name, None, f"only {stem}.json and PNGs in {stem}/")
    return folder


def _check_png(job: tuple[str, str, int, int, int, tuple[int, ...]]) -> list[Finding]:
    path, name, _, height, width, segment_ids = job
    try:
        # Noise does not shrink.
        data = read_entry(path, name, 4 * height * width + _PNG_OVERHEAD)
    except BrokenEntryError as error:
        return [("broken-entry", Words(error), "a whole PNG")]
    return list(png_findings(data, height, width, segment_ids))
