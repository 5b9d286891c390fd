"""Which classes a semantic prediction confuses, counted from what an evaluation wrote."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from pycocotools import mask as mask_util
from tabulate import tabulate
from tqdm import tqdm

from ocr_panoptic.data.panoptic_json import read_json
from ocr_panoptic.errors import InputError

from .build import load_labels

__all__ = [
    "PairConfusion",
    "confusion_matrix",
    "format_pairs",
    "most_confused",
    "pair_confusion",
    "parse_pair",
]


@dataclass(frozen=True)
class PairConfusion:
    """What became of the pixels of two classes.

    Attributes:
        first: name of a class.
        second: name of another.
        pixels: of both, in the ground truth.
        correct: percent of them that got their own class.
        swapped: percent of them that got the other class of the two.
        elsewhere: percent of them that got any third class.
        confusion: percent of those that got one of the two classes and got the wrong one: 50 for a
            guess between the two; None where no pixel got either.
    """

    first: str
    second: str
    pixels: int
    correct: float
    swapped: float
    elsewhere: float
    confusion: float | None


def confusion_matrix(predictions_json: Path, dataset_name: str) -> np.ndarray:
    """Count pixels by true and by predicted class.

    Args:
        predictions_json: ``sem_seg_predictions.json`` of Detectron2's SemSegEvaluator.
        dataset_name: the registered data set that it was evaluated on.

    Returns:
        (K, K) int64: row the true class, column the predicted one, in the metadata's order.
        Pixels without label, and images without prediction, are not counted.

    Raises:
        InputError: the file is missing or no such list, or it is of another data set.
    """
    metadata = MetadataCatalog.get(dataset_name)
    num_classes = len(metadata.stuff_classes)
    truth = {row["file_name"]: row for row in DatasetCatalog.get(dataset_name)}
    rows_of = _by_image(predictions_json, metadata)
    unknown = [name for name in rows_of if name not in truth]
    if unknown or not rows_of:
        raise InputError(
            f"{predictions_json}: {f'image {unknown[0]}' if unknown else 'no image'}, expected "
            f"images of data set {dataset_name}"
        )
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for name, rows in tqdm(
        rows_of.items(), desc="counting", unit="image", leave=False, disable=None
    ):
        labels = load_labels(truth[name]["sem_seg_file_name"], np.int64)
        labelled = labels != metadata.ignore_label
        for label, encoded in rows:
            try:
                mask = mask_util.decode(encoded).astype(bool)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(
                    f"{predictions_json}: image {name}: no run-length encoded mask ({error}), "
                    "expected 'size' and 'counts'"
                ) from error
            if mask.shape != labels.shape:
                raise InputError(
                    f"{predictions_json}: a mask of {mask.shape[1]}x{mask.shape[0]} pixels for "
                    f"image {name}, expected {labels.shape[1]}x{labels.shape[0]}"
                )
            matrix[:, label] += np.bincount(labels[mask & labelled], minlength=num_classes)
    return matrix


def _by_image(path: Path, metadata: Metadata) -> dict[str, list[tuple[int, dict]]]:
    """Return image -> (contiguous class, RLE) of each of its masks."""
    rows = read_json(path)
    to_label = metadata.stuff_dataset_id_to_contiguous_id
    masks = defaultdict(list)
    if not isinstance(rows, list):
        raise InputError(f"{path}: a json {type(rows).__name__}, expected a list of masks")
    for number, row in enumerate(rows):
        try:
            label = to_label[row["category_id"]]
            masks[row["file_name"]].append((label, dict(row["segmentation"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: entry {number}: {type(error).__name__} {error}, expected 'file_name', "
                "'segmentation' and a 'category_id' of the data set, as Detectron2's "
                "SemSegEvaluator writes them"
            ) from error
    return masks


def parse_pair(text: str, names: list[str]) -> tuple[str, str]:
    """Read "lake,ice".

    Raises:
        InputError: if that is not two different classes.
    """
    pair = tuple(text.split(","))
    if len(set(pair)) != 2 or len(pair) != 2 or not set(pair) <= set(names):
        raise InputError(f"--pairs {text}: expected two of {' '.join(names)}, as in lake,ice")
    return pair


def pair_confusion(matrix: np.ndarray, names: list[str], pair: tuple[str, str]) -> PairConfusion:
    """Return what became of the pixels of two classes.

    Args:
        matrix: from :func:`confusion_matrix`.
        names: of the classes, in its order.
        pair: two of them.
    """
    both = [names.index(name) for name in pair]
    within = matrix[np.ix_(both, both)]
    pixels, inside = int(matrix[both].sum()), int(within.sum())
    swapped = inside - int(within.trace())

    def percent(part: int) -> float:
        return 100 * part / max(1, pixels)

    return PairConfusion(
        *pair,
        pixels=pixels,
        correct=percent(int(within.trace())),
        swapped=percent(swapped),
        elsewhere=percent(pixels - inside),
        confusion=100 * swapped / inside if inside else None,
    )


def most_confused(matrix: np.ndarray, names: list[str], count: int) -> list[PairConfusion]:
    """Return the pairs with the most swapped pixels, most first; none without."""
    swapped = np.triu(matrix + matrix.T, 1)
    order = np.argsort(-swapped, axis=None, kind="stable")[:count]
    pairs = (np.unravel_index(index, swapped.shape) for index in order)
    return [
        pair_confusion(matrix, names, (names[row], names[column]))
        for row, column in pairs
        if swapped[row, column]
    ]


def format_pairs(pairs: list[PairConfusion]) -> str:
    """Return a markdown table."""
    rows = [
        {
            "classes": f"{pair.first}, {pair.second}",
            "pixels": pair.pixels,
            "correct": f"{pair.correct:.1f} %",
            "swapped": f"{pair.swapped:.1f} %",
            "a third class": f"{pair.elsewhere:.1f} %",
            "wrong of the two": "n/a" if pair.confusion is None else f"{pair.confusion:.1f} %",
        }
        for pair in pairs
    ]
    if not rows:
        return "No pixel got a wrong class."
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
