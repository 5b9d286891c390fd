"""Detectron2's DatasetMapper, for panoptic data of any origin and with errors that name the file.

What it changes: masks given as run-length encoding train under ``INPUT.MASK_FORMAT`` "polygon",
``gt_masks`` is there for images without instance, and a bad file or label value stops with one line
instead of a CUDA assert in the loss.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import TransformList
from detectron2.structures import BitMasks, PolygonMasks
from detectron2.utils.file_io import PathManager
from PIL import Image

from ocr_panoptic.data.images import check_image_mode
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import open_regular

__all__ = ["PanopticDatasetMapper"]

_LABEL_MODE_MEANINGS = {
    "RGB": "an RGB image, such as a panoptic PNG",
    "RGBA": "an RGBA image, such as a panoptic PNG",
    "P": "a palette image, of which Detectron2 would read the colours",
    "1": "a 1-bit image",
}


class PanopticDatasetMapper(DatasetMapper):
    """Map a Detectron2 dataset dict to a model's input, checking what it reads.

    Differences from :class:`detectron2.data.DatasetMapper`:

    * An image with an instance given as RLE uses :class:`BitMasks`, whatever the mask format.
    * In training ``instances`` always has ``gt_masks`` where instance masks are used: empty ones
      for an image, or a crop, without instance.
    * An image has 8 bits per channel; Detectron2 would clip 16-bit greyscale to white.
    * A semantic label has one of the values [0, ``num_sem_seg_classes``) or ``ignore_value``, in an
      8-bit greyscale file of the image's size.
    """

    @configurable
    def __init__(
        self, is_train: bool, *, num_sem_seg_classes: int, ignore_value: int = 255, **kwargs
    ) -> None:
        """Make a mapper.

        Args:
            is_train: whether for training.
            num_sem_seg_classes: semantic classes of the model, the merged "things" among them.
            ignore_value: semantic label that the loss ignores.
            **kwargs: arguments of :class:`detectron2.data.DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.num_sem_seg_classes = num_sem_seg_classes
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().from_config(cfg, is_train),
            "num_sem_seg_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Read, augment and convert one image.

        Args:
            dataset_dict: metadata of one image, in Detectron2's dataset format; not changed.

        Returns:
            What Detectron2's models accept: ``image`` (C, H, W) uint8, with a label ``sem_seg``
            (H, W) int64, in training ``instances``.

        Raises:
            InputError: a file is missing, truncated, of another size or kind than expected, a label
                value is out of range, or an instance's mask is missing or of another size.
        """
        _require_regular(dataset_dict["file_name"], "image")
        label_file = dataset_dict.get("sem_seg_file_name")
        if label_file is not None:
            _require_regular(label_file, "semantic label")
        label_size = None if label_file is None else _label_size(label_file)
        try:
            result = super().__call__(dataset_dict)
        except InputError:
            raise
        except Exception as error:
            _raise_for_bad_file(dataset_dict, self.image_format, error)
            raise
        check_image_mode(dataset_dict["file_name"])
        if label_file is not None:
            _require_same_size(dataset_dict, label_size, (result["width"], result["height"]))
            self._check_labels(result["sem_seg"], label_file)
        return result

    def _check_labels(self, sem_seg: torch.Tensor, label_file: str) -> None:
        bad = (sem_seg >= self.num_sem_seg_classes) & (sem_seg != self.ignore_value)
        if bad.any():
            values = torch.unique(sem_seg[bad]).tolist()
            raise InputError(
                f"{label_file}: semantic label {', '.join(map(str, values[:5]))}"
                f"{', ...' if len(values) > 5 else ''}; expected 0 to"
                f" {self.num_sem_seg_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES"
                f" {self.num_sem_seg_classes}) or {self.ignore_value} (IGNORE_VALUE)"
            )

    def _transform_annotations(
        self, dataset_dict: dict, transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Replace ``annotations`` by ``instances``, with ``gt_masks`` where masks are used."""
        mapper = copy.copy(self)
        annotations = [a for a in dataset_dict["annotations"] if a.get("iscrowd", 0) == 0]
        if self.use_instance_mask:
            for annotation in annotations:
                _check_mask(annotation.get("segmentation"), dataset_dict)
            # Crowds, always RLE in COCO, do not count: they are not trained on.
            if any(not isinstance(a["segmentation"], list) for a in annotations):
                mapper.instance_mask_format = "bitmask"
        # Detectron2 recomputes boxes from gt_masks, which it leaves out when there is no instance.
        mapper.recompute_boxes = self.recompute_boxes and len(annotations) > 0
        super(PanopticDatasetMapper, mapper)._transform_annotations(
            dataset_dict, transforms, image_shape
        )
        instances = dataset_dict["instances"]
        if self.use_instance_mask and not instances.has("gt_masks"):
            instances.gt_masks = (
                PolygonMasks([])
                if self.instance_mask_format == "polygon"
                else BitMasks(torch.zeros((0, *image_shape), dtype=torch.bool))
            )


def _require_regular(path: str, kind: str) -> None:
    """Raise InputError for a pipe or a device, which Detectron2 would read for ever."""
    # Of an address, and of what is missing, Detectron2's own words are better.
    if not os.path.exists(path):
        return
    try:
        open_regular(path).close()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected the {kind}") from error


def _check_mask(segmentation: list | dict | np.ndarray | None, dataset_dict: dict) -> None:
    """Raise unless an annotation has a mask, of the image's size if it is no polygon."""
    image_file = dataset_dict["file_name"]
    # Polygons and masks in arrays are Detectron2's own to judge.
    if isinstance(segmentation, dict):
        expected = [dataset_dict["height"], dataset_dict["width"]]
        size = segmentation.get("size")
        if size is None or list(size) != expected:
            raise InputError(
                f"{image_file}: an instance's RLE has size {size}; expected the image's {expected}"
                " (height, width)"
            )
    elif segmentation is None:
        raise InputError(
            f"{image_file}: an instance has no 'segmentation'; expected polygons or RLE, as"
            " MODEL.MASK_ON is True"
        )


def _label_size(label_file: str) -> tuple[int, int]:
    """Return (width, height) of a semantic label file, from its header alone.

    Raises:
        InputError: the file is missing, no image, or not 8-bit greyscale.
    """
    try:
        with PathManager.open(label_file, "rb") as file, Image.open(file) as label:
            mode, size = label.mode, label.size
    except Exception as error:
        raise InputError(_cannot_read(label_file, "semantic label", error)) from error
    if mode != "L":
        meaning = _LABEL_MODE_MEANINGS.get(mode, f"an image of mode {mode}")
        raise InputError(
            f"{label_file}: {meaning}; expected an 8-bit greyscale semantic label"
            " (datasets/prepare_coco_panoptic.py derives them from panoptic PNGs)"
        )
    return size


def _raise_for_bad_file(dataset_dict: dict, image_format: str, error: Exception) -> None:
    """Raise InputError if a file of ``dataset_dict`` explains ``error``, otherwise return."""
    image_file = dataset_dict["file_name"]
    try:
        image = read_image(image_file, image_format)
    except Exception as reason:
        raise InputError(_cannot_read(image_file, "image", reason)) from error
    size = (image.shape[1], image.shape[0])
    declared = (dataset_dict.get("width", size[0]), dataset_dict.get("height", size[1]))
    if size != declared:
        raise InputError(
            f"{image_file}: image of {size[0]}x{size[1]} pixels; expected"
            f" {declared[0]}x{declared[1]}, as its annotation says"
        ) from error
    if "sem_seg_file_name" in dataset_dict:
        label_file = dataset_dict["sem_seg_file_name"]
        try:
            label = read_image(label_file, "L")
        except Exception as reason:
            raise InputError(_cannot_read(label_file, "semantic label", reason)) from error
        _require_same_size(dataset_dict, (label.shape[1], label.shape[0]), size)


def _require_same_size(
    dataset_dict: dict, label_size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    if label_size != image_size:
        raise InputError(
            f"{dataset_dict['sem_seg_file_name']}: semantic label of"
            f" {label_size[0]}x{label_size[1]} pixels; expected {image_size[0]}x{image_size[1]}, as"
            f" its image {dataset_dict['file_name']}"
        )


def _cannot_read(path: str, kind: str, error: Exception) -> str:
    if not Path(path).exists():
        return f"{path}: missing; expected the {kind}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{path}: truncated or no image ({reason}); expected the {kind}"
