"""Pictures of panoptic segmentations, with one fixed colour per class."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib.style
import numpy as np
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap

from ocr_panoptic.data.colors import Color
from ocr_panoptic.data.panoptic_json import read_panoptic_png
from ocr_panoptic.errors import InputError

from .labels import LabelVisualizer

__all__ = ["draw_panoptic", "from_ground_truth", "legend"]

# Lightness offsets of the first, second, ... instance of a class; they repeat after the last.
_INSTANCE_LIGHTNESS = (0.0, 0.13, -0.11, 0.21, -0.05, 0.07, -0.16)
_OUTLINE = (255, 255, 255)
# Of a segment whose outline is rounded when enlarged, in pixels of the panoptic map.
_MIN_ROUNDED_AREA = 25


def draw_panoptic(
    image: np.ndarray,
    panoptic_map: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    metadata: Metadata,
    *,
    alpha: float = 0.6,
    scale: float = 1.0,
    text: bool = True,
    stripe_crowds: bool = False,
) -> np.ndarray:
    """Draw a panoptic segmentation over its image.

    Every class has one colour, the same in every picture. Instances of a class are told apart by
    outlines and by a small step in lightness, given from left to right so that the same object
    tends to get the same shade in a ground truth and in a prediction. Void pixels, which are those
    of id 0 and of ids that ``segments_info`` does not list, are grey and hatched. The same input
    gives the same bytes.

    Args:
        image: (H, W, 3) uint8, RGB.
        panoptic_map: (H, W) integers, the segment id of each pixel, 0 for void.
        segments_info: One mapping for each segment with ``id``, ``category_id`` and ``isthing``,
            and optionally ``score`` in [0, 1] and ``iscrowd``. ``category_id`` is contiguous: an
            index into ``thing_classes`` for a thing, into ``stuff_classes`` otherwise. A category
            outside them is drawn with the name "id N". Segments without pixels are skipped.
        metadata: Gives ``thing_classes`` and ``stuff_classes``, and optionally ``thing_colors``
            and ``stuff_colors`` (RGB, 0 to 255); Detectron2's palette stands in for missing ones.
        alpha: Weight of the class colour against the image, in [0, 1].
        scale: Size of the picture relative to the image.
        text: Whether to write class names (and scores, in percent) on the segments.
        stripe_crowds: Whether to draw segments that are a crowd in stripes, between which the
            image is seen; their labels say "(crowd)" in any case.

    Returns:
        (round(H * scale), round(W * scale), 3) uint8, RGB.

    Raises:
        ValueError: For arrays whose shape or dtype is not as above, ``alpha`` outside [0, 1], a
            ``scale`` that is not positive.
    """
    image = np.asarray(image)
    panoptic_map = np.asarray(panoptic_map)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if panoptic_map.shape != image.shape[:2] or panoptic_map.dtype.kind not in "iu":
        raise ValueError(
            f"panoptic_map must be integers of shape {image.shape[:2]}, "
            f"not {panoptic_map.dtype} of shape {panoptic_map.shape}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, not {scale}")

    present = set(np.unique(panoptic_map).tolist())
    segments = [s for s in segments_info if s["id"] in present and s["id"] != 0]
    colors = _segment_colors(panoptic_map, segments, metadata)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if scale != 1:
        interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    index_map = _resized_index_map(panoptic_map, [s["id"] for s in segments], (height, width))

    picture = _draw_void(image)
    palette = np.asarray([(0, 0, 0), *colors], dtype=np.float32)
    blend = (1 - alpha) * image.astype(np.float32) + alpha * palette[index_map]
    labelled = index_map > 0
    picture[labelled] = np.rint(blend[labelled]).astype(np.uint8)
    if stripe_crowds:
        crowds = [i for i, segment in enumerate(segments, start=1) if segment.get("iscrowd")]
        seen = np.isin(index_map, crowds) & ~_diagonal_stripes((height, width))
        picture[seen] = image[seen]
    _draw_outlines(picture, index_map, segments, colors)
    if not text:
        return picture
    # A user's matplotlibrc must not change the picture.
    with matplotlib.style.context("default"):
        labels = LabelVisualizer(picture, metadata)
        names = [_label(segment, metadata) for segment in segments]
        return labels.draw_labels(index_map, names, colors)


def legend(
    segments_info: Sequence[Mapping[str, Any]], metadata: Metadata
) -> list[tuple[str, Color]]:
    """List the classes of some segments with the colours :func:`draw_panoptic` gives them.

    Args:
        segments_info: As for :func:`draw_panoptic`; of one image, or of several put together.
        metadata: As for :func:`draw_panoptic`.

    Returns:
        Pairs of class name and RGB colour (0 to 255), each class once: things, then stuff, then
        unknown categories, each in the order of their ids.
    """
    entries = {}
    for segment in segments_info:
        category, known = _category(segment, metadata)
        order = (not known, not segment["isthing"], category)
        entries[order] = (_name(segment, metadata), _class_color(segment, metadata))
    return [entries[order] for order in sorted(entries)]


def from_ground_truth(
    panoptic_png_path: str | os.PathLike[str], annotation: Mapping[str, Any], metadata: Metadata
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Read one COCO panoptic PNG and its annotation in the form :func:`draw_panoptic` takes.

    Args:
        panoptic_png_path: 8-bit RGB PNG whose pixels are R + 256 G + 65536 B = segment id.
        annotation: The image's entry of ``annotations`` in a COCO panoptic json, whose
            ``segments_info`` holds ``id`` and ``category_id`` of the dataset. Results saved by an
            evaluator in that format do as well.
        metadata: Gives ``thing_dataset_id_to_contiguous_id`` and
            ``stuff_dataset_id_to_contiguous_id``.

    Returns:
        The (H, W) int32 map of segment ids, 0 for void, and a list of new dicts with ``id``,
        ``category_id`` (contiguous), ``isthing``, ``iscrowd``, ``dataset_category_id`` and, where
        the annotation has one, ``score``. A category that the metadata does not know gets
        ``category_id`` -1 and keeps its name by ``dataset_category_id``.

    Raises:
        InputError: If the PNG cannot be read or is not RGB, or ``segments_info`` lacks a field.
    """
    panoptic_map = read_panoptic_png(panoptic_png_path)
    things = metadata.get("thing_dataset_id_to_contiguous_id", {})
    stuff = metadata.get("stuff_dataset_id_to_contiguous_id", {})
    segments = []
    try:
        for info in annotation["segments_info"]:
            category = info["category_id"]
            segment = {
                "id": int(info["id"]),
                "category_id": things.get(category, stuff.get(category, -1)),
                "isthing": category in things,
                "iscrowd": int(info.get("iscrowd", 0)),
                "dataset_category_id": category,
            }
            if info.get("score") is not None:
                segment["score"] = float(info["score"])
            segments.append(segment)
    except KeyError as error:
        raise InputError(
            f"annotation of {os.fspath(panoptic_png_path)}: no field {error}, expected "
            "segments_info with id and category_id"
        ) from error
    return panoptic_map, segments


