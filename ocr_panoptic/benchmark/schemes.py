"""The context schemes that can be measured, and what the papers published about their cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from ocr_panoptic.layers import (
    BaseOC,
    InterlacedSparseSelfAttention,
    NonLocal,
    OCRModule,
    SelfAttention,
)

from .textbook import ExplicitSelfAttention, TextbookISA

__all__ = ["SCHEMES", "Published", "Scheme"]

# The widths of the papers' complexity tables: a 3x3 convolution from res5 to the context's width.
WIDTH = 512


@dataclass(frozen=True)
class Published:
    """A row of a published complexity table.

    Attributes:
        source: paper and table.
        size: (channels, height, width) of its input.
        flops: two for each multiply-add.
        params: number of parameters; None where the table has none.
    """

    source: str
    size: tuple[int, int, int]
    flops: float
    params: float | None = None


@dataclass(frozen=True)
class Scheme:
    """A context scheme as the complexity tables measure it.

    Attributes:
        build: makes the module; called with the input's channels.
        num_regions: K of the region logits that it takes as a second input, None if it does not.
        published: the row of its paper.
    """

    build: Callable[[int], nn.Module]
    num_regions: int | None = None
    published: Published | None = None


class _Stage(nn.Module):
    """3x3 convolution to the context's width where the input has another, then the context.

    As in the complexity tables: Segmentation Transformer (OCR), sec. 3.4 and Table 4; OCNet,
    sec. 3.4 and Table 4.
    """

    def __init__(self, in_channels: int, context: nn.Module, form: str = "forward") -> None:
        """Put ``context``, of which the method ``form`` is called, behind ``in_channels``."""
        super().__init__()
        self.transform = (
            nn.Identity()
            if in_channels == WIDTH
            else Conv2d(
                in_channels,
                WIDTH,
                kernel_size=3,
                padding=1,
                bias=False,
                norm=get_norm("BN", WIDTH),
                activation=F.relu,
            )
        )
        self.context = context
        self.form = form

    def forward(self, feats: Tensor, *others: Tensor) -> Tensor:
        """Map (N, C, H, W), and (N, K, H, W) where there are regions, to (N, 512, H, W)."""
        return getattr(self.context, self.form)(self.transform(feats), *others)


def _isa() -> InterlacedSparseSelfAttention:
    return InterlacedSparseSelfAttention(WIDTH, norm="BN")


def _sa() -> SelfAttention:
    return SelfAttention(WIDTH, norm="BN")


def _base_oc(context: nn.Module) -> BaseOC:
    return BaseOC(context, WIDTH, WIDTH, WIDTH, norm="BN")


_SIZE = (2048, 128, 128)
_OCR = Published("Segmentation Transformer (OCR), Table 4", _SIZE, params=10.5e6, flops=340e9)
_SA = Published("OCNet, Table 4: Base-OC (SA)", _SIZE, flops=619e9)
_ISA = Published("OCNet, Table 4: Base-OC (ISA)", _SIZE, flops=386e9)

SCHEMES: dict[str, Scheme] = {
    # K = 19 is Cityscapes', for which Table 4 was made; OCR on COCO has K = 54.
    "ocr": Scheme(
        lambda channels: _Stage(channels, OCRModule(WIDTH, norm="BN"), "folded"), 54, _OCR
    ),
    "ocr_textbook": Scheme(
        lambda channels: _Stage(channels, OCRModule(WIDTH, norm="BN"), "textbook"), 54, _OCR
    ),
    "isa": Scheme(lambda channels: _Stage(channels, _isa())),
    "isa_textbook": Scheme(lambda channels: _Stage(channels, TextbookISA(_isa()))),
    "sa": Scheme(lambda channels: _Stage(channels, _sa())),
    "sa_explicit": Scheme(lambda channels: _Stage(channels, ExplicitSelfAttention(_sa()))),
    "non_local": Scheme(lambda channels: _Stage(channels, NonLocal(WIDTH))),
    # With the fusion of Base-OC, as the paper's table counts them; values are half as wide as the
    # input, as in its text (the authors' code has them as wide as the input).
    "base_oc_isa": Scheme(lambda channels: _Stage(channels, _base_oc(_isa())), published=_ISA),
    "base_oc_isa_textbook": Scheme(
        lambda channels: _Stage(channels, _base_oc(TextbookISA(_isa()))), published=_ISA
    ),
    "base_oc_sa": Scheme(lambda channels: _Stage(channels, _base_oc(_sa())), published=_SA),
}
"""Name on the command line -> scheme."""
