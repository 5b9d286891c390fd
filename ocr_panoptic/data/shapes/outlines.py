"""Outlines of the things, and their antialiased rasterisation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Sprite", "outline", "rasterize"]

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Sprite:
    """An object on the picture's grid, cut by the picture's border.

    Attributes:
        rows: rows of the picture that the arrays cover.
        columns: columns of the picture that the arrays cover.
        coverage: (h, w) float32 in [0, 1], the covered part of each pixel.
        u: (h, w) float32, the object's own horizontal coordinate, -1 to 1 inside.
        v: (h, w) float32, the object's own vertical coordinate, -1 to 1 inside.
        full_area: area in pixels before the border cuts it.
    """

    rows: slice
    columns: slice
    coverage: np.ndarray
    u: np.ndarray
    v: np.ndarray
    full_area: float

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool, True where the object covers at least half of the pixel."""
        return self.coverage >= 0.5


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _regular(corners: int, radius: float = 1.0) -> np.ndarray:
    angle = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    return _polar(np.full(corners, radius), angle)


_TURN = np.linspace(0, 2 * np.pi, 72, endpoint=False)
_CIRCLE = _polar(np.ones_like(_TURN), _TURN)
_HALF = np.linspace(-1, 1, 30)

_OUTLINES: dict[str, list[np.ndarray]] = {
    "ball": [_CIRCLE],
    "crate": [np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]])],
    "tent": [_regular(3, 1.15)],
    "starfish": [_polar(0.72 + 0.4 * np.cos(5 * _TURN), _TURN)],
    "lifebuoy": [_CIRCLE, 0.48 * _CIRCLE],
    "leaf": [
        np.concatenate(
            [
                np.stack([1.2 * _HALF, 0.55 * (1 - _HALF**2)], axis=1),
                np.stack([-1.2 * _HALF, -0.55 * (1 - _HALF**2)], axis=1),
            ]
        )
    ],
    "cross": [
        np.array(
            [
                *([-0.36, -1.0], [0.36, -1.0], [0.36, -0.36], [1.0, -0.36]),
                *([1.0, 0.36], [0.36, 0.36], [0.36, 1.0], [-0.36, 1.0]),
                *([-0.36, 0.36], [-1.0, 0.36], [-1.0, -0.36], [-0.36, -0.36]),
            ]
        )
    ],
    "crescent": [
        np.concatenate(
            [
                _polar(np.ones(40), np.linspace(0.3 * np.pi, 1.7 * np.pi, 40)),
                _polar(np.full(30, 0.86), np.linspace(1.61 * np.pi, 0.39 * np.pi, 30))
                + [0.29, 0.0],
            ]
        )
    ],
    "heart": [
        np.stack(
            [
                np.sin(_TURN) ** 3,
                -(13 * np.cos(_TURN) - 5 * np.cos(2 * _TURN) - 2 * np.cos(3 * _TURN)) / 16,
            ],
            axis=1,
        )
    ],
    "hexagon": [_regular(6)],
    "arrow": [
        np.array(
            [[-1, -0.3], [0.1, -0.3], [0.1, -0.8], [1.1, 0], [0.1, 0.8], [0.1, 0.3], [-1, 0.3]]
        )
    ],
    "flower": [_polar(0.85 + 0.24 * np.cos(6 * _TURN), _TURN)],
}


def outline(name: str) -> list[np.ndarray]:
    """Return the outline of a thing: closed contours, filled by the even-odd rule.

    Args:
        name: the category's name.

    Returns:
        Arrays of shape (points, 2), x then y, in units of the object's radius.
    """
    return _OUTLINES[name]


def rasterize(
    name: str,
    size: int,
    center: tuple[float, float],
    radius: float,
    angle: float,
    aspect: float,
) -> Sprite | None:
    """Rasterise a thing into a square picture.

    Args:
        name: the category's name.
        size: side of the picture, pixels.
        center: x and y, pixels; may lie outside.
        radius: pixels.
        angle: rotation, radians.
        aspect: width over height.

    Returns:
        The sprite, or None where it lies wholly outside the picture.
    """
    stretch = np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)])
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    contours = [radius * (points * stretch) @ rotation + center for points in outline(name)]
    corners = np.concatenate(contours)
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, size)
    if left >= right or top >= bottom:
        return None
    canvas = np.zeros(
        ((bottom - top) * _SUPERSAMPLING, (right - left) * _SUPERSAMPLING), dtype=np.uint8
    )
    fixed_point = [
        np.round(((points - (left, top)) * _SUPERSAMPLING - 0.5) * 256).astype(np.int32)
        for points in contours
    ]
    cv2.fillPoly(canvas, fixed_point, 255, shift=8)
    coverage = cv2.resize(canvas, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + np.float32(0.5)
    local = np.stack([x - center[0], y - center[1]], axis=-1) @ rotation.T / (radius * stretch)
    area = abs(sum(_signed_area(points) * (-1) ** k for k, points in enumerate(contours)))
    return Sprite(
        rows=slice(int(top), int(bottom)),
        columns=slice(int(left), int(right)),
        coverage=coverage.astype(np.float32) / 255,
        u=local[..., 0].astype(np.float32),
        v=local[..., 1].astype(np.float32),
        full_area=float(area),
    )


def _signed_area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
