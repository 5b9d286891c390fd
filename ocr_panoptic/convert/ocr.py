"""OCR heads: openseg.pytorch, HRNet-Semantic-Segmentation, mmsegmentation, and ours."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ocr_panoptic.layers import OCRModule

from .conversion import Conversion
from .heads import Head
from .units import Layout, Unit

__all__ = ["MMSEG_OCR", "OCR_HEAD", "OPENSEG_OCR"]


def _build(kernel: Callable[[str], Tensor], names: set[str]) -> OCRModule:
    keys, pixels = kernel("query.0").shape[:2]
    layers = sum(f"query.{index}.weight" in names for index in range(len(names)))
    return OCRModule(
        pixels, keys, len(kernel("fuse.0")), norm="BN", transform_layers=max(1, layers)
    )


def _describe(conversion: Conversion, weight: Callable[[str], Tensor | None]) -> None:
    keys, pixels = weight("ocr.query.0").shape[:2]
    conversion.config.update(
        {
            "MODEL.SEM_SEG_HEAD.NAME": "OCRSemSegFPNHead",
            "MODEL.SEM_SEG_HEAD.OCR.CHANNELS": pixels,
            "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS": keys,
            "MODEL.SEM_SEG_HEAD.OCR.TRANSFORM_LAYERS": 2,
            "MODEL.SEM_SEG_HEAD.OCR.NORM": "SyncBN",
            "MODEL.SEM_SEG_HEAD.OCR.MASK_PADDING": False,
        }
    )
    if (classifier := weight("ocr_predictor")) is not None:
        conversion.config["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = len(classifier)
    if (transform := weight("ocr_transform")) is not None:
        conversion.notes.append(
            f"ocr_transform reads {transform.shape[1]} channels; in a model with another "
            "MODEL.SEM_SEG_HEAD.CONVS_DIM it starts anew"
        )


OCR_HEAD = Head(
    block="ocr.",
    anchor="ocr.query.0.weight",
    before="ocr_transform",
    behind="ocr_predictor",
    reads="query.0",
    fuse="ocr.fuse.0",
    context_first=True,
    build=_build,
    describe=_describe,
)

_REGIONS = "the regions of the head here are Panoptic-FPN's own prediction"
_BACKBONE = "of the backbone"


def _openseg(block: str, before: str, behind: str, regions: str) -> Layout:
    """Return openseg's names, of which each network has its own around the block."""
    inner = f"{block}object_context_block"

    def transform(name: str, path: str, first: int = 0) -> Unit:
        return Unit(name, f"{path}.{first}", f"{path}.{first + 1}.0", foreign_bias=True)

    return Layout(
        units=(
            transform("ocr.query.0", f"{inner}.f_pixel"),
            transform("ocr.query.1", f"{inner}.f_pixel", 2),
            transform("ocr.key.0", f"{inner}.f_object"),
            transform("ocr.key.1", f"{inner}.f_object", 2),
            transform("ocr.value.0", f"{inner}.f_down"),
            transform("ocr.output.0", f"{inner}.f_up"),
            transform("ocr.fuse.0", f"{block}conv_bn_dropout"),
        ),
        around=(
            transform("ocr_transform", before),
            Unit("ocr_predictor", behind, bias=True, foreign_bias=True),
        ),
        block=block,
        context_first=True,
        others={"backbone.*": _BACKBONE, f"{regions}.*": _REGIONS},
        notes=("its predictions are enlarged with align_corners=True, those here without",),
    )


OPENSEG_OCR = (
    _openseg("spatial_ocr_head.", before="conv_3x3", behind="head", regions="dsn_head"),
    # HRNet in openseg.pytorch, and in HRNet-Semantic-Segmentation.
    _openseg("ocr_distri_head.", before="conv3x3", behind="cls_head", regions="aux_head"),
    _openseg("ocr_distri_head.", before="conv3x3_ocr", behind="cls_head", regions="aux_head"),
    # The module alone.
    _openseg("", before="conv_3x3", behind="head", regions="dsn_head"),
)


def _mmseg(head: str, regions: str) -> Layout:
    """Return mmsegmentation's names; its convolutions with a norm have no bias."""
    inner = f"{head}object_context_block"

    def transform(name: str, path: str) -> Unit:
        return Unit(name, f"{path}.conv", f"{path}.bn")

    return Layout(
        units=(
            transform("ocr.query.0", f"{inner}.query_project.0"),
            transform("ocr.query.1", f"{inner}.query_project.1"),
            transform("ocr.key.0", f"{inner}.key_project.0"),
            transform("ocr.key.1", f"{inner}.key_project.1"),
            transform("ocr.value.0", f"{inner}.value_project"),
            transform("ocr.output.0", f"{inner}.out_project"),
            transform("ocr.fuse.0", f"{inner}.bottleneck"),
        ),
        around=(
            transform("ocr_transform", f"{head}bottleneck"),
            Unit("ocr_predictor", f"{head}conv_seg", bias=True, foreign_bias=True),
        ),
        block=f"{inner}.",
        context_first=True,
        others={"backbone.*": _BACKBONE, f"{regions}*": _REGIONS},
    )


MMSEG_OCR = (
    _mmseg("decode_head.1.", regions="decode_head.0."),
    # The head alone.
    _mmseg("", regions="decode_head.0."),
)
