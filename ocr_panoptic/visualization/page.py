"""Pictures side by side on a page, with titles, scales of their heat and a chart of bars."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ocr_panoptic.data.colors import Color

from .regions import draw_region

__all__ = ["Bar", "Chart", "Panel", "draw_heat", "draw_page"]

# A title has room above a picture that is narrower.
_MIN_COLUMN = 260
_CHART_WIDTH, _ROW, _BAR = 460, 28, 16
_LEGEND_ROW, _SWATCH = 24, 14
_MARGIN, _GAP, _HEADER, _TITLE, _FOOTER = 28, 24, 76, 28, 30
_WHITE, _TEXT, _FAINT, _TRACK = (255, 255, 255), (28, 30, 34), (104, 110, 118), (238, 240, 243)


class Panel(NamedTuple):
    """A picture, (H, W, 3) uint8, RGB, and its title.

    ``largest`` is the weight of full heat in a picture of :func:`draw_heat`, for a scale below it;
    None for other pictures.
    """

    title: str
    picture: np.ndarray
    largest: float | None = None


class Bar(NamedTuple):
    """A row of a chart; ``weight`` is in [0, 1]."""

    name: str
    weight: float
    color: Color


class Chart(NamedTuple):
    """Horizontal bars, the longest as long as there is room, and their title."""

    title: str
    bars: Sequence[Bar]


def draw_heat(image: np.ndarray, weights: np.ndarray, largest: float) -> np.ndarray:
    """Draw weights over an image as heat that grows with their square root.

    Weights of a softmax differ by orders of magnitude: in proportion, only the few largest would
    be seen.

    Args:
        image: (H, W, 3) uint8, RGB.
        weights: (H', W') floats, not negative.
        largest: the weight of full heat.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    return draw_region(image, np.sqrt(weights), maximum=math.sqrt(largest))


def draw_page(
    heading: str,
    subheading: str,
    panels: Sequence[Panel],
    chart: Chart | None = None,
    legend: Sequence[tuple[str, Color]] = (),
) -> np.ndarray:
    """Put panels of one size side by side below a heading, and a chart to their right.

    Args:
        heading: one line, cut where it is longer than the page is wide; so is ``subheading``.
        subheading: a smaller line below.
        panels: at least one.
        chart: None for none.
        legend: names and colours of classes, for a list below the panels.

    Returns:
        (H, W, 3) uint8, RGB. The same input gives the same bytes.
    """
    height, width = panels[0].picture.shape[:2]
    column = max(width, _MIN_COLUMN)
    inner = len(panels) * (column + _GAP) - _GAP
    content = height
    if any(panel.largest is not None for panel in panels):
        content += _FOOTER
    if chart is not None:
        inner += _GAP + _CHART_WIDTH
        content = max(content, _ROW * len(chart.bars))
    places, legend_height = _place_legend([name for name, _ in legend], inner)
    top = _HEADER + _TITLE
    legend_top = top + content + 16
    content += legend_height
    page = Image.new("RGB", (inner + 2 * _MARGIN, top + content + _MARGIN), _WHITE)
    draw = ImageDraw.Draw(page)
    for text, baseline, color, font in (
        (heading, 42, _TEXT, _font(20, bold=True)),
        (subheading, 66, _FAINT, _font(14)),
    ):
        draw.text((_MARGIN, baseline), _shortened(text, font, inner), color, font, anchor="ls")
    left = _MARGIN
    for panel in panels:
        draw.text((left, top - 9), panel.title, _TEXT, _font(16), anchor="ls")
        page.paste(Image.fromarray(panel.picture), (left, top))
        if panel.largest is not None:
            _draw_scale(page, draw, panel.largest, (left, top + height + 12), column)
        left += column + _GAP
    if chart is not None:
        draw.text((left, top - 9), chart.title, _TEXT, _font(16), anchor="ls")
        _draw_bars(draw, chart.bars, (left, top))
    for (name, x, y), (_, color) in zip(places, legend, strict=True):
        middle = legend_top + y + _LEGEND_ROW // 2
        swatch = (_MARGIN + x, middle - _SWATCH // 2)
        box = (*swatch, swatch[0] + _SWATCH, swatch[1] + _SWATCH)
        draw.rectangle(box, color, tuple(round(0.7 * channel) for channel in color))
        draw.text((box[2] + 8, middle), name, _TEXT, _font(14), anchor="lm")
    return np.array(page)


def _place_legend(names: Sequence[str], width: int) -> tuple[list[tuple[str, int, int]], int]:
    """Place a legend's names in rows: name, x and y of each, and the height of all."""
    font = _font(14)
    places, x, y = [], 0, 0
    for name in names:
        name = _shortened(name, font, width - _SWATCH - 8)
        entry = _SWATCH + 8 + math.ceil(font.getlength(name))
        if x and x + entry > width:
            x, y = 0, y + _LEGEND_ROW
        places.append((name, x, y))
        x += entry + 22
    # The space above it comes on top.
    return places, 16 + y + _LEGEND_ROW if places else 0


def _draw_scale(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    largest: float,
    corner: tuple[int, int],
    width: int,
) -> None:
    """Draw the heat of each weight from zero to the largest, which is written."""
    left, top = corner
    font = _font(14)
    label = _percent(largest)
    zero, end = (round(font.getlength(text)) + 8 for text in ("0", label))
    strip = max(1, width - zero - end)
    grey = np.full((10, strip, 3), 128, dtype=np.uint8)
    heat = draw_heat(grey, np.linspace(0, 1, strip)[None], 1.0)
    page.paste(Image.fromarray(heat), (left + zero, top))
    draw.text((left, top + 5), "0", _FAINT, font, anchor="lm")
    draw.text((left + zero + strip + 8, top + 5), label, _FAINT, font, anchor="lm")


def _draw_bars(draw: ImageDraw.ImageDraw, bars: Sequence[Bar], corner: tuple[int, int]) -> None:
    left, top = corner
    font = _font(14)
    names = [_shortened(bar.name, font, 170) for bar in bars]
    start = left + max(round(font.getlength(name)) for name in names) + 10
    room = left + _CHART_WIDTH - round(font.getlength("100%")) - 14 - start
    peak = max(bar.weight for bar in bars) or 1.0
    for index, (name, bar) in enumerate(zip(names, bars, strict=True)):
        middle = top + index * _ROW + _BAR // 2
        draw.text((start - 10, middle), name, _TEXT, font, anchor="rm")
        box = (start, middle - _BAR // 2, start + room, middle + _BAR // 2)
        draw.rectangle(box, _TRACK)
        length = round(room * bar.weight / peak)
        if length:
            # Outlined: classes have light colours too.
            dark = tuple(round(0.7 * channel) for channel in bar.color)
            draw.rectangle((*box[:2], start + length, box[3]), bar.color, dark)
        draw.text((start + room + 8, middle), _percent(bar.weight), _FAINT, font, anchor="lm")


def _percent(weight: float) -> str:
    percent = 100 * weight
    if percent >= 10:
        return f"{percent:.0f}%"
    return f"{percent:.2g}%" if percent >= 0.095 or percent == 0 else f"{percent:.1g}%"


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return a text as one line that is not wider than ``width``."""
    # A file name may hold what is no letter: line breaks, bytes of another encoding.
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "\N{HORIZONTAL ELLIPSIS}") > width:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"


@functools.cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which labels are written in and which comes with it."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)
