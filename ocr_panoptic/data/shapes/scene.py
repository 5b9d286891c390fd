"""One picture of Shapes with its ground truth, as a function of (seed, split, index)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .difficulty import Difficulty
from .layout import Layout, draw_layout
from .outlines import Sprite, rasterize
from .paint import paint

__all__ = ["SPLITS", "Placed", "Scene", "Segment", "generate_scene"]

SPLITS = ("train", "val")

_ATTEMPTS = 200
_CUE_CANDIDATES = 48


@dataclass(frozen=True)
class Segment:
    """One annotated segment.

    Attributes:
        category: the category's name.
        iscrowd: True for a group of objects annotated as one.
        mask: (size, size) bool, the visible pixels; at least one is set.
    """

    category: str
    iscrowd: bool
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A picture and its segments.

    Attributes:
        image: (size, size, 3) uint8, RGB.
        segments: stuff, then things; disjoint. Pixels in none of them are void.
    """

    image: np.ndarray
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Placed:
    """An object in the picture: its category, its sprite, and the crowd it belongs to, if any."""

    category: str
    sprite: Sprite
    crowd: int | None = None


def generate_scene(difficulty: Difficulty, size: int, seed: int, split: str, index: int) -> Scene:
    """Generate a picture.

    Args:
        difficulty: the parameters.
        size: side, pixels.
        seed: of the data set, 0 or more.
        split: ``"train"`` or ``"val"``.
        index: of the picture in its split, 0 or more.

    Returns:
        The same scene for the same arguments, whatever else is generated.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    for _ in range(_ATTEMPTS):
        layout = draw_layout(rng, difficulty, size)
        if layout is None:
            continue
        objects = _place_objects(rng, difficulty, size, layout)
        segments = _visible_segments(difficulty, layout, objects)
        if _decidable(difficulty, layout, segments):
            return Scene(paint(rng, difficulty, layout, objects), segments)
    raise RuntimeError(f"no picture in {_ATTEMPTS} attempts at size {size}: loosen {difficulty}")


def _draw(
    rng: np.random.Generator,
    name: str,
    size: int,
    center: tuple[float, float],
    radius: float,
) -> Sprite | None:
    angle = rng.uniform(0, 2 * np.pi)
    aspect = np.exp(rng.uniform(-0.2, 0.2))
    return rasterize(name, size, center, radius, angle, aspect)


def _place_objects(
    rng: np.random.Generator, difficulty: Difficulty, size: int, layout: Layout
) -> list[Placed]:
    """Draw the objects of a picture, the farthest behind first."""
    deciding = {*layout.cues, *layout.barred}
    names = [category.name for category in difficulty.things if category.name not in deciding]
    placed: list[Placed] = []
    centers: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(difficulty.objects[0], difficulty.objects[1] + 1))):
        small = rng.uniform() < difficulty.small_share
        radius = size * rng.uniform(*(difficulty.small_radius if small else difficulty.radius))
        x, y = rng.uniform(-0.02, 1.02, 2) * size
        if centers and rng.uniform() < difficulty.overlap:
            other_x, other_y, other_radius = centers[int(rng.integers(len(centers)))]
            turn, reach = rng.uniform(0, 2 * np.pi), 0.8 * (radius + other_radius)
            x, y = other_x + reach * np.cos(turn), other_y + reach * np.sin(turn)
        centers.append((x, y, radius))
        name = names[int(rng.integers(len(names)))]
        placed.append(Placed(name, _draw(rng, name, size, (x, y), radius)))
    # Larger objects tend to lie behind smaller ones, as a hidden small one would be lost.
    depth = np.array([-radius for _, _, radius in centers]) * rng.uniform(0.6, 1.4, len(centers))
    placed = [placed[k] for k in np.argsort(depth)]
    for crowd, k in enumerate(rng.permutation(len(names))[:2]):
        if rng.uniform() < difficulty.crowd:
            placed += _place_crowd(rng, difficulty, size, names[k], crowd)
    placed += _place_cues(rng, difficulty, size, layout)
    return [item for item in placed if item.sprite is not None]


def _place_crowd(
    rng: np.random.Generator, difficulty: Difficulty, size: int, name: str, crowd: int
) -> list[Placed]:
    x, y = rng.uniform(0.15, 0.85, 2) * size
    radius = size * difficulty.small_radius[0]
    items = []
    for _ in range(int(rng.integers(8, 13))):
        center = (x + rng.normal(0, 2.2 * radius), y + rng.normal(0, 1.6 * radius))
        items.append(Placed(name, _draw(rng, name, size, center, radius), crowd))
    return items


def _place_cues(
    rng: np.random.Generator, difficulty: Difficulty, size: int, layout: Layout
) -> list[Placed]:
    """Put the deciding objects on top of everything, far from what they decide."""
    things = {category.name for category in difficulty.things}
    items, centers = [], []
    for cue, decided in zip(layout.cues, layout.decided, strict=True):
        if cue not in things:
            continue
        region = layout.labels == layout.categories.index(decided)
        distance = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 3) / size
        radius = size * rng.uniform(*difficulty.cue_radius)
        margin = 1.3 * radius
        candidates = rng.uniform(margin, size - margin, (_CUE_CANDIDATES, 2))
        apart = np.ones(len(candidates), dtype=bool)
        for center in centers:
            apart &= np.linalg.norm(candidates - center, axis=1) > 3 * size * max(
                difficulty.cue_radius
            )
        columns, rows = candidates.astype(int).T
        reach = np.where(apart, distance[rows, columns], -1)
        far = np.flatnonzero(reach >= difficulty.cue_distance)
        center = candidates[far[0] if len(far) else reach.argmax()]
        centers.append(center)
        items.append(Placed(cue, _draw(rng, cue, size, tuple(center), radius)))
    return items


def _visible_segments(
    difficulty: Difficulty, layout: Layout, objects: list[Placed]
) -> tuple[Segment, ...]:
    """Resolve occlusion: what is in front takes the pixels of what is behind."""
    stuff_count = len(layout.categories)
    owner = layout.labels.copy()
    for index, item in enumerate(objects):
        owner[item.sprite.rows, item.sprite.columns][item.sprite.mask] = stuff_count + index
    segments = []
    for index, name in enumerate(layout.categories):
        mask = owner == index
        if mask.sum() >= max(1, difficulty.min_stuff_area * mask.size):
            segments.append(Segment(name, False, mask))
    crowds: dict[tuple[str, int], np.ndarray] = {}
    for index, item in enumerate(objects):
        mask = owner == stuff_count + index
        if item.crowd is not None:
            key = (item.category, item.crowd)
            crowds[key] = crowds.get(key, False) | mask
        elif mask.sum() >= max(1, difficulty.min_thing_area * mask.size):
            segments.append(Segment(item.category, False, mask))
    for (name, _), mask in crowds.items():
        if mask.sum() >= max(1, difficulty.min_thing_area * mask.size):
            segments.append(Segment(name, True, mask))
    return tuple(segments)


def _decidable(difficulty: Difficulty, layout: Layout, segments: tuple[Segment, ...]) -> bool:
    """Tell whether every cue can be seen (a barred one was never drawn)."""
    stuff = {category.name for category in difficulty.stuff}
    least = dict.fromkeys(stuff, 0.5 * difficulty.cue_region_area)
    area: dict[str, float] = {}
    for segment in segments:
        area[segment.category] = area.get(segment.category, 0.0) + segment.mask.mean()
    return all(area.get(cue, 0.0) > least.get(cue, 0.0) for cue in layout.cues)
