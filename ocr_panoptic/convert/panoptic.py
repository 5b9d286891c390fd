"""Panoptic-FPN of the model zoo as a start for Panoptic-FPN with OCR, and back."""

from __future__ import annotations

from fnmatch import fnmatchcase

from .conversion import Conversion, size_of
from .units import find_prefix

__all__ = ["from_ocr", "to_ocr"]

_PREDICTOR = "sem_seg_head.predictor"
# A tensor of each part that a Panoptic-FPN has.
_PARTS = (
    "backbone.bottom_up.stem.conv1.weight",
    *(
        f"backbone.fpn_{kind}{level}.weight"
        for kind in ("lateral", "output")
        for level in range(2, 6)
    ),
    "proposal_generator.rpn_head.conv.weight",
    "proposal_generator.rpn_head.objectness_logits.weight",
    "proposal_generator.rpn_head.anchor_deltas.weight",
    "roi_heads.box_predictor.cls_score.weight",
    "roi_heads.box_predictor.bbox_pred.weight",
    "roi_heads.mask_head.predictor.weight",
    *(f"sem_seg_head.p{level}.0.weight" for level in range(2, 6)),
    f"{_PREDICTOR}.bias",
)
_OCR = ("sem_seg_head.ocr.*", "sem_seg_head.ocr_transform.*", "sem_seg_head.ocr_predictor.*")
# Old files hold them; they are the config's.
_CONSTANTS = ("pixel_mean", "pixel_std")
_CELL_ANCHORS = "*.cell_anchors.*"


def to_ocr(conversion: Conversion, *, num_classes: int | None) -> None:
    """Keep a Panoptic-FPN whole; its semantic predictor becomes the predictor of the regions.

    Args:
        conversion: its result is filled.
        num_classes: K wanted; None for the file's. With another, the predictor is left out.

    Raises:
        InputError: the file is no Panoptic-FPN, or has OCR already.
    """
    classes = _require_panoptic_fpn(conversion)
    for name in conversion.weights:
        if any(fnmatchcase(name, pattern) for pattern in _OCR):
            conversion.refuse(f"{name} is of OCR already, expected a Panoptic-FPN without")
    keep = num_classes in (None, classes)
    for name in conversion.weights:
        if _is_constant(name):
            conversion.left_out[name] = "a constant of the config"
        elif name.startswith(f"{_PREDICTOR}.") and not keep:
            conversion.left_out[name] = f"{classes} classes, not {num_classes}: it starts anew"
        else:
            conversion.rename(name, name)
    for pattern in _OCR:
        conversion.missing[pattern] = "OCR starts anew"
    if not keep:
        conversion.missing[f"{_PREDICTOR}.*"] = "the predictor of the regions starts anew"
    conversion.config.update(
        {
            "MODEL.SEM_SEG_HEAD.NAME": "OCRSemSegFPNHead",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes or classes,
        }
    )
    if keep:
        conversion.notes.append(f"{_PREDICTOR} now predicts the regions, of {classes} classes")


def from_ocr(conversion: Conversion) -> None:
    """Take OCR out of a Panoptic-FPN: what is left predicts from the predictor of the regions.

    Raises:
        InputError: the file is no Panoptic-FPN with OCR.
    """
    classes = _require_panoptic_fpn(conversion)
    if find_prefix(conversion, "sem_seg_head.ocr.query.0.weight") is None:
        conversion.refuse("it has no sem_seg_head.ocr.query.0.weight")
    for name in conversion.weights:
        if any(fnmatchcase(name, pattern) for pattern in _OCR):
            conversion.left_out[name] = "of OCR"
        elif _is_constant(name):
            conversion.left_out[name] = "a constant of the config"
        else:
            conversion.rename(name, name)
    conversion.config.update(
        {
            "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": classes,
        }
    )


def _require_panoptic_fpn(conversion: Conversion) -> int:
    """See that a file holds a Panoptic-FPN; return its number of semantic classes."""
    for name in _PARTS:
        conversion.get(name)
    kernel = conversion.get_kernel(f"{_PREDICTOR}.weight")
    bias = conversion.get(f"{_PREDICTOR}.bias")
    width = len(conversion.get_kernel("sem_seg_head.p2.0.weight"))
    if kernel.shape[1:] != (width, 1, 1) or bias.shape != kernel.shape[:1]:
        conversion.refuse(
            f"{_PREDICTOR} is {size_of(kernel)} with a bias of {size_of(bias)}, expected a "
            f"classifier of {width} channels"
        )
    return len(kernel)


def _is_constant(name: str) -> bool:
    return name in _CONSTANTS or fnmatchcase(name, _CELL_ANCHORS)
