"""ISA heads: openseg.pytorch, mmsegmentation, and ours."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ocr_panoptic.layers import BaseOC, InterlacedSparseSelfAttention

from .conversion import Conversion
from .heads import Head
from .units import Layout, Unit

__all__ = ["ISA_HEAD", "MMSEG_ISA", "OPENSEG_ISA"]

_STAGES = "context.context.relations"


def _build(kernel: Callable[[str], Tensor], names: set[str]) -> BaseOC:
    relations = "context.relations"
    keys, pixels = kernel(f"{relations}.global.query.0").shape[:2]
    context = len(kernel(f"{relations}.local.output"))
    layers = sum(f"{relations}.global.query.{index}.weight" in names for index in range(len(names)))
    isa = InterlacedSparseSelfAttention(
        pixels,
        context,
        key_channels=keys,
        value_channels=len(kernel(f"{relations}.global.value")),
        norm="BN",
        output_norm="BN" if f"{relations}.global.output.norm.weight" in names else "",
        transform_layers=max(1, layers),
    )
    return BaseOC(isa, pixels, context, len(kernel("fuse.0")), norm="BN")


def _describe(conversion: Conversion, weight: Callable[[str], Tensor | None]) -> None:
    keys, pixels = weight(f"{_STAGES}.global.query.0").shape[:2]
    values = len(weight(f"{_STAGES}.global.value"))
    conversion.config.update(
        {
            "MODEL.SEM_SEG_HEAD.NAME": "ContextSemSegFPNHead",
            "MODEL.SEM_SEG_HEAD.CONTEXT.NAME": "base_oc_isa",
            "MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS": pixels,
            "MODEL.SEM_SEG_HEAD.CONTEXT.KEY_CHANNELS": keys,
            "MODEL.SEM_SEG_HEAD.CONTEXT.VALUE_CHANNELS": values,
            "MODEL.SEM_SEG_HEAD.CONTEXT.NORM": "SyncBN",
            "MODEL.SEM_SEG_HEAD.CONTEXT.OUTPUT_NORM": "SyncBN",
            "MODEL.SEM_SEG_HEAD.CONTEXT.MASK_PADDING": False,
        }
    )
    if (classifier := weight("context_predictor")) is not None:
        conversion.config["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = len(classifier)
    if (transform := weight("context_transform")) is not None:
        conversion.notes.append(
            f"context_transform reads {transform.shape[1]} channels; in a model with another "
            "MODEL.SEM_SEG_HEAD.CONVS_DIM it starts anew"
        )
    conversion.notes.append(
        "the partitions are not in the file: MODEL.SEM_SEG_HEAD.CONTEXT.PARTITIONS is its "
        "down_factor, (8, 8) by default"
    )


ISA_HEAD = Head(
    block="context.",
    anchor=f"{_STAGES}.global.query.0.weight",
    before="context_transform",
    behind="context_predictor",
    reads="context.relations.global.query.0",
    fuse="context.fuse.0",
    context_first=False,
    build=_build,
    describe=_describe,
)

_BACKBONE = "of the backbone"
_AUXILIARY = "an auxiliary prediction, used in training only"


def _openseg(before: str, block: str) -> Layout:
    """Return openseg's names; in its block no convolution has a bias."""

    def transform(name: str, path: str, first: int = 0, foreign_bias: bool = False) -> Unit:
        return Unit(name, f"{path}.{first}", f"{path}.{first + 1}.0", foreign_bias=foreign_bias)

    units = []
    for stage, path in (("global", "long_range_sa"), ("local", "short_range_sa")):
        own, path = f"{_STAGES}.{stage}", f"{block}stages.0.{path}"
        units += [
            transform(f"{own}.query.0", f"{path}.f_query"),
            transform(f"{own}.query.1", f"{path}.f_query", 2),
            transform(f"{own}.key.0", f"{path}.f_key"),
            transform(f"{own}.key.1", f"{path}.f_key", 2),
            Unit(f"{own}.value", f"{path}.f_value"),
            transform(f"{own}.output", f"{path}.W"),
        ]
    return Layout(
        units=(*units, transform("context.fuse.0", f"{block}conv_bn")),
        around=(
            transform("context_transform", before, foreign_bias=True),
            Unit("context_predictor", "cls_head", bias=True, foreign_bias=True),
        ),
        block=block,
        context_first=False,
        others={"backbone.*": _BACKBONE, "dsn_head.*": _AUXILIARY},
        notes=("its predictions are enlarged with align_corners=True, those here without",),
    )


OPENSEG_ISA = (
    _openseg(before="isa_head", block="isa_head.2."),
    # The module alone.
    _openseg(before="isa_head", block=""),
)


def _mmseg(head: str) -> Layout:
    """Return mmsegmentation's names; its convolutions with a norm have no bias, its values do."""

    def transform(name: str, path: str) -> Unit:
        return Unit(name, f"{path}.conv", f"{path}.bn")

    units, wide = [], []
    for stage in ("global", "local"):
        own, path = f"{_STAGES}.{stage}", f"{head}{stage}_relation"
        units += [
            transform(f"{own}.query.0", f"{path}.query_project.0"),
            transform(f"{own}.query.1", f"{path}.query_project.1"),
            transform(f"{own}.key.0", f"{path}.key_project.0"),
            transform(f"{own}.key.1", f"{path}.key_project.1"),
            Unit(f"{own}.value", f"{path}.value_project", foreign_bias=True),
            transform(f"{own}.output", f"{path}.output_project"),
        ]
        wide.append(f"{own}.value")
    return Layout(
        units=(*units, transform("context.fuse.0", f"{head}out_conv")),
        around=(
            transform("context_transform", f"{head}in_conv"),
            Unit("context_predictor", f"{head}conv_seg", bias=True, foreign_bias=True),
        ),
        block=head,
        context_first=True,
        others={"backbone.*": _BACKBONE, "auxiliary_head.*": _AUXILIARY},
        wide=wide,
    )


MMSEG_ISA = (
    _mmseg("decode_head."),
    # The head alone.
    _mmseg(""),
)
