"""Dual attention, one scalar at a time.

Fu et al.: "Dual Attention Network for Scene Segmentation", eq. 1 to 4 and Fig. 2; the sign of eq. 3
is that of its authors' code. Lists and layers are as in :mod:`.transforms` and :mod:`.local`;
padding is a list of booleans.
"""

from .local import local_transform
from .transforms import affine, dot, mean, softmax

__all__ = ["danet"]


def _position_attention(pixels, padding, layers):
    """Return the sum of s_ji D_i of eq. 2 for each j."""
    seen = [j for j, hidden in enumerate(padding) if not hidden]
    keys = [affine(layers["key"], pixels[j]) for j in seen]
    values = [affine(layers["value"], pixels[j]) for j in seen]
    results = []
    for pixel in pixels:
        query = affine(layers["query"], pixel)
        results.append(mean(softmax([dot(query, key) for key in keys]), values, len(pixel)))
    return results


def _channel_attention(pixels, padding):
    """Return the sum of x_ji A_i of eq. 4 for each channel j, position by position."""
    channels = range(len(pixels[0]))
    seen = [pixel for pixel, hidden in zip(pixels, padding, strict=True) if not hidden]
    weights = [
        softmax([-sum(pixel[j] * pixel[i] for pixel in seen) for i in channels]) for j in channels
    ]
    return [[dot(row, pixel) for row in weights] for pixel in pixels]


def _sum(left, right, factor=1.0):
    return [
        [a + factor * b for a, b in zip(*pair, strict=True)]
        for pair in zip(left, right, strict=True)
    ]


def danet(pixels, padding, size, layers, alpha, beta):
    """Return the results of all positions.

    Args:
        pixels: a list of C numbers for each position.
        padding: a boolean for each position.
        size: (H, W).
        layers: "query", "key" and "value"; with "position_before", "position_after",
            "channel_before" and "channel_after", 3x3 layers, it is the whole head, and the result
            without these is what both attentions found.
        alpha: the factor of position attention.
        beta: that of channel attention.
    """

    def local(name, feats):
        return [local_transform(layers[name], i, feats, padding, size) for i in range(len(pixels))]

    if "position_before" not in layers:
        zeros = [[0.0] * len(pixel) for pixel in pixels]
        context = _sum(zeros, _position_attention(pixels, padding, layers), alpha)
        return _sum(context, _channel_attention(pixels, padding), beta)
    position = local("position_before", pixels)
    position = _sum(position, _position_attention(position, padding, layers), alpha)
    channel = local("channel_before", pixels)
    channel = _sum(channel, _channel_attention(channel, padding), beta)
    return _sum(local("position_after", position), local("channel_after", channel))
