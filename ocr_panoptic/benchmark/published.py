"""What the papers published about the cost of context schemes, and how their widths are read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIGURE_4_SIZE", "FROM_RES5", "PUBLISHED", "READINGS", "Published"]

_SIZE = (2048, 128, 128)
FIGURE_4_SIZE = (512, 128, 128)
"""(channels, height, width) of the input of OCNet's Fig. 4."""
_OCR = "Segmentation Transformer (OCR), Table 4"
_OCNET = "OCNet, Table 4"
_HARDWARE = {_OCR: "P40, CUDA 10.0", _OCNET: "V100, CUDA 9.0, PyTorch 0.4.1"}


@dataclass(frozen=True)
class Published:
    """A row of a published complexity table, of inference.

    Attributes:
        source: paper and table.
        row: what the table calls it.
        hardware: what memory and time were measured on.
        size: (channels, height, width) of the input, batch size 1.
        params: number of parameters; None where the table has none.
        flops: two for each multiply-add.
        peak_memory_bytes: the table's M taken as 2^20 bytes.
        median_ms: the table's time, milliseconds.
    """

    source: str
    row: str
    hardware: str
    size: tuple[int, int, int]
    params: float | None
    flops: float
    peak_memory_bytes: int
    median_ms: float


def _row(
    source: str, row: str, memory: int, flops: int, time: int, params: float | None = None
) -> Published:
    return Published(
        source=source,
        row=row,
        hardware=_HARDWARE[source],
        size=_SIZE,
        params=None if params is None else params * 1e6,
        flops=flops * 1e9,
        peak_memory_bytes=memory * 2**20,
        median_ms=float(time),
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "ppm": (_row(_OCR, "PPM", 792, 619, 99, 23.1), _row(_OCNET, "PPM", 792, 619, 78)),
    "aspp": (_row(_OCR, "ASPP", 284, 492, 97, 15.5), _row(_OCNET, "ASPP", 331, 492, 52)),
    "danet": (_row(_OCR, "DANet", 2339, 1110, 121, 10.6), _row(_OCNET, "DANet", 2339, 1110, 106)),
    "criss_cross": (
        _row(_OCR, "CC-Attention", 427, 804, 131, 10.6),
        _row(_OCNET, "RCCA", 427, 804, 84),
    ),
    "double_attention": (_row(_OCR, "Double Attention", 209, 338, 46, 10.2),),
    "ocr": (_row(_OCR, "OCR", 202, 340, 45, 10.5),),
    "cgnl": (_row(_OCNET, "CGNL", 266, 412, 43),),
    "efficient_attention": (_row(_OCNET, "Efficient Attention", 214, 331, 35),),
    # Equal but for the time: the OCR paper's self-attention is Base-OC.
    "base_oc_sa": (
        _row(_OCR, "Self-Attention", 2168, 619, 96, 10.5),
        _row(_OCNET, "Base-OC (SA)", 2168, 619, 66),
    ),
    "base_oc_isa": (_row(_OCNET, "Base-OC (ISA)", 301, 386, 42),),
    "pyramid_oc_sa": (_row(_OCNET, "Pyramid-OC (SA)", 2206, 880, 112),),
    "pyramid_oc_isa": (_row(_OCNET, "Pyramid-OC (ISA)", 935, 595, 80),),
    "asp_oc_sa": (_row(_OCNET, "ASP-OC (SA)", 348, 656, 67),),
    "asp_oc_isa": (_row(_OCNET, "ASP-OC (ISA)", 349, 651, 65),),
}
"""Name in CONTEXT_REGISTRY -> the rows of the tables, the OCR paper's first."""

FROM_RES5 = {
    "ppm": 512,
    "aspp": 256,
    "danet": 512,
    "criss_cross": 512,
    "asp_oc_sa": 256,
    "asp_oc_isa": 256,
}
"""The schemes that take the backbone's channels themselves, and the channels of their results. All
others take 512, through a 3x3 convolution, and give 512 (OCR paper and OCNet, sec. 3.4)."""

_HEAD = "the whole head of its paper on res5, which the {} of FLOPs fit, and the 10.6 M do not"
_FOLDED = "its inference form leaves out what algebra saves, {}_textbook is as the equations read"
_HALVED = "the context at half the resolution, as in its authors' code, which 656 and 651 G fit"

READINGS: dict[str, str] = {
    "asp_oc_isa": _HALVED,
    "asp_oc_sa": _HALVED,
    "base_oc_isa": _FOLDED.format("base_oc_isa"),
    "cgnl": "theta, phi and g with half of the 512 channels; with all of them it takes 413.4 G",
    "criss_cross": _HEAD.format("804 G"),
    "danet": _HEAD.format("1110 G"),
    "double_attention": "64 regions, as the OCR paper's Table 3 says",
    "pyramid_oc_isa": _FOLDED.format("pyramid_oc_isa"),
}
"""Name of a scheme -> how its published row is read; the layers' docstrings say more."""
