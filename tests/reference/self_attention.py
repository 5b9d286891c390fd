"""Self-attention, dense and interlaced, and the non-local block, one scalar at a time.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation", eq. 4 to 11, and Wang et al.:
"Non-local Neural Networks", eq. 1, 4 and sec. 3.3. Everything is a nested list of Python floats,
which are float64; layers and transforms are as in :mod:`.transforms`. The positions of a map are
numbered row by row, from 0. Padding is a list of booleans, True where a position is padding, which
no position may look at; a position that can look at nothing sees zeros.

In the interlaced form a map whose size is no multiple of the partitions goes on, as padding, to
the right and below. Padding asks nothing, its query is zero, so it gets the mean of what it may
look at, and the next stage may look at what got something.
"""

import math

from .transforms import affine, dot, mean, softmax, transform

__all__ = [
    "extend",
    "non_local",
    "non_local_relation",
    "product",
    "receptive_set",
    "relations",
    "stages_at",
]


def receptive_set(i, kind, size, partitions):
    """Return I_i, the positions that i looks at: eq. 7 and 8 in rows and in columns.

    Args:
        i: the position that looks.
        kind: "global": the same remainders; "local": the same quotients; "dense": all.
        size: (H, W).
        partitions: (P_h, P_w), the numbers to divide by.
    """
    same = {
        "global": lambda a, b, parts: a % parts == b % parts,
        "local": lambda a, b, parts: a // parts == b // parts,
        "dense": lambda a, b, parts: True,
    }[kind]
    (height, width), (rows, columns) = size, partitions
    here = divmod(i, width)
    return [
        row * width + column
        for row in range(height)
        if same(row, here[0], rows)
        for column in range(width)
        if same(column, here[1], columns)
    ]


def _weights(query, keys):
    """Return one row of W, eq. 10 and 14, over some keys."""
    return softmax([dot(query, key) / math.sqrt(len(query)) for key in keys])


def extend(pixels, padding, size, partitions):
    """Return pixels, padding and size of the map that goes on to multiples of the partitions."""
    (height, width), (rows, columns) = size, partitions
    larger = (math.ceil(height / rows) * rows, math.ceil(width / columns) * columns)
    inside = [
        row * width + column if row < height and column < width else None
        for row in range(larger[0])
        for column in range(larger[1])
    ]
    zeros = [0.0] * len(pixels[0])
    return (
        [zeros if i is None else pixels[i] for i in inside],
        [True if i is None else padding[i] for i in inside],
        larger,
    )


def stages_at(wanted, pixels, padding, size, partitions, stages):
    """Return the context of the wanted positions, {i: z_i}: eq. 4, or eq. 5 and then 6.

    Args:
        wanted: the positions i.
        pixels: x_i, a list of C numbers for each position.
        padding: a boolean for each position.
        size: (H, W).
        partitions: (P_h, P_w).
        stages: (kind of receptive set, layers) of each stage in order of application. Layers has
            the transforms "query" (theta) and "key" (phi), the layers "value" (delta) and "output"
            (rho), and "relu", whether one follows rho.
    """
    pixels, padding, larger = extend(pixels, padding, size, partitions)
    places = {i: divmod(i, size[1]) for i in wanted}
    places = {i: row * larger[1] + column for i, (row, column) in places.items()}
    contexts = _stages_at(places.values(), pixels, padding, larger, partitions, stages)
    return {i: contexts[place] for i, place in places.items()}


def _stages_at(wanted, pixels, padding, size, partitions, stages):
    if not stages:
        return {i: pixels[i] for i in wanted}
    *before, (kind, layers) = stages
    seen = {i: _seen(i, kind, padding, size, partitions, before) for i in wanted}
    needed = set(wanted).union(*seen.values())
    inputs = _stages_at(needed, pixels, padding, size, partitions, before)
    keys = {j: transform(layers["key"], inputs[j]) for j in needed}
    values = {j: affine(layers["value"], inputs[j]) for j in needed}
    contexts = {}
    for i in wanted:
        query = _query(i, kind, layers, inputs[i], padding, size, partitions, before)
        weights = _weights(query, [keys[j] for j in seen[i]])
        mixed = mean(weights, [values[j] for j in seen[i]], len(values[i]))
        context = affine(layers["output"], mixed)
        contexts[i] = [max(0.0, number) for number in context] if layers["relu"] else context
    return contexts


