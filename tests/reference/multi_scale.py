"""Schemes of several scales, one scalar at a time.

Zhao et al.: "Pyramid Scene Parsing Network", sec. 3.2; Chen et al.: "Rethinking Atrous Convolution
for Semantic Image Segmentation", sec. 3.3; Yuan et al.: "OCNet: Object Context for Semantic
Segmentation", sec. 3.3, 3.4 and appendix H.

Pixels, padding, layers and transforms are as in :mod:`.self_attention`. A map is a mapping from
(row, column) to numbers that has no padding in it: what it does not have is outside. A spatial
layer is (weight[out][in][row][column], scale, shift, rate): a 3x3 convolution of a rate, then the
affine form of a norm.
"""

import math

from .self_attention import stages_at
from .transforms import as_layer, mean, transform

__all__ = ["as_spatial", "asp_oc", "aspp", "parts_of", "ppm", "pyramid_oc"]


def as_spatial(conv):
    """Return a 3x3 convolution of Detectron2, with its norm, as lists."""
    _, scale, shift = as_layer(conv)
    return conv.weight.tolist(), scale, shift, conv.dilation[0]


def _valid(pixels, padding, width):
    return {
        divmod(i, width): pixel
        for i, (pixel, outside) in enumerate(zip(pixels, padding, strict=True))
        if not outside
    }


def _convolve(layer, image, place):
    """Return a 3x3 convolution, its norm and ReLU at one place of a map."""
    weight, scale, shift, rate = layer
    row, column = place
    results = []
    for kernel, factor, offset in zip(weight, scale, shift, strict=True):
        total = 0.0
        for channel, plane in enumerate(kernel):
            for r in range(3):
                for c in range(3):
                    seen = image.get((row + (r - 1) * rate, column + (c - 1) * rate))
                    if seen is not None:
                        total += plane[r][c] * seen[channel]
        results.append(max(0.0, total * factor + offset))
    return results


def _rectangle(image):
    """Return (first row, number of rows) and (first column, number of columns) of a map."""
    rows, columns = zip(*image, strict=True)
    return tuple((min(axis), max(axis) - min(axis) + 1) for axis in (rows, columns))


def _average(vectors, channels):
    vectors = list(vectors)
    return mean([1 / len(vectors) for _ in vectors], vectors, channels)


def _part_average(image, part, bins, channels):
    """Return the mean of what is in one of bins x bins parts, which may share a border row."""
    inside = []
    for (start, length), index in zip(_rectangle(image), part, strict=True):
        begin = math.floor(index * length / bins)
        inside.append(range(start + begin, start + math.ceil((index + 1) * length / bins)))
    rows, columns = inside
    return _average(
        (pixel for (r, c), pixel in image.items() if r in rows and c in columns), channels
    )


def _between(cells, place, channels):
    """Return the bilinear mean at a real-valued place of {(row, column): vector}."""
    weights = [
        max(0.0, 1 - abs(place[0] - row)) * max(0.0, 1 - abs(place[1] - column))
        for row, column in cells
    ]
    return mean([weight / sum(weights) for weight in weights], list(cells.values()), channels)


