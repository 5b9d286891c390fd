"""OCR from eq. 3-6 of the Segmentation Transformer paper, one scalar at a time.

Everything is a nested list of Python floats, which are float64; transforms are as in
:mod:`.transforms`.
"""

import math

from .transforms import dot, mean, softmax, transform

__all__ = ["ocr"]


def ocr(pixels, region_logits, padding, query, key, value, output, fuse):
    """Return z_i of eq. 6 for one image.

    Args:
        pixels: x_i, a list of C numbers for each of L positions.
        region_logits: M_k, a list of L numbers for each of K classes.
        padding: L booleans, True where a position is padding.
        query: phi.
        key: psi.
        value: delta.
        output: rho.
        fuse: g.
    """
    positions = [i for i in range(len(pixels)) if not padding[i]]
    regions = []  # f_k, eq. 4
    for logits in region_logits:
        weights = softmax([logits[i] for i in positions])
        regions.append(mean(weights, [pixels[i] for i in positions], len(pixels[0])))
    keys = [transform(key, region) for region in regions]
    values = [transform(value, region) for region in regions]

    augmented = []
    for pixel in pixels:
        projected = transform(query, pixel)
        relations = softmax(  # w_ik, eq. 5, scaled as in eq. 7
            [dot(projected, one_key) / math.sqrt(len(projected)) for one_key in keys]
        )
        context = transform(output, mean(relations, values, len(values[0])))  # y_i, eq. 3
        augmented.append(transform(fuse, context + pixel))  # z_i, eq. 6, context first
    return augmented
