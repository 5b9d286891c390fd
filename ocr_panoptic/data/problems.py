"""What can be wrong with COCO panoptic data: the kinds of problems, and one problem."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import NamedTuple

from ocr_panoptic.errors import printable

__all__ = ["KINDS", "Kind", "Problem", "shown"]


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        meaning: what is wrong and what comes of it.
        cure: what to do about it.
        is_note: True for what is worth knowing and breaks nothing.
    """

    meaning: str
    cure: str
    is_note: bool = False


_FIX_ENTRY = "correct the entry in the json"
_FETCH_FILE = "copy or download the file again"
_DERIVE = "derive the semantic PNGs again: datasets/prepare_coco_panoptic.py --overwrite"

KINDS = {
    # The json.
    "entry-not-object": Kind("an entry of a list is no json object", _FIX_ENTRY),
    "bad-id": Kind("an id is missing or no integer", "write ids as integers, without quotes"),
    "duplicate-category-id": Kind("two categories have one id", "give each category its own id"),
    "bad-isthing": Kind(
        "'isthing' of a category is missing or neither 0 nor 1",
        "say of each category whether it is a thing; instances and image_info jsons do not",
    ),
    "bad-category-name": Kind("'name' of a category is missing or no text", _FIX_ENTRY),
    "duplicate-category-name": Kind(
        "two categories have one name: tables and pictures cannot tell them apart",
        "rename one",
        is_note=True,
    ),
    "too-many-stuff": Kind(
        "more stuff categories than an 8-bit semantic label holds", "merge or leave out categories"
    ),
    "duplicate-image-id": Kind("two images have one id", "give each image its own id"),
    "bad-file-name": Kind("'file_name' is missing or names no file", _FIX_ENTRY),
    "file-name-outside": Kind(
        "'file_name' leaves its folder: labels would be written there",
        "name files relative to the root that the command is given, without '..'",
    ),
    "duplicate-file-name": Kind(
        "two images have one name but for the suffix: labels are found by it", "rename one"
    ),
    "duplicate-png": Kind("two annotations share one PNG", "give each image its own PNG"),
    "bad-size": Kind("'height' or 'width' of an image is no number of pixels", _FIX_ENTRY),
    "duplicate-annotation": Kind(
        "two annotations of one image: panopticapi takes the last without a word", "remove one"
    ),
    "annotation-without-image": Kind(
        "an annotation of an image that is not in 'images'", "add the image, or remove it"
    ),
    "image-without-annotation": Kind(
        "an image has no annotation: Detectron2 stops with a bare KeyError",
        "add the annotation (with an empty 'segments_info' if all is void), or remove the image",
    ),
    "no-annotations": Kind("'annotations' is empty", "use the json of a split with ground truth"),
    "bad-segments-info": Kind("'segments_info' is missing or no list", _FIX_ENTRY),
    "duplicate-segment-id": Kind(
        "two segments of an image have one id", "give each segment of an image its own id"
    ),
    "segment-id-range": Kind(
        "a segment id is 0, which is void, or does not fit into 8-bit RGB",
        "number the segments of an image from 1, in the json and in the PNG",
    ),
    "unknown-category": Kind("'category_id' of a segment is not in 'categories'", _FIX_ENTRY),
    "missing-iscrowd": Kind(
        "a segment has no 'iscrowd': panopticapi stops with a KeyError", 'add "iscrowd": 0'
    ),
    "bad-iscrowd": Kind("'iscrowd' of a segment is neither 0 nor 1", _FIX_ENTRY),
    "crowd-stuff": Kind(
        "a stuff segment is a crowd: it is left out of PQ; in COCO only things are crowds",
        "set its 'iscrowd' to 0",
    ),
    "crowds-of-one-category": Kind(
        "two crowds of one category in one image: panopticapi remembers the last, and predictions"
        " on the others count as false",
        "make them one segment",
        is_note=True,
    ),
    "missing-area": Kind(
        "a segment has no 'area': panopticapi stops with a KeyError", "write its number of pixels"
    ),
    "wrong-area": Kind(
        "'area' of a segment is not its number of pixels: panopticapi believes it, and PQ is wrong",
        "write its number of pixels",
    ),
    "missing-bbox": Kind("a segment has no 'bbox'", "write [x, y, width, height] of its pixels"),
    "wrong-bbox": Kind(
        "'bbox' of a segment is not [x, y, width, height] of its pixels",
        "write that of its pixels, crowds too",
    ),
    # The images.
    "missing-image": Kind("an image file is not there or cannot be opened", _FETCH_FILE),
    "not-an-image": Kind(
        "a file is no image that Pillow can read, and so Detectron2 cannot",
        "save it as JPEG or PNG",
    ),
    "broken-image": Kind("an image is truncated or broken", _FETCH_FILE),
    "image-mode": Kind(
        "an image has more than 8 bits a channel: Detectron2 cuts off what is above 255",
        "save it with 8 bits a channel",
    ),
    "image-size": Kind("an image has not the size that the json says", "correct the json"),
    "image-rotation": Kind(
        "an image has the json's size only before its EXIF orientation, which Detectron2 applies",
        "remove the EXIF orientation where the labels are of the image as it is stored",
    ),
    "exif-orientation": Kind(
        "an image has an EXIF orientation, which Detectron2 applies: its labels must be turned too",
        "look at it with its labels; save it turned and without EXIF",
        is_note=True,
    ),
    "image-suffix": Kind(
        "images end in something else than .jpg, which alone Detectron2's"
        " register_coco_panoptic_separated looks for",
        "nothing for DATASETS.CUSTOM, which takes any suffix; otherwise save them as .jpg",
        is_note=True,
    ),
    "unnamed-image": Kind(
        "an image lies in the folder and is not in the json",
        "annotate it or remove it, unless another split's json names it",
        is_note=True,
    ),
    # The panoptic PNGs.
    "missing-png": Kind("a panoptic PNG is not there or cannot be opened", _FETCH_FILE),
    "not-a-png": Kind("a panoptic file is no PNG: other formats change ids", "save it as PNG"),
    "png-mode": Kind(
        "a panoptic PNG is not 8-bit RGB, R + 256 G + 65536 B being the segment id",
        "write ids as 8-bit RGB: panopticapi.utils.id2rgb",
    ),
    "broken-png": Kind("a panoptic PNG is truncated or broken", _FETCH_FILE),
    "png-size": Kind(
        "a panoptic PNG has not the size that the json says of its image; its areas and boxes are"
        " not compared",
        "make both of one size",
    ),
    "unknown-segment-id": Kind(
        "pixels have an id that no segment of the json has: panopticapi stops with a KeyError",
        "add the segment to 'segments_info', or make the pixels 0 (void)",
    ),
    "segment-without-pixels": Kind(
        "a segment of the json has no pixel: panopticapi stops with a KeyError",
        "remove the segment from 'segments_info'",
    ),
    "unnamed-png": Kind(
        "a PNG lies in the folder and is not in the json", "remove it, or add it", is_note=True
    ),
    # The semantic PNGs, where --sem-seg-root is given.
    "missing-sem-seg": Kind("a semantic PNG is not there or cannot be opened", _DERIVE),
    "sem-seg-mode": Kind("a semantic PNG is not 8-bit greyscale", _DERIVE),
    "broken-sem-seg": Kind("a semantic PNG is truncated or broken, or no PNG", _DERIVE),
    "sem-seg-size": Kind("a semantic PNG has not the size that the json says", _DERIVE),
    "sem-seg-value": Kind("a semantic label is no class and not 255", _DERIVE),
    "sem-seg-differs": Kind("semantic labels are not those of the panoptic PNG", _DERIVE),
}
"""Name -> :class:`Kind`, in the order in which a report tells them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        kind: a key of :data:`KINDS`.
        file: the image or PNG that it concerns, otherwise the json.
        id: of the category, image or segment; for an annotation its image's; None without one.
        value: what was found, None where nothing was.
        expected: what was expected: text, a number or a list.
        place: file, and entry of the json, in words.
        found: ``value`` in words; empty where ``place`` says it.
    """

    kind: str
    file: str
    id: int | None
    value: object
    expected: object
    place: str
    found: str

    @property
    def message(self) -> str:
        """One line that says where, what, and what was expected."""
        found = f": {self.found}" if self.found else ""
        return printable(f"{self.place}{found}; expected {self.expected}")

    def to_json(self) -> dict:
        """Return what a json can hold: ``kind``, ``file``, ``id``, ``value``, ``expected``."""
        return {
            "kind": self.kind,
            "file": self.file,
            "id": _plain(self.id),
            "value": _plain(self.value),
            "expected": self.expected,
        }


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 120


def shown(value: object) -> str:
    """Return ``repr(value)``, shortened where it is long or deep."""
    return _repr.repr(value)


def _plain(value: object) -> object:
    """Return a json value as it is if every json reader takes it, otherwise its text."""
    is_plain = (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, int) and abs(value) < 2**63)
        or (isinstance(value, float) and math.isfinite(value))
        or (isinstance(value, str) and len(value) <= 1000)
        or (isinstance(value, list) and len(value) <= 4 and all(_is_number(v) for v in value))
    )
    return value if is_plain else shown(value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63
