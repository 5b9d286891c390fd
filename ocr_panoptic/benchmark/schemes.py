"""The context schemes that can be measured, and what the papers published about their cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from ocr_panoptic.layers import OCRModule

__all__ = ["SCHEMES", "Published", "Scheme"]

# The widths of the papers' complexity tables: a 3x3 convolution from res5 to the context's width.
WIDTH = 512


@dataclass(frozen=True)
class Published:
    """A row of a published complexity table.

    Attributes:
        source: paper and table.
        size: (channels, height, width) of its input.
        params: number of parameters.
        flops: two for each multiply-add.
    """

    source: str
    size: tuple[int, int, int]
    params: float
    flops: float


@dataclass(frozen=True)
class Scheme:
    """A context scheme as the complexity tables measure it.

    Attributes:
        build: makes the module; called with the input's channels.
        num_regions: K of the region logits that it takes as a second input.
        published: the row of its paper.
    """

    build: Callable[[int], nn.Module]
    num_regions: int
    published: Published | None = None


class _OCRStage(nn.Module):
    """3x3 convolution to the OCR width where the input has another, then OCR.

    As in the Segmentation Transformer paper, sec. 3.4 and Table 4; the form of the OCR layer that
    is measured is chosen by name.
    """

    def __init__(self, in_channels: int, form: str) -> None:
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
        self.ocr = OCRModule(WIDTH, norm="BN")
        self.form = form

    def forward(self, feats: Tensor, region_logits: Tensor) -> Tensor:
        """Map (N, C, H, W) and (N, K, H, W) to (N, 512, H, W)."""
        return getattr(self.ocr, self.form)(self.transform(feats), region_logits)


_OCR = Published(
    "Segmentation Transformer (OCR), Table 4", size=(2048, 128, 128), params=10.5e6, flops=340e9
)

SCHEMES: dict[str, Scheme] = {
    # K = 19 is Cityscapes', for which Table 4 was made; OCR on COCO has K = 54.
    "ocr": Scheme(lambda channels: _OCRStage(channels, "folded"), 54, _OCR),
    "ocr_textbook": Scheme(lambda channels: _OCRStage(channels, "textbook"), 54, _OCR),
}
"""Name on the command line -> scheme."""
