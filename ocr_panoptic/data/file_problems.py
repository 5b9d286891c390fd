"""Every problem of an image's files: the image, its panoptic PNG, its semantic PNG."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ocr_panoptic.data.images import MODES_OF_8_BITS, ON_ITS_SIDE, exif_orientation
from ocr_panoptic.data.panoptic_json import panoptic_ids
from ocr_panoptic.data.png import PngError, decode_png
from ocr_panoptic.data.problems import Problem, shown
from ocr_panoptic.data.segments import SegmentMap, measure_segments
from ocr_panoptic.files import open_regular

__all__ = ["UNKNOWN_LABEL", "FileCheck", "FileChecker", "ImageFiles", "SegmentEntry"]

UNKNOWN_LABEL = -1
"""Semantic label of a segment whose category is not known."""

# A photo in place of a panoptic PNG has some hundred thousand ids.
_MAX_UNKNOWN_IDS = 100
_IGNORED, _NUM_LABELS = 255, 256
_PANOPTIC_KINDS = {
    "missing": "missing-png",
    "format": "not-a-png",
    "mode": "png-mode",
    "broken": "broken-png",
}
_SEM_SEG_KINDS = {
    "missing": "missing-sem-seg",
    "format": "broken-sem-seg",
    "mode": "sem-seg-mode",
    "broken": "broken-sem-seg",
}


class SegmentEntry(NamedTuple):
    """What the json says of a segment; None for what it does not say.

    Attributes:
        id: 1 to 2**24 - 1.
        area: pixels.
        bbox: x, y, width, height.
        label: in the semantic PNG, or :data:`UNKNOWN_LABEL`.
    """

    id: int
    area: float | None
    bbox: list[float] | None
    label: int


class ImageFiles(NamedTuple):
    """What the json says of an image, as far as it can be checked; None for what cannot.

    Attributes:
        image_id: of the json.
        size: width and height.
        image_name: file in the image root.
        png_name: file in the panoptic root.
        segments: of the panoptic PNG.
        sem_seg_name: file in the root of the semantic PNGs.
    """

    image_id: int | None
    size: tuple[int, int] | None
    image_name: str | None
    png_name: str | None
    segments: list[SegmentEntry] | None
    sem_seg_name: str | None


class FileCheck(NamedTuple):
    """What :class:`FileChecker` found.

    Attributes:
        problems: of the files.
        label_pixels: (256,) int64 pixels of each semantic label, None without a semantic PNG.
    """

    problems: list[Problem]
    label_pixels: np.ndarray | None


@dataclass(frozen=True)
class FileChecker:
    """Checks the files of one image at a time, in any process.

    Attributes:
        image_root: folder of the images.
        panoptic_root: folder of the panoptic PNGs.
        sem_seg_root: folder of the semantic PNGs, None for none.
        deep: whether to decode images; panoptic PNGs always are.
        num_labels: of the semantic PNGs, the things' 0 among them; None where it is not known.
    """

    image_root: Path
    panoptic_root: Path
    sem_seg_root: Path | None = None
    deep: bool = False
    num_labels: int | None = None

    def __call__(self, files: ImageFiles) -> FileCheck:
        """Check the files of one image."""
        problems: list[Problem] = []
        segment_map = label_pixels = None
        if files.image_name is not None:
            _check_image(_File(self.image_root / files.image_name, problems), files, self.deep)
        if files.png_name is not None:
            file = _File(self.panoptic_root / files.png_name, problems)
            segment_map = _check_panoptic_png(file, files)
        if self.sem_seg_root is not None and files.sem_seg_name is not None:
            file = _File(self.sem_seg_root / files.sem_seg_name, problems)
            label_pixels = _check_sem_seg(file, files, segment_map, self.num_labels)
        return FileCheck(problems, label_pixels)


class _Memory(threading.local):
    """Memory for one map of ids in each thread: fresh megabytes cost more than filling them."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def pixels(self, height: int, width: int) -> np.ndarray:
        size = height * width * 4
        if self._bytes.size < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].reshape(height, width, 4)


_memory = _Memory()


