"""What is wrong with one entry of a result file: a detection, an annotation, a panoptic PNG."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ocr_panoptic.data.json_problems import MAX_SEGMENT_ID, is_integer
from ocr_panoptic.data.panoptic_json import panoptic_ids
from ocr_panoptic.data.png import PngError, decode_png, png_size
from ocr_panoptic.data.segments import measure_segments

from .problems import MISSING, Finding, Words
from .target import Target

__all__ = [
    "annotation_findings",
    "detection_findings",
    "image_of",
    "png_findings",
    "run_lengths",
]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RLE_CHARACTERS = 7  # Of five bits: no run of an image has more.


def image_of(row: Any, target: Target) -> int | None:
    """Return the image id of a detection or an annotation, None where it is no listed image."""
    image_id = row.get("image_id") if isinstance(row, dict) else None
    return image_id if is_integer(image_id) and image_id in target.images else None


def detection_findings(row: Any, task: str, target: Target) -> Iterator[Finding]:
    """Yield what is wrong with a detection.

    Args:
        row: of the json.
        task: "segm" or "bbox".
        target: the images and categories that it may name.
    """
    if not isinstance(row, dict):
        yield "no-object", row, "an object with image_id, category_id and score"
        return
    yield from _image_findings(row, target)
    yield from _category_findings(row, target)
    score = row.get("score", MISSING)
    if not _is_number(score) or not 0 <= score <= 1:
        yield "score", score, "a number from 0 to 1"
    if task == "bbox":
        box = row.get("bbox", MISSING)
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(map(_is_number, box))
            or min(box[2:]) < 0
        ):
            yield "bbox", box, "x, y, width, height: four numbers, neither size below 0"
        if "segmentation" in row:
            yield "mask-in-bbox-file", None, "bbox only"
    else:
        if "bbox" in row:
            yield "box-in-segm-file", None, "segmentation only: boxes change AP by size"
        image_id = image_of(row, target)
        size = None
        if image_id is not None:
            size = [target.images[image_id].height, target.images[image_id].width]
        yield from _mask_findings(row.get("segmentation", MISSING), size)


def annotation_findings(row: Any, target: Target) -> Iterator[Finding]:
    """Yield what is wrong with a panoptic annotation, but for its PNG.

    Args:
        row: of the json.
        target: the images and categories that it may name.
    """
    if not isinstance(row, dict):
        yield "no-object", row, "an object with image_id, file_name and segments_info"
        return
    yield from _image_findings(row, target)
    image_id = image_of(row, target)
    name = row.get("file_name", MISSING)
    if image_id is None:
        if not isinstance(name, str):
            yield "file-name", name, "the name of a PNG"
    elif name != target.images[image_id].png:
        yield "file-name", name, target.images[image_id].png
    segments = row.get("segments_info", MISSING)
    if not isinstance(segments, list):
        yield "segments-info", segments, "a list of objects with id and category_id"
        return
    seen = set()
    for segment in segments:
        if not isinstance(segment, dict):
            yield "no-object", segment, "a segment with id and category_id"
            continue
        segment_id = segment.get("id", MISSING)
        if not is_integer(segment_id) or not 0 < segment_id <= MAX_SEGMENT_ID:
            yield "segment-id", segment_id, f"an integer from 1 to {MAX_SEGMENT_ID}, 0 is void"
        elif segment_id in seen:
            yield "duplicate-segment", segment_id, "each id once in an image"
        else:
            seen.add(segment_id)
        yield from _category_findings(segment, target)


def png_findings(
    data: bytes, height: int, width: int, segment_ids: Collection[int]
) -> Iterator[Finding]:
    """Yield what is wrong with a panoptic PNG.

    It is decoded only if it has the image's size, and so takes no more memory than expected.

    Args:
        data: the file.
        height: of the image, in pixels.
        width: of the image, in pixels.
        segment_ids: those of its annotation.
    """
    found = png_size(data) if len(data) >= 24 and data.startswith(_PNG_SIGNATURE) else (0, 0)
    if found not in ((0, 0), (width, height)):
        yield "png-size", Words(f"{found[0]}x{found[1]}"), f"{width}x{height}"
        return
    try:
        present = set(measure_segments(panoptic_ids(decode_png(data, "RGB"))).ids.tolist()) - {0}
    except PngError as fault:
        yield "png", Words(fault.found), fault.expected
        return
    # Ids that no PNG can have are told of the json.
    listed = {segment_id for segment_id in segment_ids if 0 < segment_id <= MAX_SEGMENT_ID}
    for segment_id in sorted(present - listed):
        yield "segment-not-in-json", segment_id, "an id of segments_info"
    for segment_id in sorted(listed - present):
        yield "segment-without-pixels", segment_id, "an id of the PNG"


def run_lengths(counts: str) -> np.ndarray:
    """Return the runs of a compressed COCO RLE, (n,) int64 pixels; the first is background.

    pycocotools decodes any text without complaint.

    Raises:
        ValueError: if it is no such text.
    """
    characters = np.frombuffer(counts.encode("ascii"), dtype=np.uint8) - np.uint8(48)
    # Six bits each: five of a number, the lowest first, and one that says whether it goes on.
    last = np.flatnonzero(characters < 32)
    if not characters.size:
        return characters.astype(np.int64)
    if characters.max() > 63 or not last.size or last[-1] != characters.size - 1:
        raise ValueError("no RLE")
    lengths = last.copy()
    lengths[0] += 1
    lengths[1:] -= last[:-1]
    longest = int(lengths.max())
    if longest > _RLE_CHARACTERS:
        raise ValueError("no RLE")
    digits = (characters & 31).astype(np.int64)
    runs = digits[last]
    # The highest bit of a number is its sign.
    runs[runs > 15] -= 32
    for place in range(1, longest):
        longer = lengths > place
        runs[longer] = (runs[longer] << 5) + digits[last[longer] - place]
    # From the fourth on, each is the difference to the one but last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise ValueError("a run below 0")
    return runs


def _image_findings(row: Mapping[str, Any], target: Target) -> Iterator[Finding]:
    image_id = row.get("image_id", MISSING)
    if not is_integer(image_id):
        yield "image-id", image_id, "an integer"
    elif image_id not in target.images:
        expected = f"one of the {len(target.images)} ids in {target.image_info}"
        yield "foreign-image", image_id, expected


def _category_findings(row: Mapping[str, Any], target: Target) -> Iterator[Finding]:
    category_id = row.get("category_id", MISSING)
    if is_integer(category_id) and category_id in target.categories:
        return
    expected = f"one of the {len(target.categories)} category ids of the data set"
    if is_integer(category_id) and 0 <= category_id < len(target.categories):
        expected += ", not contiguous ones"
    yield "category-id", category_id, expected


def _mask_findings(mask: Any, size: list[int] | None) -> Iterator[Finding]:
    """Yield what is wrong with a mask, ``size`` being its image's, where that is known."""
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
        yield "segmentation", mask, "a compressed RLE: an object with size and counts, a text"
        return
    found = mask.get("size", MISSING)
    if size is None:
        return
    if found != size or not all(is_integer(side) for side in found):
        yield "rle-size", found, f"{size}, the image's height and width"
        return
    try:
        pixels = int(run_lengths(mask["counts"]).sum())
    except ValueError:
        yield "rle-counts", mask["counts"], "an RLE that can be decoded"
        return
    if pixels != size[0] * size[1]:
        yield "rle-counts", Words(f"runs of {pixels} pixels"), f"{size[0] * size[1]}, the image's"


def _is_number(value: Any) -> bool:
    # An int of a json may be too large for a float.
    return type(value) in (int, float) and abs(value) < 2**63
