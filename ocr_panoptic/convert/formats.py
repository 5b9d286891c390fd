"""The formats, and which can be made of which."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ocr_panoptic.errors import InputError

from . import panoptic, resnet
from .conversion import Conversion
from .files import read_weights
from .heads import read_head, write_head
from .isa import ISA_HEAD, MMSEG_ISA, OPENSEG_ISA
from .ocr import MMSEG_OCR, OCR_HEAD, OPENSEG_OCR

__all__ = [
    "CONVERSIONS",
    "FORMATS",
    "OWN_FORMATS",
    "Options",
    "check_formats",
    "checkpoint_of",
    "convert_checkpoint",
]

FORMATS = {
    "torchvision": "torchvision's resnet18 to resnet152",
    "timm": "timm's ResNets of the same architecture",
    "detectron2": "a ResNet of Detectron2",
    "panoptic-fpn": "Detectron2's panoptic_fpn_*",
    "panoptic-fpn-ocr": "panoptic_fpn_ocr_* of this project",
    "openseg-ocr": "OCR in openseg.pytorch and HRNet-Semantic-Segmentation",
    "mmseg-ocr": "OCRHead of mmsegmentation",
    "ocr": "the OCR stage of OCRSemSegFPNHead",
    "openseg-isa": "ISANet in openseg.pytorch",
    "mmseg-isa": "ISAHead of mmsegmentation",
    "isa": "the base_oc_isa of ContextSemSegFPNHead",
}
"""Name -> what it is."""


@dataclass(frozen=True)
class Options:
    """How to convert.

    Attributes:
        allow_inexact: go on where the result does not compute the same.
        num_classes: K of the semantic prediction, for "panoptic-fpn-ocr"; None for the file's.
        prefix: what to put in front of the names of "ocr" and "isa"; None for "sem_seg_head.".
        base: weights of a model to put "ocr" or "isa" into; None for the head alone.
    """

    allow_inexact: bool = False
    num_classes: int | None = None
    prefix: str | None = None
    base: Path | None = None


def _from_resnet(conversion: Conversion, options: Options, *, timm: bool) -> None:
    resnet.to_detectron2(conversion, timm=timm)


def _to_resnet(conversion: Conversion, options: Options) -> None:
    resnet.from_detectron2(conversion)


def _with_ocr(conversion: Conversion, options: Options) -> None:
    panoptic.to_ocr(conversion, num_classes=options.num_classes)


def _without_ocr(conversion: Conversion, options: Options) -> None:
    panoptic.from_ocr(conversion)


def _conversions() -> dict[tuple[str, str], Callable[[Conversion, Options], None]]:
    table = {
        ("panoptic-fpn", "panoptic-fpn-ocr"): _with_ocr,
        ("panoptic-fpn-ocr", "panoptic-fpn"): _without_ocr,
    }
    for name in ("torchvision", "timm"):
        table[name, "detectron2"] = functools.partial(_from_resnet, timm=name == "timm")
        table["detectron2", name] = _to_resnet
    for name, own, head, layouts in (
        ("openseg-ocr", "ocr", OCR_HEAD, OPENSEG_OCR),
        ("mmseg-ocr", "ocr", OCR_HEAD, MMSEG_OCR),
        ("openseg-isa", "isa", ISA_HEAD, OPENSEG_ISA),
        ("mmseg-isa", "isa", ISA_HEAD, MMSEG_ISA),
    ):
        table[name, own] = lambda conversion, options, head=head, layouts=layouts: read_head(
            conversion, head, layouts, _prefix(options)
        )
        table[own, name] = lambda conversion, options, head=head, layouts=layouts: write_head(
            conversion, head, layouts
        )
    return table


CONVERSIONS = _conversions()
"""(format, format wanted) -> what fills a conversion."""
_OWN_HEADS = ("ocr", "isa")
OWN_FORMATS = ("detectron2", "panoptic-fpn", "panoptic-fpn-ocr", *_OWN_HEADS)
"""What models of Detectron2 configs load."""


def check_formats(source: str, target: str, options: Options) -> None:
    """See that one format can be made of another, with these options.

    Raises:
        InputError: says what there is.
    """
    for flag, name in (("--from", source), ("--to", target)):
        if name not in FORMATS:
            raise InputError(f"{flag} {name}: expected one of {' '.join(FORMATS)}")
    if (source, target) not in CONVERSIONS:
        targets = [to for of, to in CONVERSIONS if of == source]
        raise InputError(f"--from {source} --to {target}: expected --to {' or '.join(targets)}")
    if options.num_classes is not None and target != "panoptic-fpn-ocr":
        raise InputError(f"--num-classes with --to {target}: expected --to panoptic-fpn-ocr")
    if options.num_classes is not None and options.num_classes < 1:
        raise InputError(f"--num-classes {options.num_classes}: expected 1 or more")
    for flag, value in (("--base", options.base), ("--prefix", options.prefix)):
        if value is not None and target not in _OWN_HEADS:
            raise InputError(f"{flag} with --to {target}: expected --to {' or '.join(_OWN_HEADS)}")
    if options.prefix and not options.prefix.endswith("."):
        raise InputError(f"--prefix {options.prefix}: expected a name that ends with a dot, or ''")


def convert_checkpoint(
    source: str,
    target: str,
    path: Path,
    *,
    options: Options = Options(),
    trust: bool = False,
) -> Conversion:
    """Read a checkpoint and convert it; nothing is written.

    Args:
        source: its format, of :data:`FORMATS`.
        target: the format wanted.
        path: the file.
        options: how.
        trust: as for :func:`~ocr_panoptic.engine.safe_load.load_checkpoint_file`.

    Raises:
        InputError: for a format that is not known or cannot be made of the other, and a file that
            cannot be read or does not fit.
    """
    check_formats(source, target, options)
    conversion = Conversion(str(path), read_weights(path, trust=trust), options.allow_inexact)
    CONVERSIONS[source, target](conversion, options)
    if options.base is not None:
        _put_into(conversion, target, read_weights(options.base, trust=trust), options)
    return conversion


def _put_into(
    conversion: Conversion, target: str, base: dict[str, Tensor], options: Options
) -> None:
    """Add the weights of a whole model; those of the head come from the conversion."""
    # ISA takes the place of the prediction that OCR has its regions from.
    replaced = f"{_prefix(options)}predictor." if target == "isa" else None
    kept = {
        name: tensor
        for name, tensor in base.items()
        if name not in conversion.output and not (replaced and name.startswith(replaced))
    }
    conversion.output = {**kept, **conversion.output}
    conversion.notes.append(f"{len(kept)} of {len(base)} tensors of {options.base} are in it")


def _prefix(options: Options) -> str:
    return "sem_seg_head." if options.prefix is None else options.prefix


def checkpoint_of(conversion: Conversion, target: str) -> dict[str, object]:
    """Return what a file of a format holds."""
    if target in ("torchvision", "timm"):
        return dict(conversion.output)
    if target.startswith(("openseg", "mmseg")):
        return {"state_dict": dict(conversion.output)}
    content: dict[str, object] = {"model": dict(conversion.output), "__author__": "ocr_panoptic"}
    if target == "detectron2":
        # Its names begin at the ResNet: Detectron2 looks for the model's that end like them.
        content["matching_heuristics"] = True
    return content
