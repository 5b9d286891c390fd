"""The segmentation transformer, one scalar at a time.

Yuan et al.: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.3, eq. 4, 7 and 8, and Fig. 4; Vaswani et al.: "Attention Is All You Need",
eq. 1 and 2, sec. 3.2.2. Everything is a nested list of Python floats, which are float64; layers
are as in :mod:`.transforms`.
"""

import math

from .transforms import affine, dot, mean, softmax

__all__ = ["seg_transformer"]


def seg_transformer(wanted, pixels, logits, padding, queries, layers, heads):
    """Return {i: x_i} behind the last encoder layer.

    Args:
        wanted: the positions i.
        pixels: of each position a list of C numbers.
        logits: of each position a list of K numbers.
        padding: a boolean for each position.
        queries: K lists of C numbers.
        layers: of each a mapping of its units; an attention has the layers "query", "key", "value"
            and "output" (the first decoder attention the latter two), a norm is (weight, bias,
            epsilon), a feed-forward net two layers.
        heads: number of heads.
    """
    valid = [i for i in range(len(pixels)) if not padding[i]]
    for number, layer in enumerate(layers):
        seen = [pixels[i] for i in valid]
        if number == 0:
            attended = [
                _region(layer["decoder_attention"], k, logits, pixels, valid)
                for k in range(len(queries))
            ]
        else:
            attended = [
                _attend(layer["decoder_self_attention"], q, queries, heads) for q in queries
            ]
            queries = _add_and_norm(layer["decoder_self_norm"], queries, attended)
            attended = [_attend(layer["decoder_attention"], q, seen, heads) for q in queries]
        queries = _add_and_norm(layer["decoder_norm"], queries, attended)
        forwarded = [_feed_forward(layer["decoder_ffn"], query) for query in queries]
        queries = _add_and_norm(layer["decoder_ffn_norm"], queries, forwarded)

        # All positions are asked by the next layer; of the last one only those that are wanted.
        last = number == len(layers) - 1
        places = wanted if last else range(len(pixels))
        inputs = [pixels[i] for i in places]
        attended = [_attend(layer["encoder_attention"], pixel, queries, heads) for pixel in inputs]
        inputs = _add_and_norm(layer["encoder_norm"], inputs, attended)
        forwarded = [_feed_forward(layer["encoder_ffn"], pixel) for pixel in inputs]
        pixels = _add_and_norm(layer["encoder_ffn_norm"], inputs, forwarded)
    return dict(zip(wanted, pixels, strict=True))


def _region(layers, k, logits, pixels, valid):
    """Return what category k gets with the weights of eq. 4."""
    weights = softmax([logits[i][k] for i in valid])
    values = [affine(layers["value"], pixels[i]) for i in valid]
    return affine(layers["output"], mean(weights, values, len(layers["value"][0])))


def _attend(layers, asking, asked, heads):
    """Return multi-head attention of one vector to some, eq. 7 and 8 for each head."""
    query = affine(layers["query"], asking)
    keys = [affine(layers["key"], vector) for vector in asked]
    values = [affine(layers["value"], vector) for vector in asked]
    width = len(query) // heads
    mixed = []
    for start in range(0, len(query), width):
        part = slice(start, start + width)
        weights = softmax([dot(query[part], key[part]) / math.sqrt(width) for key in keys])
        mixed += mean(weights, [value[part] for value in values], width)
    return affine(layers["output"], mixed)


def _feed_forward(layers, vector):
    first, second = layers
    return affine(second, [max(0.0, number) for number in affine(first, vector)])


def _add_and_norm(norm, vectors, added):
    return [
        _layer_norm(norm, [a + b for a, b in zip(vector, more, strict=True)])
        for vector, more in zip(vectors, added, strict=True)
    ]


def _layer_norm(norm, vector):
    weight, bias, epsilon = norm
    center = sum(vector) / len(vector)
    variance = sum((number - center) ** 2 for number in vector) / len(vector)
    return [
        (number - center) / math.sqrt(variance + epsilon) * weight[c] + bias[c]
        for c, number in enumerate(vector)
    ]
