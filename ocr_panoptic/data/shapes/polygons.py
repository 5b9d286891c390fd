"""Masks as COCO polygons that rasterise back to the very same pixels."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["mask_to_polygons"]


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace a mask along the edges of its pixels.

    A contour through pixel centres, as ``cv2.findContours`` gives it, loses half a pixel on each
    side: a quarter of a 12-pixel object. A piece with holes is cut in two through its first hole,
    again and again, as COCO's polygons have none.

    Args:
        mask: (H, W) bool.

    Returns:
        Polygons ``[x0, y0, x1, y1, ...]`` in pixels, (0, 0) being the corner of the first pixel,
        whose union is the mask; empty for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    piece = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # With every pixel doubled, the contour's points 2x and 2x + 1 lie on the edges x and x + 1.
    doubled = np.repeat(np.repeat(piece, 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons: list[list[float]] = []
    for index, contour in enumerate(contours):
        first_hole, parent = hierarchy[0][index][2:]
        if parent >= 0:
            continue
        if first_hole < 0:
            corners = _corners((contour[:, 0, :] + 1) // 2)
            polygons.append([float(value) for value in (corners + (left, top)).ravel()])
            continue
        filled = cv2.drawContours(np.zeros_like(doubled), contours, index, 1, cv2.FILLED)
        part = (filled[::2, ::2] & piece).astype(bool)
        cut = int(contours[first_hole][:, 0, 0].mean() + 1) // 2
        for columns_of_half in (slice(0, cut), slice(cut, None)):
            half = np.zeros_like(mask)
            offset = columns_of_half.start or 0
            window = part[:, columns_of_half]
            half[top : top + len(part), left + offset : left + offset + window.shape[1]] = window
            polygons.extend(mask_to_polygons(half))
    return polygons


def _corners(points: np.ndarray) -> np.ndarray:
    """Keep the points of a closed path where it turns, (n, 2)."""
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
