"""OCR from eq. 3-6 of the Segmentation Transformer paper, one scalar at a time.

Everything is a nested list of Python floats, which are float64. A transform is a list of
(weight, scale, shift): 1x1 convolution without bias, then the affine form that a BatchNorm has in
evaluation mode, then ReLU.
"""

import math

__all__ = ["ocr"]


def _transform(transform, vector):
    for weight, scale, shift in transform:
        vector = [
            max(
                0.0,
                sum(w * x for w, x in zip(row, vector, strict=True)) * scale[out] + shift[out],
            )
            for out, row in enumerate(weight)
        ]
    return vector


def _softmax(values):
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


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
    channels = range(len(pixels[0]))
    regions = []  # f_k, eq. 4
    for logits in region_logits:
        weights = _softmax([logits[i] for i in positions]) if positions else []
        regions.append(
            [
                sum(weight * pixels[i][c] for weight, i in zip(weights, positions, strict=True))
                for c in channels
            ]
        )
    keys = [_transform(key, region) for region in regions]
    values = [_transform(value, region) for region in regions]

    augmented = []
    for pixel in pixels:
        projected = _transform(query, pixel)
        relations = _softmax(  # w_ik, eq. 5, scaled as in eq. 7
            [
                sum(a * b for a, b in zip(projected, one_key, strict=True))
                / math.sqrt(len(projected))
                for one_key in keys
            ]
        )
        mixed = [
            sum(relation * one[c] for relation, one in zip(relations, values, strict=True))
            for c in range(len(values[0]))
        ]
        context = _transform(output, mixed)  # y_i, eq. 3
        augmented.append(_transform(fuse, context + pixel))  # z_i, eq. 6, context first
    return augmented
