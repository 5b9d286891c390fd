"""Procedural textures of stuff. Periods are in pixels, colours RGB from 0 to 255."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["TEXTURES", "Texture", "render_texture", "smooth_noise"]


@dataclass(frozen=True)
class Texture:
    """A random process that fills a picture.

    Attributes:
        color: mean RGB colour, 0 to 255.
        tone: RGB direction in which the pattern moves the colour, per unit of the pattern.
        pattern: key of :data:`PATTERNS`.
        period: length of the pattern's features, pixels.
        grain: standard deviation of fine noise, 0 to 255.
    """

    color: tuple[int, int, int]
    tone: tuple[int, int, int]
    pattern: str
    period: float
    grain: float


TEXTURES = {
    "grass": Texture((126, 176, 92), (16, 22, 12), "mottle", 7, 7),
    "moss": Texture((104, 156, 100), (18, 18, 16), "mottle", 18, 4),
    "pavement": Texture((140, 142, 150), (9, 9, 9), "slabs", 16, 4),
    "gravel": Texture((132, 128, 126), (16, 16, 15), "pebbles", 6, 6),
    "sand": Texture((232, 204, 146), (9, 9, 10), "ripples", 13, 5),
    "clay": Texture((206, 162, 120), (14, 13, 12), "mottle", 12, 4),
    "snow": Texture((236, 240, 246), (8, 7, 4), "mottle", 26, 3),
    "salt": Texture((226, 220, 226), (10, 10, 9), "pebbles", 14, 4),
    "water": Texture((92, 162, 204), (14, 14, 11), "ripples", 18, 3),
    "canopy": Texture((52, 104, 66), (22, 26, 16), "pebbles", 15, 4),
    "furrows": Texture((170, 146, 84), (18, 16, 10), "furrows", 10, 5),
    "tiles": Texture((186, 112, 96), (16, 13, 12), "slabs", 10, 4),
    "unlabelled": Texture((104, 92, 116), (20, 20, 20), "mottle", 22, 10),
}


def smooth_noise(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    """Draw a smooth random field of about unit variance.

    Args:
        rng: source of randomness.
        size: side, pixels.
        period: distance of the random values that are interpolated, pixels.

    Returns:
        (size, size) float32.
    """
    cells = int(np.ceil(size / period)) + 3
    side = int(np.ceil(cells * period))
    lattice = rng.standard_normal((cells, cells)).astype(np.float32)
    # A random crop, so that the lattice is not at the same place in every picture.
    top, left = rng.integers(0, side - size + 1, 2)
    field = cv2.resize(lattice, (side, side), interpolation=cv2.INTER_CUBIC)
    return field[top : top + size, left : left + size] * 1.4


def _rotated_grid(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    angle, du, dv = rng.uniform(0, 2 * np.pi), *rng.uniform(0, 100, 2)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin + np.float32(du), y * cos - x * sin + np.float32(dv)


def _mottle(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    return 0.8 * smooth_noise(rng, size, period) + 0.5 * smooth_noise(rng, size, period / 2)


def _pebbles(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    return 3 * np.abs(np.tanh(smooth_noise(rng, size, period))) - 1.6


def _ripples(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    u, _ = _rotated_grid(rng, size)
    phase = np.float32(2 * np.pi / period) * u + 1.3 * smooth_noise(rng, size, 2.5 * period)
    return 1.3 * np.sin(phase) * (0.75 + 0.25 * smooth_noise(rng, size, 3 * period))


def _furrows(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    u, _ = _rotated_grid(rng, size)
    return 1.3 * np.sin(np.float32(2 * np.pi / period) * u)


def _slabs(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    u, v = _rotated_grid(rng, size)
    row, column = np.floor(u / period), np.floor(v / period)
    joint = np.minimum(u / period - row, v / period - column) < 1.2 / period
    # One brightness per slab: a lattice of random values, read at the slab's row and column.
    lattice = rng.standard_normal((64, 64)).astype(np.float32)
    slab = lattice[row.astype(int) % 64, column.astype(int) % 64]
    return np.where(joint, np.float32(-2.2), 0.8 * slab)


PATTERNS: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    "mottle": _mottle,
    "pebbles": _pebbles,
    "ripples": _ripples,
    "furrows": _furrows,
    "slabs": _slabs,
}


def render_texture(
    rng: np.random.Generator,
    name: str,
    size: int,
    *,
    contrast: float = 1.0,
    color_jitter: float = 0.0,
    palette_pull: float = 0.0,
) -> np.ndarray:
    """Fill a picture with one texture.

    Args:
        rng: source of randomness.
        name: key of :data:`TEXTURES`.
        size: side, pixels.
        contrast: factor on the pattern's amplitude.
        color_jitter: standard deviation of the mean colour from call to call, 0 to 255.
        palette_pull: how far the colour is pulled to the mean of all textures, 0 to 1.

    Returns:
        (size, size, 3) float32, RGB, about 0 to 255, not clipped.
    """
    texture = TEXTURES[name]
    mean = np.mean([other.color for other in TEXTURES.values()], axis=0)
    color = (1 - palette_pull) * np.array(texture.color) + palette_pull * mean
    color = color + color_jitter * (0.8 * rng.standard_normal() + 0.6 * rng.standard_normal(3))
    pattern = PATTERNS[texture.pattern](rng, size, texture.period) * np.float32(contrast)
    pixels = color.astype(np.float32) + pattern[..., None] * np.array(texture.tone, np.float32)
    grain = rng.standard_normal((size, size), dtype=np.float32) * np.float32(texture.grain)
    return pixels + grain[..., None]
