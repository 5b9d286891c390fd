"""How far two models agree, pixel by pixel and match by match: the guard of the inference path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import Metadata
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from .panoptic_quality import ImageCounts, average, count_image, sum_counts
from .panoptic_truth import GroundTruth
from .results import panoptic_annotation

__all__ = ["LEAST_SAME_LABELS", "MOST_PQ_CHANGE", "Agreement", "compare_models", "format_agreement"]

LEAST_SAME_LABELS = 99.0
"""Percent of the pixels whose semantic label two models must have in common."""
MOST_PQ_CHANGE = 0.3
"""Difference of PQ, in points, that two models may have."""


@dataclass(frozen=True)
class Agreement:
    """What changes when one model takes the place of another.

    Attributes:
        images: that both predicted.
        same_labels: percent of their pixels with the same semantic label, the argmax of the
            semantic head.
        matches: segments of the ground truth that the reference matches (true positives).
        lost: of these, those that the other does not match.
        gained: segments that the other matches, and the reference does not.
        PQ: percent, of the reference and of the other.
        PQ_th, PQ_st: the same of things and of stuff; NaN without any.
    """

    images: int
    same_labels: float
    matches: int
    lost: int
    gained: int
    PQ: tuple[float, float]
    PQ_th: tuple[float, float]
    PQ_st: tuple[float, float]

    @property
    def is_kept(self) -> bool:
        """Whether both bounds are kept: :data:`LEAST_SAME_LABELS` and :data:`MOST_PQ_CHANGE`."""
        change = abs(self.PQ[1] - self.PQ[0])
        return self.same_labels >= LEAST_SAME_LABELS and change <= MOST_PQ_CHANGE


def compare_models(
    reference: nn.Module,
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    truth: GroundTruth,
    metadata: Metadata,
) -> Agreement:
    """Predict the images of a data set with two models, and count where they differ.

    Args:
        reference: a panoptic model in evaluation mode.
        model: another; each gives ``panoptic_seg``, and ``sem_seg`` or ``sem_seg_labels``.
        loader: batches of inputs with ``image_id``, at least one image.
        truth: of the same images.
        metadata: of the data set.
    """
    pixels = same = images = matches = lost = gained = 0
    counts: tuple[list[ImageCounts], list[ImageCounts]] = [], []
    for inputs in tqdm(loader, desc="comparing", unit="batch", dynamic_ncols=True, disable=None):
        with torch.no_grad():
            outputs = zip(inputs, reference(inputs), model(inputs), strict=True)
        for image, *pair in outputs:
            labels, others = map(_labels, pair)
            pixels += labels.numel()
            same += int((labels == others).sum())
            matched = []
            for predicted, count in zip(pair, counts, strict=True):
                ids, annotation = panoptic_annotation(
                    *predicted["panoptic_seg"], metadata, image["image_id"], ""
                )
                shared = truth.overlaps(image["image_id"], ids)
                segments = truth.images[image["image_id"]].segments
                count.append(count_image(shared, segments, annotation["segments_info"]))
                # A match does not depend on other segments of the truth.
                matched.append(
                    {
                        segment.id
                        for segment in segments
                        if count_image(shared, [segment], annotation["segments_info"]).matches
                    }
                )
            matches += len(matched[0])
            lost += len(matched[0] - matched[1])
            gained += len(matched[1] - matched[0])
            images += 1
    qualities = [average(sum_counts(count), truth.categories) for count in counts]
    percent = (
        tuple(100 * quality[part]["pq"] for quality in qualities)
        for part in ("All", "Things", "Stuff")
    )
    return Agreement(images, 100 * same / pixels, matches, lost, gained, *percent)


def _labels(predicted: Mapping[str, Any]) -> Tensor:
    labels = predicted.get("sem_seg_labels")
    return predicted["sem_seg"].argmax(dim=0) if labels is None else labels


def format_agreement(agreement: Agreement, name: str) -> str:
    """Return the table of PQ of both models, and a line each for pixels and matches.

    Args:
        agreement: from :func:`compare_models`.
        name: what the other model is called, such as "bfloat16".
    """
    rows = [
        (label, f"{first:.3f}", f"{second:.3f}", f"{second - first:+.3f}")
        for label, (first, second) in (
            ("PQ", agreement.PQ),
            ("PQ things", agreement.PQ_th),
            ("PQ stuff", agreement.PQ_st),
        )
    ]
    table = tabulate(
        rows,
        headers=("", "reference", name, "difference"),
        stralign="right",
        disable_numparse=True,
    )
    flipped = agreement.lost + agreement.gained
    verdict = "within" if agreement.is_kept else "NOT within"
    nothing = "" if agreement.matches else "no match: PQ says nothing, expected trained weights\n"
    return (
        f"{table}\n\n"
        f"{agreement.images} images\n"
        f"same semantic label: {agreement.same_labels:.3f} % of pixels\n"
        f"flipped matches: {flipped} of {agreement.matches} ({agreement.lost} lost,"
        f" {agreement.gained} gained)\n"
        f"{nothing}{verdict} the bounds: {LEAST_SAME_LABELS:g} % of pixels or more, PQ by"
        f" {MOST_PQ_CHANGE:g} points or less"
    )