def relations(pixels, padding, size, partitions, stages):
    """Return W of every stage, full N x N matrices, each computed on its stage's input.

    N counts the positions of the map that goes on to multiples of the partitions.
    """
    pixels, padding, size = extend(pixels, padding, size, partitions)
    everywhere = range(len(pixels))
    matrices = []
    for index, (kind, layers) in enumerate(stages):
        before = stages[:index]
        inputs = _stages_at(everywhere, pixels, padding, size, partitions, before)
        matrix = [[0.0] * len(pixels) for _ in everywhere]
        for i in everywhere:
            seen = _seen(i, kind, padding, size, partitions, before)
            query = _query(i, kind, layers, inputs[i], padding, size, partitions, before)
            weights = _weights(query, [transform(layers["key"], inputs[j]) for j in seen])
            for j, weight in zip(seen, weights, strict=True):
                matrix[i][j] = weight
        matrices.append(matrix)
    return matrices


def product(left, right):
    """Return left times right: eq. 9, where both have the order of the map."""
    return [[dot(row, column) for column in zip(*right, strict=True)] for row in left]


def _is_empty(i, padding, size, partitions, before):
    """Say whether a position, after some stages, has nothing of any that is not padding."""
    if not before:
        return padding[i]
    *before, (kind, _) = before
    return all(
        _is_empty(j, padding, size, partitions, before)
        for j in receptive_set(i, kind, size, partitions)
    )


def _seen(i, kind, padding, size, partitions, before):
    return [
        j
        for j in receptive_set(i, kind, size, partitions)
        if not _is_empty(j, padding, size, partitions, before)
    ]


def _query(i, kind, layers, pixel, padding, size, partitions, before):
    query = transform(layers["query"], pixel)
    if kind != "dense" and _is_empty(i, padding, size, partitions, before):
        return [0.0] * len(query)
    return query


def _blocks(padding, size, subsample):
    """Return the valid positions of each 2x2 block, or of each position, that has any."""
    (height, width), step = size, 2 if subsample else 1
    corners = [(row, column) for row in range(0, height, step) for column in range(0, width, step)]
    blocks = [
        [
            r * width + c
            for r in range(row, min(row + step, height))
            for c in range(column, min(column + step, width))
            if not padding[r * width + c]
        ]
        for row, column in corners
    ]
    return [block for block in blocks if block]


def _maxima(layer, pixels, blocks):
    """Return what a layer makes of each block: in each channel the largest number."""
    made = {i: affine(layer, pixels[i]) for block in blocks for i in block}
    return [
        [max(numbers) for numbers in zip(*(made[i] for i in block), strict=True)]
        for block in blocks
    ]


def non_local(wanted, pixels, padding, size, layers, subsample):
    """Return W_z y_i of the wanted positions, {i: W_z y_i}.

    Args:
        wanted: the positions i.
        pixels: x_i, a list of C numbers for each position.
        padding: a boolean for each position.
        size: (H, W).
        layers: the layers "query" (theta), "key" (phi), "value" (g) and "output" (W_z).
        subsample: whether the maxima of 2x2 keys and values stand for them.
    """
    blocks = _blocks(padding, size, subsample)
    keys, values = (_maxima(layers[name], pixels, blocks) for name in ("key", "value"))
    channels = len(layers["value"][0])
    return {
        i: affine(
            layers["output"],
            mean(_weights(affine(layers["query"], pixels[i]), keys), values, channels),
        )
        for i in wanted
    }


def non_local_relation(i, pixels, padding, size, layers, subsample):
    """Return what position i looks at; a block's weight belongs to its valid positions equally."""
    blocks = _blocks(padding, size, subsample)
    keys = _maxima(layers["key"], pixels, blocks)
    row = [0.0] * len(pixels)
    for block, weight in zip(
        blocks, _weights(affine(layers["query"], pixels[i]), keys), strict=True
    ):
        for j in block:
            row[j] = weight / len(block)
    return row
