"""Double attention and efficient attention, one scalar at a time.

Chen et al.: "A2-Nets: Double Attention Networks", sec. 3; Shen et al.: "Efficient Attention:
Attention with Linear Complexities", sec. 3, with softmax normalisation. Lists and layers are as in
:mod:`.transforms`; padding is a list of booleans.
"""

from .transforms import affine, softmax, transform

__all__ = ["double_attention", "efficient_attention"]


def _means(logits, values, padding):
    """Return, for each row of logits, the mean of the values at positions that are no padding."""
    positions = [j for j, hidden in enumerate(padding) if not hidden]
    means = []
    for k in range(len(logits[0])):
        weights = softmax([logits[j][k] for j in positions])
        means.append(
            [
                sum(weight * values[j][c] for weight, j in zip(weights, positions, strict=True))
                for c in range(len(values[0]))
            ]
        )
    return means


def _mixture(logits, vectors):
    shares = softmax(logits)
    return [
        sum(share * vector[c] for share, vector in zip(shares, vectors, strict=True))
        for c in range(len(vectors[0]))
    ]


def double_attention(wanted, pixels, padding, layers):
    """Return the results of the wanted positions, {i: z_i}.

    Args:
        wanted: the positions i.
        pixels: x_i, a list of C numbers for each position.
        padding: a boolean for each position.
        layers: "gather" (B), "distribute" (V), "value" (A), "output", and "fuse", a transform of
            pixel and context one after the other, or None.
    """
    regions = _means(
        [affine(layers["gather"], pixel) for pixel in pixels],
        [affine(layers["value"], pixel) for pixel in pixels],
        padding,
    )
    results = {}
    for i in wanted:
        context = affine(
            layers["output"], _mixture(affine(layers["distribute"], pixels[i]), regions)
        )
        fuse = layers["fuse"]
        results[i] = context if fuse is None else transform(fuse, pixels[i] + context)
    return results


def efficient_attention(wanted, pixels, padding, layers, fuse):
    """Return the results of the wanted positions, {i: e_i}.

    Args:
        wanted: the positions i.
        pixels: x_i, a list of C numbers for each position.
        padding: a boolean for each position.
        layers: "query", "key", "value" and "output".
        fuse: add the pixel to its context.
    """
    keys = [affine(layers["key"], pixel) for pixel in pixels]
    values = [affine(layers["value"], pixel) for pixel in pixels]
    # softmax(K)^T V, where each column of K is a distribution over the positions.
    global_context = _means(keys, values, padding)
    results = {}
    for i in wanted:
        mixed = _mixture(affine(layers["query"], pixels[i]), global_context)
        context = affine(layers["output"], mixed)
        results[i] = [number + (pixels[i][c] if fuse else 0.0) for c, number in enumerate(context)]
    return results
