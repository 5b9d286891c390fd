"""ACFNet's class features and OCR's ablations, one scalar at a time.

Zhang et al.: "ACFNet: Attentional Class Feature Network for Semantic Segmentation", and Yuan et
al.: "Segmentation Transformer: Object-Contextual Representations for Semantic Segmentation",
sec. 3.5. Everything is a nested list of Python floats, which are float64; layers and transforms
are as in :mod:`.transforms`.

All functions take the wanted positions; of each position a list of C numbers (x_i), a list of K
numbers (its region logits, or its one-hot label) and a boolean, True where it is padding. They
return {i: z_i} of the wanted positions.
"""

from .ocr import ocr
from .transforms import affine, mean, softmax, transform

__all__ = ["acf", "acf_relation", "da_relation", "ground_truth", "unsupervised"]


def unsupervised(wanted, pixels, logits, padding, predictor, **transforms):
    """OCR with M from a layer of its own; the logits are not used.

    Args:
        predictor: the layer that makes M of a pixel.
        **transforms: of :func:`~.ocr.ocr`.
    """
    own = [affine(predictor, pixel) for pixel in pixels]
    maps = [list(scores) for scores in zip(*own, strict=True)]
    augmented = ocr(pixels, maps, padding, **transforms)
    return {i: augmented[i] for i in wanted}


def da_relation(wanted, pixels, logits, padding, query, **transforms):
    """OCR with w_i the softmax of what a layer, ``query``, makes of x_i."""
    relations = {i: softmax(affine(query, pixels[i])) for i in wanted}
    return _augmented(relations, pixels, _spatial_softmax(logits, padding), **transforms)


def acf_relation(wanted, pixels, logits, padding, **transforms):
    """OCR with w_i the softmax of the region logits of i."""
    relations = {i: softmax(logits[i]) for i in wanted}
    return _augmented(relations, pixels, _spatial_softmax(logits, padding), **transforms)


def ground_truth(wanted, pixels, labels, padding, value, output, fuse):
    """OCR with m_ki = w_ik = 1 where i has label k, else 0; m~_k is m_k over its sum.

    A class that is not there has zeros for its vector, also behind delta.
    """
    classes = range(len(labels[0]))
    members = [
        [i for i in range(len(pixels)) if labels[i][k] == 1 and not padding[i]] for k in classes
    ]
    values = []
    for positions in members:
        weights = [1 / len(positions) for _ in positions]
        vector = mean(weights, [pixels[i] for i in positions], len(pixels[0]))
        made = transform(value, vector)
        values.append(made if positions else [0.0] * len(made))
    result = {}
    for i in wanted:
        relations = [1.0 if i in positions else 0.0 for positions in members]
        context = transform(output, mean(relations, values, len(values[0])))
        result[i] = transform(fuse, context + pixels[i])
    return result


def acf(wanted, pixels, logits, padding, value, output, fuse):
    """Class centers of reduced pixels, mixed by the class probabilities of a pixel."""
    valid = [i for i in range(len(pixels)) if not padding[i]]
    reduced = {i: transform(value, pixels[i]) for i in valid}
    probabilities = [softmax(row) for row in logits]
    width = len(value[-1][0])
    centers = []
    for k in range(len(logits[0])):
        mass = sum(probabilities[i][k] for i in valid)
        weights = [probabilities[i][k] / mass for i in valid]
        centers.append(mean(weights, [reduced[i] for i in valid], width))
    contexts = {i: transform(output, mean(probabilities[i], centers, width)) for i in wanted}
    return {i: transform(fuse, contexts[i] + pixels[i]) for i in wanted}


def _spatial_softmax(logits, padding):
    """Return m~_k of eq. 4: for each class a number for each position."""
    valid = [i for i in range(len(logits)) if not padding[i]]
    maps = []
    for k in range(len(logits[0])):
        weights = dict(zip(valid, softmax([logits[i][k] for i in valid]), strict=True))
        maps.append([weights.get(i, 0.0) for i in range(len(logits))])
    return maps


def _augmented(relations, pixels, regions, value, output, fuse):
    """Return eq. 4, 3 and 6 for given m~ and w."""
    values = [transform(value, mean(region, pixels, len(pixels[0]))) for region in regions]
    width = len(values[0])
    contexts = {i: transform(output, mean(row, values, width)) for i, row in relations.items()}
    return {i: transform(fuse, context + pixels[i]) for i, context in contexts.items()}