def _category(segment: Mapping[str, Any], metadata: Metadata) -> tuple[int, bool]:
    """Return the category id to show and whether the metadata knows it."""
    category = segment["category_id"]
    classes = metadata.get("thing_classes" if segment["isthing"] else "stuff_classes", None) or []
    if 0 <= category < len(classes):
        return category, True
    return segment.get("dataset_category_id", category), False


def _name(segment: Mapping[str, Any], metadata: Metadata) -> str:
    category, known = _category(segment, metadata)
    if not known:
        return f"id {category}"
    return metadata.get("thing_classes" if segment["isthing"] else "stuff_classes")[category]


def _label(segment: Mapping[str, Any], metadata: Metadata) -> str:
    label = _name(segment, metadata)
    if segment.get("score") is not None:
        label += f" {100 * segment['score']:.0f}%"
    if segment.get("iscrowd"):
        label += " (crowd)"
    return label


def _class_color(segment: Mapping[str, Any], metadata: Metadata) -> Color:
    category, known = _category(segment, metadata)
    colors = metadata.get("thing_colors" if segment["isthing"] else "stuff_colors", None)
    if known and colors is not None and category < len(colors):
        return tuple(int(channel) for channel in colors[category])
    palette = colormap(rgb=True, maximum=255)
    # Stuff follows the things in the palette, so that few classes share no colour.
    offset = 0 if segment["isthing"] else len(metadata.get("thing_classes", None) or [])
    return tuple(int(channel) for channel in palette[(offset + category) % len(palette)])


