"""3x3 convolutions, one position at a time, on nested lists.

A layer is (weight, scale, shift), where weight[output][input][row][column]; the affine form is what
a BatchNorm has in evaluation mode, and a ReLU follows. Outside the map, and in padding, are zeros.
"""

from .transforms import as_layer

__all__ = ["as_local_layer", "local_transform"]


def as_local_layer(conv):
    """Return a 3x3 convolution of Detectron2, with its norm, as lists."""
    _, scale, shift = as_layer(conv)
    return conv.weight.tolist(), scale, shift


def local_transform(layer, i, pixels, padding, size):
    """Return what a layer makes of the neighbours of position i.

    Args:
        layer: as above.
        i: position, row by row from 0.
        pixels: sequence or dictionary of a list of C numbers for each position that is needed.
        padding: a boolean for each position.
        size: (H, W).
    """
    weight, scale, shift = layer
    (height, width), (row, column) = size, divmod(i, size[1])
    sums = [0.0] * len(weight)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            y, x = row + down, column + right
            if not (0 <= y < height and 0 <= x < width) or padding[y * width + x]:
                continue
            for out, kernel in enumerate(weight):
                for channel, number in enumerate(pixels[y * width + x]):
                    sums[out] += kernel[channel][down + 1][right + 1] * number
    return [max(0.0, total * a + b) for total, a, b in zip(sums, scale, shift, strict=True)]
