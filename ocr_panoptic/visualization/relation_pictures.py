"""Pictures of what a context block looks at from a pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap
from PIL import Image
from torch import Tensor

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing

from .page import Bar, Chart, Panel, draw_heat, draw_page
from .relations import PixelRelations, RelationMap

__all__ = ["draw_relations", "region_bars", "write_relations"]

# Longer side of a panel, in pixels: small images are enlarged, so that text stands beside them.
_PANEL = 480
# Radius of the ring around the pixel.
_RING = 9
# Side of a cell with nothing around it.
_MIN_CELL = 16
_MAX_BARS = 12
_OTHERS_COLOR = (178, 182, 188)


def write_relations(
    folder: Path,
    name: str,
    image: np.ndarray,
    relations: Sequence[PixelRelations],
    metadata: Metadata | None = None,
    *,
    model: str,
) -> Iterator[Path]:
    """Write one PNG for each pixel and block, named ``<name>_<x>_<y>_<model>_<block>.png``.

    Args:
        folder: where; made if it is missing. A file appears whole or not at all.
        name: of the image.
        image: (H, W, 3) uint8, RGB, in its original size.
        relations: of that image.
        metadata: as for :func:`draw_relations`.
        model: name of the model, in the picture too.

    Yields:
        The path of each file, when it is there.

    Raises:
        InputError: if a file cannot be written.
    """
    for entry in relations:
        x, y = entry.pixel
        path = Path(folder) / f"{name}_{x}_{y}_{model}_{entry.block}.png"
        picture = draw_relations(image, entry, name=name, model=model, metadata=metadata)
        try:
            with replacing(path) as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
        yield path


def draw_relations(
    image: np.ndarray,
    relations: PixelRelations,
    *,
    name: str = "",
    model: str = "",
    metadata: Metadata | None = None,
) -> np.ndarray:
    """Draw what a block looks at from a pixel: the image, and beside it each map or the regions.

    A ring marks the pixel. The heat of a map grows with the square root of the weight, so that
    more than the few largest is seen; the strip below tells the heat of each weight from zero to
    the map's largest. The same input gives the same bytes.

    Args:
        image: (H, W, 3) uint8, RGB, in its original size.
        relations: of that image.
        name: what the picture calls the image.
        model: what it calls the model.
        metadata: gives ``stuff_classes``, and optionally ``stuff_colors`` (RGB, 0 to 255), of an
            OCR block's regions. Where these are not K, the regions are numbered.

    Returns:
        (H', W', 3) uint8, RGB. The longer side of each panel has 480 pixels.

    Raises:
        ValueError: for an image whose shape or dtype is not as above.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    scale = _PANEL / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(image, (width, height), interpolation=interpolation)
    x, y = relations.pixel
    ring = (x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5

    panels = [Panel("image", _marked(resized, ring))]
    for relation in relations.maps:
        cells = _placed(relation, relations.extent, (height, width))
        largest = float(relation.weights.max())
        heat = draw_heat(resized, cells, largest)
        panels.append(Panel(_title(relation), _marked(heat, ring), largest))
    chart = None
    if relations.regions is not None:
        chart = Chart("relation to the regions (eq. 5)", region_bars(relations.regions, metadata))
    row, column = relations.cell
    rows, columns = (math.ceil(cells) for cells in relations.extent)
    return draw_page(
        " \N{MIDDLE DOT} ".join(filter(None, (name, f"pixel {x}, {y}", model))),
        f"{relations.kind}: {relations.block}, from cell {column}, {row} of {columns} x {rows}",
        panels,
        chart,
    )


def region_bars(weights: Tensor | Sequence[float], metadata: Metadata | None = None) -> list[Bar]:
    """Return the bars of an OCR block's regions: the 12 largest, then the others as one.

    Args:
        weights: (K,), a pixel's weights over the regions.
        metadata: as for :func:`draw_relations`.
    """
    weights = np.asarray(weights, dtype=np.float64)
    names = colors = None
    if metadata is not None:
        names, colors = metadata.get("stuff_classes", None), metadata.get("stuff_colors", None)
    if names is None or len(names) != len(weights):
        names, colors = [f"region {index}" for index in range(len(weights))], None
    if colors is None or len(colors) != len(weights):
        palette = colormap(rgb=True, maximum=255)
        colors = [palette[index % len(palette)] for index in range(len(weights))]
    order = np.argsort(-weights, kind="stable")
    bars = [
        Bar(names[index], float(weights[index]), tuple(int(part) for part in colors[index]))
        for index in order[:_MAX_BARS]
    ]
    others = weights[order[_MAX_BARS:]]
    if len(others):
        bars.append(Bar(f"{len(others)} others", float(others.sum()), _OTHERS_COLOR))
    return bars


def _title(relation: RelationMap) -> str:
    """Say too how much of the weight a map shows, where some lies on padding."""
    shown = float(relation.weights.sum())
    return relation.title if shown > 0.995 else f"{relation.title}, {shown:.0%} in the image"


def _placed(
    relation: RelationMap, extent: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Resize a map to an image of ``size`` that covers ``extent`` of its cells.

    Of the last cells a part may lie on padding: stretched to the image as they are, all cells
    would be off the place that they see. Cells with nothing around them are drawn large enough to
    be seen.
    """
    weights = relation.weights.numpy()
    kernel = []
    for step, side, cells in zip(relation.spacing, size, extent, strict=True):
        # Odd, to have a middle, and below the spacing: cells stay apart.
        sizes = range(1, max(step, 2), 2)
        kernel.append(next((n for n in sizes if n * side / cells >= _MIN_CELL), sizes[-1]))
    weights = cv2.dilate(weights, np.ones(kernel, np.uint8))
    # Each cell as a square: between them there is nothing, and a window ends where it ends.
    rows, columns = (
        ((np.arange(side) + 0.5) * cells / side).astype(int)
        for side, cells in zip(size, extent, strict=True)
    )
    return weights[rows[:, None], columns]


def _marked(picture: np.ndarray, center: tuple[float, float]) -> np.ndarray:
    """Return a picture with a ring around a point (x, y), which itself stays to be seen."""
    ys, xs = np.indices(picture.shape[:2], dtype=np.float64)
    from_ring = np.abs(np.hypot(xs - center[0], ys - center[1]) - _RING)
    marked = picture.astype(np.float64)
    for color, half in ((16, 3.5), (255, 1.5)):
        cover = np.clip(half + 0.5 - from_ring, 0, 1)[..., None]
        marked += cover * (color - marked)
    return np.rint(marked).astype(np.uint8)
