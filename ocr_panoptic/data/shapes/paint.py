"""Painting: textured ground, shaded objects with soft shadows, light and sensor noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .difficulty import Difficulty
from .layout import Layout, grid
from .textures import render_texture

if TYPE_CHECKING:
    from .scene import Placed

__all__ = ["paint"]


def paint(
    rng: np.random.Generator, difficulty: Difficulty, layout: Layout, objects: list[Placed]
) -> np.ndarray:
    """Paint a picture.

    Args:
        rng: source of randomness.
        difficulty: the parameters.
        layout: the stuff.
        objects: the farthest behind first.

    Returns:
        (size, size, 3) uint8, RGB.
    """
    image = _ground(rng, difficulty, layout)
    light = rng.uniform(0, 2 * np.pi)
    direction = (float(np.cos(light)), float(np.sin(light)))
    for item in objects:
        color = np.array(difficulty.category(item.category).color, np.float32)
        color += rng.normal(0, difficulty.thing_color_jitter, 3).astype(np.float32)
        _cast_shadow(image, item, direction)
        _paint_object(image, item, color, direction)
    x, y = grid(layout.labels.shape[0])
    across = direction[0] * (x - np.float32(0.5)) + direction[1] * (y - np.float32(0.5))
    strength, overall = rng.uniform(-1, 1, 2) * difficulty.illumination
    image *= (1 + np.float32(overall) + np.float32(strength) * across)[..., None]
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(difficulty.noise)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator, difficulty: Difficulty, layout: Layout) -> np.ndarray:
    size = layout.labels.shape[0]
    image = np.empty((size, size, 3), np.float32)
    textures = [difficulty.category(name).texture for name in layout.categories]
    for index, texture in ((-1, "unlabelled"), *enumerate(textures)):
        mask = layout.labels == index
        if mask.any():
            cv2.copyTo(
                render_texture(
                    rng,
                    texture,
                    size,
                    contrast=difficulty.texture_contrast,
                    color_jitter=difficulty.color_jitter,
                    palette_pull=difficulty.palette_pull,
                ),
                mask.astype(np.uint8),
                image,
            )
    # A darker rim where two regions meet, as on a drawn map. It lies on all borders alike.
    labels = layout.labels.astype(np.int16)
    border = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    rim = cv2.GaussianBlur(border.astype(np.float32), (0, 0), 1.0)
    return image * (1 - 0.25 * rim)[..., None]


def _cast_shadow(image: np.ndarray, item: Placed, direction: tuple[float, float]) -> None:
    """Darken the ground beside an object, in place."""
    size = image.shape[0]
    sprite = item.sprite
    reach = max(1, round(0.05 * np.sqrt(sprite.full_area)))
    top, left = sprite.rows.start, sprite.columns.start
    pad = 3 * reach
    shade = cv2.copyMakeBorder(sprite.coverage, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    shade = cv2.blur(shade, (2 * reach + 1, 2 * reach + 1))
    top += round(2 * reach * direction[1]) - pad
    left += round(2 * reach * direction[0]) - pad
    bottom, right = top + shade.shape[0], left + shade.shape[1]
    inside = shade[max(0, -top) : size - top, max(0, -left) : size - left]
    target = image[max(0, top) : min(size, bottom), max(0, left) : min(size, right)]
    target *= (1 - 0.32 * inside)[..., None]


def _paint_object(
    image: np.ndarray, item: Placed, color: np.ndarray, direction: tuple[float, float]
) -> None:
    """Blend an object over the picture, in place: flat colour, pattern, bevelled edge, light."""
    sprite = item.sprite
    solid = cv2.copyMakeBorder(sprite.mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)[1:-1, 1:-1]
    bevel = np.clip(depth / (0.16 * np.sqrt(sprite.full_area)), 0, 1)
    lit = -(direction[0] * sprite.u + direction[1] * sprite.v)
    shade = 0.66 + 0.34 * bevel + 0.1 * lit
    pixels = color * shade[..., None] + (_pattern(item.category, sprite) * 26)[..., None]
    target = image[sprite.rows, sprite.columns]
    target += sprite.coverage[..., None] * (pixels - target)


def _pattern(category: str, sprite) -> np.ndarray:
    """Return a thing's own drawing, about -1 to 1, in its own coordinates."""
    u, v = sprite.u, sprite.v
    if category == "ball":
        return np.where(np.abs(v) < 0.22, np.float32(2.2), np.float32(0))
    if category == "crate":
        return np.where(np.mod(2.5 * u, 1) < 0.14, np.float32(-1.4), np.float32(0.2))
    if category == "lifebuoy":
        return np.where(np.sin(4 * np.arctan2(v, u)) > 0, np.float32(4.5), np.float32(0))
    if category == "leaf":
        return np.where(np.abs(v) < 0.08, np.float32(1.5), np.float32(0))
    if category == "tent":
        return np.where(np.abs(u) < 0.12 * (1 + v), np.float32(-2.2), np.float32(0))
    if category == "flower":
        return np.where(u * u + v * v < 0.1, np.float32(3), np.float32(0))
    return np.zeros_like(u)
