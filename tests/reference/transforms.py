"""What the references share: 1x1 convolutions, softmax and sums, on lists of numbers.

A layer is (weight, scale, shift): a 1x1 convolution without bias, then the affine form that a
BatchNorm has in evaluation mode. A transform is a list of layers with a ReLU behind each.
"""

import math

__all__ = ["affine", "as_layer", "as_transform", "dot", "mean", "softmax", "transform"]


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def affine(layer, vector):
    weight, scale, shift = layer
    return [dot(row, vector) * scale[out] + shift[out] for out, row in enumerate(weight)]


def transform(layers, vector):
    for layer in layers:
        vector = [max(0.0, number) for number in affine(layer, vector)]
    return vector


def softmax(values):
    largest = max(values, default=0.0)
    powers = [math.exp(value - largest) for value in values]
    total = sum(powers)
    return [power / total for power in powers]


def mean(weights, vectors, channels):
    """Return the sum of weighted vectors of some channels: zeros if there are none."""
    pairs = list(zip(weights, vectors, strict=True))
    return [sum(weight * vector[c] for weight, vector in pairs) for c in range(channels)]


def as_layer(conv):
    """Return a 1x1 convolution of Detectron2, with its norm, as lists."""
    weight, norm = conv.weight.flatten(1), conv.norm
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias
    scale = weight.new_ones(len(weight))
    if norm is not None:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias + (bias - norm.running_mean) * scale
    return weight.tolist(), scale.tolist(), bias.tolist()


def as_transform(convs):
    return [as_layer(conv) for conv in convs]