def _segment_colors(
    panoptic_map: np.ndarray, segments: Sequence[Mapping[str, Any]], metadata: Metadata
) -> list[Color]:
    colors = [_class_color(segment, metadata) for segment in segments]
    instances: dict[int, list[tuple[float, float, int]]] = {}
    for position, segment in enumerate(segments):
        if segment["isthing"]:
            ys, xs = np.nonzero(panoptic_map == segment["id"])
            place = float(xs.mean()), float(ys.mean()), position
            instances.setdefault(segment["category_id"], []).append(place)
    for places in instances.values():
        for rank, (_, _, position) in enumerate(sorted(places)):
            offset = _INSTANCE_LIGHTNESS[rank % len(_INSTANCE_LIGHTNESS)]
            colors[position] = _change_lightness(colors[position], offset)
    return colors


def _change_lightness(color: Color, offset: float) -> Color:
    if offset == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    # Away from white or black where the step would leave the range and be lost.
    moved = lightness + offset if 0.05 <= lightness + offset <= 0.95 else lightness - offset
    rgb = colorsys.hls_to_rgb(hue, float(np.clip(moved, 0, 1)), saturation)
    return tuple(round(255 * channel) for channel in rgb)


def _resized_index_map(
    panoptic_map: np.ndarray, ids: Sequence[int], size: tuple[int, int]
) -> np.ndarray:
    """Turn segment ids into 1 + their index in ``ids`` (0: void), at ``size`` (height, width)."""
    if panoptic_map.shape == size:
        index_map = np.zeros(size, dtype=np.int32)
        for index, segment_id in enumerate(ids, start=1):
            index_map[panoptic_map == segment_id] = index
        return index_map
    # Each mask is resized alone: smooth outlines, and no pixel of a class that is not there.
    enlarged = size[0] >= panoptic_map.shape[0]
    interpolation = cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA
    best = np.full(size, -1, dtype=np.float32)
    index_map = np.zeros(size, dtype=np.int32)
    for index in range(len(ids) + 1):
        mask = panoptic_map == ids[index - 1] if index else ~np.isin(panoptic_map, ids)
        cover = mask.astype(np.float32)
        if enlarged and mask.sum() < _MIN_ROUNDED_AREA:
            # Rounding would wear a few pixels away: they are enlarged as they are and come first.
            cover = 2 * cv2.resize(cover, size[::-1], interpolation=cv2.INTER_NEAREST)
        else:
            if enlarged:
                cover = cv2.GaussianBlur(cover, (0, 0), 0.7)
            cover = cv2.resize(cover, size[::-1], interpolation=interpolation)
        wins = cover > best
        index_map[wins] = index
        best[wins] = cover[wins]
    return index_map


def _draw_void(image: np.ndarray) -> np.ndarray:
    """Return the image dimmed to grey, with diagonal hatching."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * 0.35 + 70
    height, width = grey.shape
    period = max(6, round(min(height, width) / 48))
    diagonal = np.add.outer(np.arange(height), np.arange(width)) % period
    grey[diagonal < max(1, period // 4)] += 42
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def _diagonal_stripes(size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) bool: stripes that fall to the right, as void's hatching does not."""
    period = max(8, round(min(size) / 32))
    return np.subtract.outer(np.arange(size[0]), np.arange(size[1])) % period < period // 2


def _draw_outlines(
    picture: np.ndarray,
    index_map: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    colors: Sequence[Color],
) -> None:
    """Outline stuff in a darker shade of its colour, then things in white, in place."""
    thickness = max(1, round(min(index_map.shape) / 320))
    for things in (False, True):
        for index, (segment, color) in enumerate(zip(segments, colors, strict=True), start=1):
            if bool(segment["isthing"]) is not things:
                continue
            mask = (index_map == index).astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            line = _OUTLINE if things else tuple(round(0.6 * channel) for channel in color)
            cv2.drawContours(picture, contours, -1, line, thickness, cv2.LINE_AA)
