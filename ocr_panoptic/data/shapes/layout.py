"""Where the stuff of a picture lies: regions with winding borders, and their categories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .difficulty import Difficulty
from .textures import smooth_noise

__all__ = ["Layout", "draw_layout", "grid"]

_CANDIDATES = 8


@dataclass(frozen=True)
class Layout:
    """The stuff of a picture before anything lies on it.

    Attributes:
        categories: names of the stuff categories present.
        labels: (size, size) int32, index into ``categories``; -1 is unlabelled.
        cues: names of the deciding categories that the picture must show.
        barred: names of the deciding categories that it must not show.
        decided: for each of ``cues``, the name of the look-alike that it decides.
    """

    categories: tuple[str, ...]
    labels: np.ndarray
    cues: tuple[str, ...]
    barred: frozenset[str]
    decided: tuple[str, ...]


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the pixel centres as fractions of the side, each (size, size) float32."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)) / np.float32(size)
    return x, y


def _regions(rng: np.random.Generator, size: int, count: int, warp: float) -> np.ndarray:
    """Cut the picture into ``count`` cells around spread-out centres, (size, size) int32."""
    centers = [rng.uniform(0, 1, 2)]
    while len(centers) < count:
        # The candidate farthest from the others, so that no cell is a sliver.
        candidates = rng.uniform(0, 1, (_CANDIDATES, 2))
        distance = np.linalg.norm(candidates[:, None] - np.array(centers)[None], axis=2)
        centers.append(candidates[distance.min(axis=1).argmax()])
    x, y = grid(size)
    x = x + np.float32(warp) * smooth_noise(rng, size, size / 4)
    y = y + np.float32(warp) * smooth_noise(rng, size, size / 4)
    nearest = np.zeros((size, size), np.int32)
    best = np.full((size, size), np.inf, np.float32)
    for index, (cx, cy) in enumerate(np.array(centers, dtype=np.float32)):
        distance = (x - cx) ** 2 + (y - cy) ** 2
        closer = distance < best
        nearest[closer] = index
        best[closer] = distance[closer]
    return nearest


def _blob(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one unlabelled blob, (size, size) bool."""
    x, y = grid(size)
    cx, cy = rng.uniform(0.05, 0.95, 2)
    a, b = rng.uniform(0.08, 0.16, 2)
    wave = 0.35 * smooth_noise(rng, size, size / 6)
    return ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + wave < 1


def draw_layout(rng: np.random.Generator, difficulty: Difficulty, size: int) -> Layout | None:
    """Draw regions and give each a stuff category.

    Which member of a look-alike pair a region gets is the toss of a coin after its place and
    shape are drawn: nothing but the cue depends on it.

    Args:
        rng: source of randomness.
        difficulty: the parameters.
        size: side of the picture, pixels.

    Returns:
        The layout, or None where the regions drawn leave no room for a deciding region.
    """
    count = int(rng.integers(difficulty.regions[0], difficulty.regions[1] + 1))
    regions = _regions(rng, size, count, difficulty.region_warp)
    area = np.bincount(regions.ravel(), minlength=count) / regions.size
    shares = np.array(difficulty.pairs_per_image)
    pair_count = int(rng.choice(len(shares), p=shares / shares.sum()))
    pairs = [difficulty.pairs[k] for k in rng.permutation(len(difficulty.pairs))[:pair_count]]

    stuff = {category.name for category in difficulty.stuff}
    free = list(rng.permutation(count))
    names = [""] * count
    cues, barred, decided = [], set(), []
    for pair in pairs:
        member = int(rng.integers(2))
        cues.append(pair.cues[member])
        barred.add(pair.cues[1 - member])
        decided.append(pair.members[member])
        if pair.cues[member] in stuff:
            region = next((r for r in free if area[r] >= difficulty.cue_region_area), None)
            if region is None:
                return None
            free.remove(region)
            names[region] = pair.cues[member]
        for _ in range(int(rng.integers(1, difficulty.pair_regions + 1))):
            names[free.pop()] = pair.members[member]

    members = {name for pair in difficulty.pairs for name in pair.members}
    plain = [c.name for c in difficulty.stuff if c.name not in members and c.name not in barred]
    # Without repetition as long as there are enough, so that pictures are rich in classes.
    order = [plain[k] for k in rng.permutation(len(plain))]
    for k, region in enumerate(free):
        names[region] = order[k % len(order)]

    categories = tuple(dict.fromkeys(names))
    lookup = np.array([categories.index(name) for name in names], np.int32)
    labels = lookup[regions]
    for _ in range(int(rng.integers(0, difficulty.void_regions + 1))):
        labels[_blob(rng, size)] = -1
    return Layout(categories, labels, tuple(cues), frozenset(barred), tuple(decided))