def ppm(wanted, pixels, padding, size, bins, branches, fuse):
    """Return PPM and the 3x3 behind it at the wanted positions, {i: result}; padding gives zeros.

    Args:
        wanted: the positions i.
        pixels: x_i, a list of C numbers for each position.
        padding: a boolean for each position.
        size: (H, W).
        bins: parts along each axis, of each scale.
        branches: the transform of each scale.
        fuse: spatial layer.
    """
    image, channels = _valid(pixels, padding, size[1]), len(pixels[0])
    averages = [
        {
            (r, c): transform(branch, _part_average(image, (r, c), b, channels))
            for r in range(b)
            for c in range(b)
        }
        for b, branch in zip(bins, branches, strict=True)
        if image
    ]

    def pyramid(place):
        found = list(image[place])
        for b, parts in zip(bins, averages, strict=True):
            # The middle of a part is where its number is; at the border there is one side only.
            centers = [
                min(max((at - start + 0.5) * b / length - 0.5, 0), b - 1)
                for at, (start, length) in zip(place, _rectangle(image), strict=True)
            ]
            found += _between(parts, centers, len(parts[0, 0]))
        return found

    results = {}
    for i in wanted:
        row, column = divmod(i, size[1])
        around = [(row + r, column + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        seen = {place: pyramid(place) for place in around if place in image}
        inside = (row, column) in image
        results[i] = _convolve(fuse, seen, (row, column)) if inside else [0.0] * len(fuse[0])
    return results


def aspp(wanted, pixels, padding, size, point, dilated, of_average, fuse):
    """Return ASPP of the wanted positions, {i: result}; padding gives zeros.

    Args:
        wanted: the positions i.
        pixels: x_i.
        padding: a boolean for each position.
        size: (H, W).
        point: the transform of the 1x1 branch.
        dilated: the spatial layers.
        of_average: the transform of the average of all pixels.
        fuse: the transform of all branches side by side.
    """
    image, channels = _valid(pixels, padding, size[1]), len(pixels[0])
    average = transform(of_average, _average(image.values(), channels))
    results = {}
    for i in wanted:
        place = divmod(i, size[1])
        if place not in image:
            results[i] = [0.0] * len(fuse[-1][0])
            continue
        branches = transform(point, image[place])
        for layer in dilated:
            branches += _convolve(layer, image, place)
        results[i] = transform(fuse, branches + average)
    return results


def parts_of(image, parts):
    """Return the parts of a map, eq. 27: lists of the (row, column) in them.

    A part is what has the same quotients of eq. 22, in rows and in columns, counted from the
    first row and column of the map.
    """
    (top, height), (left, width) = _rectangle(image)
    found = {}
    for row, column in sorted(image):
        part = (row - top) * parts // height, (column - left) * parts // width
        found.setdefault(part, []).append((row, column))
    return list(found.values())


def _context_within(image, partitions, stages, wanted):
    """Return {place: context} of wanted places of a map, which is taken for a whole image."""
    (top, height), (left, width) = _rectangle(image)
    size, empty = (height, width), [0.0] * len(next(iter(image.values())))
    places = [(top + r, left + c) for r in range(height) for c in range(width)]
    pixels = [image.get(place, empty) for place in places]
    indices = {place: i for i, place in enumerate(places)}
    contexts = stages_at(
        [indices[place] for place in wanted],
        pixels,
        [place not in image for place in places],
        size,
        partitions,
        stages,
    )
    return {place: contexts[indices[place]] for place in wanted}


def pyramid_oc(wanted, pixels, padding, size, bins, partitions, contexts, widen, fuse):
    """Return Pyramid-OC of the wanted positions, {i: result}; padding gives zeros.

    Args:
        wanted: the positions i.
        pixels: x_i.
        padding: a boolean for each position.
        size: (H, W).
        bins: parts along each axis, of each scale.
        partitions: (P_h, P_w) of contexts with a global or local stage.
        contexts: the stages of each scale, as :func:`.self_attention.stages_at` takes them.
        widen: the transform of the pixels.
        fuse: the transform of wide pixels and contexts side by side.
    """
    image = _valid(pixels, padding, size[1])
    wanted_places = {i: divmod(i, size[1]) for i in wanted}
    scales = []
    for b, stages in zip(bins, contexts, strict=True):
        found = {}
        for part in parts_of(image, b) if image else ():
            within = [place for place in wanted_places.values() if place in part]
            if within:
                inside = {place: image[place] for place in part}
                found.update(_context_within(inside, partitions, stages, within))
        scales.append(found)
    results = {}
    for i, place in wanted_places.items():
        results[i] = [0.0] * len(fuse[-1][0])
        if place in image:
            both = transform(widen, image[place])
            for found in scales:
                both += found[place]
            results[i] = transform(fuse, both)
    return results


def asp_oc(wanted, pixels, padding, size, scale, partitions, stages, reduce, point, dilated, fuse):
    """Return ASP-OC of the wanted positions, {i: result}; padding gives zeros.

    Args:
        wanted: the positions i.
        pixels: x_i.
        padding: a boolean for each position.
        size: (H, W).
        scale: positions along each axis whose maxima the context is computed of.
        partitions: (P_h, P_w) of contexts with a global or local stage.
        stages: of the context, as :func:`.self_attention.stages_at` takes them.
        reduce: the spatial layer in front of the context.
        point: the transform of the 1x1 branch.
        dilated: the spatial layers.
        fuse: the transform of all branches side by side.
    """
    image = _valid(pixels, padding, size[1])
    cells = {}
    for row, column in image:
        reduced = _convolve(reduce, image, (row, column))
        cell = row // scale, column // scale
        cells[cell] = [max(pair) for pair in zip(cells.get(cell, reduced), reduced, strict=True)]
    contexts = _context_within(cells, partitions, stages, list(cells)) if cells else {}
    results = {}
    for i in wanted:
        place = divmod(i, size[1])
        if place not in image:
            results[i] = [0.0] * len(fuse[-1][0])
            continue
        middle = [(at + 0.5) / scale - 0.5 for at in place]
        branches = _between(contexts, middle, len(next(iter(contexts.values()))))
        branches += transform(point, image[place])
        for layer in dilated:
            branches += _convolve(layer, image, place)
        results[i] = transform(fuse, branches)
    return results
