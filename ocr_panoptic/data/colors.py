"""The colour of each class, the same in training, in predictions and in pictures."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

__all__ = ["Color", "category_colors", "numbered_color"]

Color = tuple[int, int, int]
"""RGB, 0 to 255."""

# Lightness and saturation in turn; five, as hues nearly repeat after 8, 13 and 21.
_TONES = ((0.52, 0.72), (0.7, 0.75), (0.36, 0.65), (0.6, 0.45), (0.46, 0.42))
# From here on colours may be given twice.
_MANY = 10_000
_COCO = {(row["id"], row["name"]): tuple(row["color"]) for row in COCO_CATEGORIES}


def category_colors(categories: Sequence[Mapping[str, Any]]) -> dict[int, Color]:
    """Return the colour of each category.

    It is the category's own ``color``; for COCO's categories, known by id and name, Detectron2's;
    for others the next of :func:`numbered_color`, things before stuff and each in the order of the
    ids, that no category has yet.

    Args:
        categories: of a COCO panoptic json, checked: ``id``, ``name``, ``isthing`` and optionally
            ``color``.

    Returns:
        Category id -> colour.
    """
    colors: dict[int, Color] = {}
    for category in categories:
        color = category.get("color") or _COCO.get((category["id"], category["name"]))
        if color is not None:
            colors[category["id"]] = tuple(color)
    taken, number = set(colors.values()), 0
    for category in sorted(categories, key=lambda row: (not row["isthing"], row["id"])):
        if category["id"] in colors:
            continue
        while (color := numbered_color(number)) in taken and number < _MANY:
            number += 1
        colors[category["id"]] = color
        taken.add(color)
    return colors


def numbered_color(number: int) -> Color:
    """Return the colour of a number, never grey; numbers close to each other get unlike ones.

    Args:
        number: any integer.
    """
    # Steps of the golden ratio never come back near to where a few others were.
    hue = number % 99991 * (math.sqrt(5) - 1) / 2 % 1
    lightness, saturation = _TONES[number % len(_TONES)]
    rgb = colorsys.hls_to_rgb(hue, lightness, saturation)
    return tuple(round(255 * channel) for channel in rgb)
