"""Recurrent criss-cross attention, one scalar at a time.

Huang et al.: "CCNet: Criss-Cross Attention for Semantic Segmentation", eq. 1 and 2 and Fig. 2.
Lists and layers are as in :mod:`.transforms` and :mod:`.local`; positions are numbered row by row;
padding is a list of booleans.
"""

from .local import local_transform
from .transforms import affine, dot, mean, softmax

__all__ = ["criss_cross", "cross_of"]


def cross_of(i, size):
    """Return the positions of the row and the column of i, each once."""
    (height, width), (row, column) = size, divmod(i, size[1])
    return [y * width + x for y in range(height) for x in range(width) if y == row or x == column]


def _round(pixels, padding, size, layers, gamma):
    """Return H' of eq. 2, where the pixel itself is added."""
    queries = [affine(layers["query"], pixel) for pixel in pixels]
    keys = [affine(layers["key"], pixel) for pixel in pixels]
    values = [affine(layers["value"], pixel) for pixel in pixels]
    results = []
    for i, pixel in enumerate(pixels):
        seen = [j for j in cross_of(i, size) if not padding[j]]
        weights = softmax([dot(queries[i], keys[j]) for j in seen])
        found = mean(weights, [values[j] for j in seen], len(pixel))
        results.append([x + gamma * number for x, number in zip(pixel, found, strict=True)])
    return results


def criss_cross(pixels, padding, size, layers, gamma, recurrence):
    """Return the results of all positions.

    Args:
        pixels: x_i, a list of C numbers for each position.
        padding: a boolean for each position.
        size: (H, W).
        layers: "query", "key" and "value"; with "before", "after" and "fuse", 3x3 layers, it is
            the whole head, and the result without these is what was added to the pixels.
        gamma: the factor of each round.
        recurrence: the number of rounds.
    """
    everywhere = range(len(pixels))
    whole = "fuse" in layers
    before = pixels
    if whole:
        before = [local_transform(layers["before"], i, pixels, padding, size) for i in everywhere]
    after = before
    for _ in range(recurrence):
        after = _round(after, padding, size, layers, gamma)
    if not whole:
        return [
            [new - old for new, old in zip(*pair, strict=True)]
            for pair in zip(after, before, strict=True)
        ]
    after = [local_transform(layers["after"], i, after, padding, size) for i in everywhere]
    both = [pixel + more for pixel, more in zip(pixels, after, strict=True)]
    return [local_transform(layers["fuse"], i, both, padding, size) for i in everywhere]
