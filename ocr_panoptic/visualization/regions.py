"""Pictures of soft object regions."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np

__all__ = ["draw_region"]

_COLORMAP = "inferno"
# Slope and lift of the grey image's brightness: it leaves room for heat and for dark photographs.
_BACKGROUND = 0.55, 20.0
# Of the heat at its maximum.
_OPACITY = 0.9


def draw_region(
    image: np.ndarray,
    weights: np.ndarray,
    color: tuple[int, int, int] | None = None,
    maximum: float | None = None,
) -> np.ndarray:
    """Draw a soft object region as heat over a grey, darkened image.

    The weights are resized bilinearly to the image. Divided by their own maximum, as by default,
    pictures of two regions compare where the weight lies, not how large it is.

    Args:
        image: (H, W, 3) uint8, RGB.
        weights: (H', W') floats, not negative: the degree to which each cell belongs to a class,
            or its spatial softmax.
        color: RGB, 0 to 255, of the region; by default a perceptually uniform colormap.
        maximum: the weight of full heat, 1 for degrees; None for the largest that there is.

    Returns:
        (H, W, 3) uint8, RGB. With weights that are zero everywhere, the grey image alone.

    Raises:
        ValueError: For arrays whose shape or dtype is not as above, or weights that are negative
            or not finite.
    """
    image = np.asarray(image)
    weights = np.asarray(weights, dtype=np.float64)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if weights.ndim != 2 or weights.size == 0:
        raise ValueError(f"weights must be (H', W'), not {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError("weights must be finite and not negative")

    height, width = image.shape[:2]
    # Before the resizing, so that weights too small for float32 keep their ratios.
    peak = weights.max() if maximum is None else maximum
    if peak > 0:
        weights = weights / peak
    heat = cv2.resize(weights.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    if maximum is None and heat.max() > 0:
        # Bilinear resizing can lower a peak of one cell.
        heat /= heat.max()
    heat = heat.clip(0, 1)

    slope, lift = _BACKGROUND
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] * slope + lift
    if color is None:
        overlay = matplotlib.colormaps[_COLORMAP](heat)[..., :3] * 255
    else:
        overlay = np.asarray(color, dtype=np.float32)
    opacity = _OPACITY * heat[..., None]
    picture = (1 - opacity) * grey + opacity * overlay
    return np.rint(picture).astype(np.uint8)
