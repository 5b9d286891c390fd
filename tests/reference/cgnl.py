"""Compact generalized non-local with the dot product, as a matrix of all pairs.

Yue et al.: "Compact Generalized Non-local Network", sec. 3: vec(Y) = f(vec(theta), vec(phi))
vec(g) in each group of channels, f the dot product, here written out: every channel of every
position with every channel of every position. Lists and layers are as in :mod:`.transforms` and
:mod:`.local`; padding is a list of booleans.
"""

import math

from .local import local_transform
from .transforms import affine

__all__ = ["cgnl"]


def _share(group, channels, groups):
    size = channels // groups
    return range(group * size, (group + 1) * size)


def _non_local(pixels, seen, layers, groups):
    query, key, value = (
        [affine(layers[name], pixel) for pixel in pixels] for name in ("query", "key", "value")
    )
    channels = len(query[0])
    results = [[0.0] * channels for _ in pixels]
    for group in range(groups):
        share = _share(group, channels, groups)
        pairs = [(j, d) for j in seen for d in share]
        for i in range(len(pixels)):
            for c in share:
                row = [query[i][c] * key[j][d] for j, d in pairs]
                total = sum(f * value[j][d] for f, (j, d) in zip(row, pairs, strict=True))
                results[i][c] = total / math.sqrt(max(1, len(pairs)))
    return results


def _grouped(weight, vector, groups):
    """Apply W_z: weight[output][input of its group]."""
    results = []
    for out, row in enumerate(weight):
        group = out // (len(weight) // groups)
        inputs = _share(group, len(vector), groups)
        results.append(sum(a * vector[c] for a, c in zip(row, inputs, strict=True)))
    return results


def _group_norm(maps, seen, groups, weight, bias, eps):
    channels = len(weight)
    results = [[0.0] * channels for _ in maps]
    for group in range(groups):
        share = _share(group, channels, groups)
        numbers = [maps[j][c] for j in seen for c in share]
        count = max(1, len(numbers))
        mean = sum(numbers) / count
        variance = sum((number - mean) ** 2 for number in numbers) / count
        for i, pixel in enumerate(maps):
            for c in share:
                normed = (pixel[c] - mean) / math.sqrt(variance + eps)
                results[i][c] = normed * weight[c] + bias[c]
    return results


def cgnl(pixels, padding, size, layers, groups, norm=None):
    """Return the results of all positions.

    Args:
        pixels: a list of C numbers for each position.
        padding: a boolean for each position.
        size: (H, W).
        layers: "query" (theta), "key" (phi), "value" (g), and "output", the weight of W_z; with a
            norm also "fuse", the 3x3 layer behind the sum with the pixels.
        groups: groups of channels.
        norm: weight, bias and eps of the GroupNorm, or None for the context alone.
    """
    seen = [j for j, hidden in enumerate(padding) if not hidden]
    context = [
        _grouped(layers["output"], vector, groups)
        for vector in _non_local(pixels, seen, layers, groups)
    ]
    if norm is None:
        return context
    context = _group_norm(context, seen, groups, *norm)
    both = [
        [x + z for x, z in zip(*pair, strict=True)] for pair in zip(pixels, context, strict=True)
    ]
    return [local_transform(layers["fuse"], i, both, padding, size) for i in range(len(pixels))]
