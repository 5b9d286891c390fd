"""Names of segments, written where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import VisImage, Visualizer

from ocr_panoptic.data.colors import Color

__all__ = ["LabelVisualizer"]

# A label is left out where it would hide a segment smaller than this part of the label's area.
_MIN_LABELLED_PART = 0.35


class _ExactVisImage(VisImage):
    """A canvas that keeps the picture's pixels: VisImage resamples them, which moves some by one.

    The canvas is drawn at scale 1; its data coordinates are pixels.
    """

    def reset_image(self, img: np.ndarray) -> None:
        self.fig.figimage(img, origin="upper", zorder=-1)
        self.ax.set_xlim(0, self.width)
        self.ax.set_ylim(self.height, 0)


class LabelVisualizer(Visualizer):
    """Writes the names of segments where there is room for them."""

    def __init__(self, picture: np.ndarray, metadata: Metadata) -> None:
        super().__init__(picture, metadata)
        self.output = _ExactVisImage(picture)
        shape = self.output.height, self.output.width
        self._default_font_size = float(np.clip(np.sqrt(shape[0] * shape[1]) / 48, 7, 16))
        self._occupied = np.zeros(shape, dtype=np.uint8)

    def draw_labels(
        self, index_map: np.ndarray, names: Sequence[str], colors: Sequence[Color]
    ) -> np.ndarray:
        """Label segment i + 1 of ``index_map`` with ``names[i]``; return the (H, W, 3) picture."""
        areas = np.bincount(index_map.ravel(), minlength=len(names) + 1)[1:]
        # The smallest first: they have the fewest places for a label that hides no other.
        for position in np.argsort(areas, kind="stable"):
            if areas[position]:
                self._draw_label(index_map == position + 1, names[position], colors[position])
        return np.ascontiguousarray(self.output.get_image())

    def _draw_label(self, mask: np.ndarray, name: str, color: Color) -> None:
        # A light tint of the class colour: dark classes stay readable on the label's black.
        self.draw_text(name, (0, 0), color=tuple(0.62 + 0.38 * np.asarray(color) / 255))
        label = self.output.ax.texts[-1]
        # A class name is no formula, whatever dollar signs it holds.
        label.set_parse_math(False)
        extent = label.get_window_extent(self.output.canvas.get_renderer())
        size = extent.width + 6, extent.height + 6
        center = self._find_place(mask, size)
        if center is None:
            label.remove()
            return
        x, y = center
        label.set_position((x, y - extent.height / 2))
        left, top = round(x - size[0] / 2), round(y - size[1] / 2)
        right, bottom = round(x + size[0] / 2), round(y + size[1] / 2)
        self._occupied[max(top, 0) : bottom, max(left, 0) : right] = 1

    def _find_place(
        self, mask: np.ndarray, size: tuple[float, float]
    ) -> tuple[float, float] | None:
        """Find the centre (x, y) of a label of ``size`` (width, height), None without room."""
        height, width = mask.shape
        label_width, label_height = size
        if mask.sum() < _MIN_LABELLED_PART * label_width * label_height or label_width > width:
            return None
        kernel = np.ones((2 * int(label_height / 2) + 1, 2 * int(label_width / 2) + 1), np.uint8)
        free = cv2.dilate(self._occupied, kernel) == 0

        def fit(x, y):
            half_width, half_height = label_width / 2, min(label_height, height) / 2
            x = np.clip(x, half_width, width - half_width)
            y = np.clip(y, half_height, height - half_height)
            cell = np.clip(y.astype(int), 0, height - 1), np.clip(x.astype(int), 0, width - 1)
            return x, y, free[cell]

        ys, xs = np.nonzero(mask)
        x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
        if y1 - y0 < 1.6 * label_height:
            # Beside a low segment rather than on it, where the label would hide it.
            x = np.asarray([(x0 + x1) / 2] * 2)
            y = np.asarray([y1 + label_height / 2, y0 - label_height / 2])
            x, y, is_free = fit(x, y)
            clear = is_free & ((y - label_height / 2 >= y1 - 1) | (y + label_height / 2 <= y0 + 1))
        else:
            depth = _label_depth(mask, label_width / label_height)[ys, xs]
            x, y, clear = fit(xs.astype(np.float64), ys.astype(np.float64))
            deepest = np.argmax(np.where(clear, depth, -1.0))
            x, y, clear = x[[deepest]], y[[deepest]], clear[[deepest]]
        if not clear.any():
            return None
        first = int(np.argmax(clear))
        return float(x[first]), float(y[first])


def _label_depth(mask: np.ndarray, aspect: float) -> np.ndarray:
    """Half the height of the largest label of that aspect around each pixel inside the mask."""
    height, width = mask.shape
    # Squeezed by the aspect, a label is a square, which the chessboard distance measures.
    squeezed = cv2.resize(
        mask.astype(np.uint8),
        (max(1, round(width / aspect)), height),
        interpolation=cv2.INTER_AREA,
    )
    squeezed = cv2.copyMakeBorder(squeezed, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(squeezed, cv2.DIST_C, 3)[1:-1, 1:-1]
    return cv2.resize(depth, (width, height), interpolation=cv2.INTER_LINEAR)