class _File:
    """A file, and where its problems are told."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self._path = path
        self._problems = problems

    def tell(
        self,
        kind: str,
        row_id: int | None,
        found: str,
        expected: object,
        value: object = None,
    ) -> None:
        path = str(self._path)
        self._problems.append(Problem(kind, path, row_id, value, expected, path, found))

    def open(self, kind: str, image_id: int | None, expected: str) -> BinaryIO | None:
        """Open the file; where that fails, tell a problem of ``kind`` and return None."""
        try:
            return open_regular(self._path)
        except OSError as error:
            self.tell(kind, image_id, error.strerror or str(error), expected)
            return None

    def read_png(
        self, image_id: int | None, expected: str, mode: str, kinds: dict[str, str]
    ) -> np.ndarray | None:
        """Decode the file as :func:`~ocr_panoptic.data.png.decode_png` does.

        Where that fails, tell a problem and return None; ``kinds`` names it for each kind of
        :class:`~ocr_panoptic.data.png.PngError`, and for ``missing``.
        """
        opened = self.open(kinds["missing"], image_id, expected)
        if opened is None:
            return None
        try:
            with opened:
                content = opened.read()
            return decode_png(content, mode)
        except OSError as error:
            self.tell(kinds["broken"], image_id, error.strerror or str(error), "a whole file")
        except PngError as fault:
            self.tell(kinds[fault.kind], image_id, fault.found, fault.expected)
        return None


def _check_image(file: _File, files: ImageFiles, deep: bool) -> None:
    image_id = files.image_id
    opened = file.open("missing-image", image_id, f"the image of image id {shown(image_id)}")
    if opened is None:
        return
    try:
        with opened, warnings.catch_warnings():
            # Of Pillow, about EXIF that nobody needs here, in a place that names no file.
            warnings.simplefilter("ignore")
            with Image.open(opened) as image:
                size, mode = image.size, image.mode
                orientation = _orientation(image, deep)
                if deep:
                    # An eighth of a JPEG's size still takes every byte, in two thirds of the time.
                    image.draft(None, (1, 1))
                    image.load()
    except UnidentifiedImageError:
        file.tell("not-an-image", image_id, "no image that Pillow can read", "a JPEG or PNG")
        return
    # A broken file can raise nearly anything from within Pillow's parser.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        file.tell("broken-image", image_id, f"broken image ({reason})", "a whole file")
        return
    if mode not in MODES_OF_8_BITS:
        found = f"image of Pillow's mode {mode}"
        file.tell("image-mode", image_id, found, "8 bits a channel, as grey or RGB", mode)
    _check_image_size(file, files, size, orientation)


def _orientation(image: Image.Image, deep: bool) -> int | None:
    """Return the EXIF orientation as Detectron2 takes it."""
    # Pillow decodes a whole PNG to look behind its pixels.
    if image.format == "PNG" and not deep and "exif" not in image.info:
        return None
    return exif_orientation(image)


def _check_image_size(
    file: _File, files: ImageFiles, stored: tuple[int, int], orientation: int | None
) -> None:
    turned = stored[::-1] if orientation in ON_ITS_SIDE else stored
    if files.size is not None and turned != files.size:
        expected = f"{_by(files.size)}, as image id {shown(files.image_id)} has in the json"
        if stored == files.size:
            kind = "image-rotation"
            found = f"{_by(turned)} pixels, turned as its EXIF orientation {orientation} says"
        else:
            kind, found = "image-size", f"{_by(turned)} pixels"
        file.tell(kind, files.image_id, found, expected, _by(turned))
    elif orientation in range(2, 9):
        found = f"EXIF orientation {orientation}"
        expected = "none or 1, or labels of the image as it is turned"
        file.tell("exif-orientation", files.image_id, found, expected, orientation)


def _check_panoptic_png(file: _File, files: ImageFiles) -> SegmentMap | None:
    """Return the segments of the PNG; None where they are not those of an image of its size."""
    image_id = files.image_id
    expected = f"the panoptic PNG of image_id {shown(image_id)}"
    pixels = file.read_png(image_id, expected, "RGB", _PANOPTIC_KINDS)
    if pixels is None:
        return None
    segment_map = measure_segments(panoptic_ids(pixels, _memory.pixels(*pixels.shape[:2])))
    size = pixels.shape[1::-1]
    has_size = files.size is None or size == files.size
    if not has_size:
        expected = f"{_by(files.size)}, as image id {shown(image_id)} has in the json"
        file.tell("png-size", image_id, f"{_by(size)} pixels", expected, _by(size))
    if files.segments is not None:
        _check_segments(file, files, segment_map, has_size)
    return segment_map if has_size else None


def _check_segments(
    file: _File, files: ImageFiles, segment_map: SegmentMap, has_size: bool
) -> None:
    areas = dict(zip(segment_map.ids.tolist(), segment_map.areas.tolist(), strict=True))
    boxes = dict(zip(areas, segment_map.boxes.tolist(), strict=True))
    areas.pop(0, None)
    for segment in files.segments:
        area = areas.pop(segment.id, None)
        if area is None:
            found = f"no pixel with id {segment.id}"
            expected = f"at least one, as segments_info of image_id {shown(files.image_id)} has it"
            file.tell("segment-without-pixels", segment.id, found, expected)
        elif has_size:
            for kind, key, said, measured in (
                ("wrong-area", "area", segment.area, area),
                ("wrong-bbox", "bbox", segment.bbox, boxes[segment.id]),
            ):
                if said is not None and said != measured:
                    found = f"segment id {segment.id}: '{key}' is {shown(said)}"
                    file.tell(kind, segment.id, found, measured, said)
    # What is left is in no segment.
    unknown = sorted(areas.items(), key=lambda item: -item[1])
    expected = f"0 or an id in segments_info of image_id {shown(files.image_id)}"
    for segment_id, area in unknown[:_MAX_UNKNOWN_IDS]:
        found = f"{area} pixels with id {segment_id}"
        file.tell("unknown-segment-id", segment_id, found, expected, area)
    if len(unknown) > _MAX_UNKNOWN_IDS:
        more = len(unknown) - _MAX_UNKNOWN_IDS
        found = f"{more} more such ids"
        file.tell("unknown-segment-id", None, found, expected, more)


def _check_sem_seg(
    file: _File, files: ImageFiles, segment_map: SegmentMap | None, num_labels: int | None
) -> np.ndarray | None:
    """Return the pixels of each label, (256,) int64."""
    image_id = files.image_id
    expected = f"the semantic PNG of image id {shown(image_id)}"
    labels = file.read_png(image_id, expected, "greyscale", _SEM_SEG_KINDS)
    if labels is None:
        return None
    label_pixels = np.bincount(labels.ravel(), minlength=_NUM_LABELS)
    if num_labels is not None:
        for value in np.flatnonzero(label_pixels[num_labels:_IGNORED]) + num_labels:
            found = f"{label_pixels[value]} pixels with label {value}"
            expected = f"0 to {num_labels - 1}, or {_IGNORED} for unlabelled"
            file.tell("sem-seg-value", image_id, found, expected, int(value))
    size = labels.shape[::-1]
    if files.size is not None and size != files.size:
        expected = f"{_by(files.size)}, as image id {shown(image_id)} has in the json"
        file.tell("sem-seg-size", image_id, f"{_by(size)} pixels", expected, _by(size))
    elif segment_map is not None and labels.shape != segment_map.shape:
        expected = f"{_by(segment_map.shape[::-1])}, as the panoptic PNG has"
        file.tell("sem-seg-size", image_id, f"{_by(size)} pixels", expected, _by(size))
    elif segment_map is not None and files.segments is not None:
        label_of = {segment.id: segment.label for segment in files.segments}
        label_of[0] = _IGNORED
        # Pixels of a segment whose label is not known are not compared.
        table = [label_of.get(segment_id, UNKNOWN_LABEL) for segment_id in segment_map.ids.tolist()]
        derived = segment_map.paint(np.array(table, np.int16))
        differing = np.count_nonzero((derived != labels) & (derived != UNKNOWN_LABEL))
        if differing:
            found = f"{differing} pixels differ from what the panoptic PNG says"
            expected = "things 0, stuff 1 to n in the order of the category ids, unlabelled 255"
            file.tell("sem-seg-differs", image_id, found, expected, int(differing))
    return label_pixels


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
