"""A batch of a training in a file of tensors and plain containers, to run it through a model again.

Detectron2's structures are classes, which no safe reader of files makes: they are saved as mappings
with their type.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)

from ocr_panoptic.errors import InputError

from .safe_load import load_checkpoint_file

__all__ = ["load_batch", "save_batch"]

_TYPE = "detectron2.structures"
_OF_TENSORS = {kind.__name__: kind for kind in (BitMasks, Boxes, Keypoints, RotatedBoxes)}


def save_batch(batch: list[dict], path: Path) -> None:
    """Save what a train loader gives to a model.

    Args:
        batch: one dict an image: ``image``, a tensor (C, H, W), ``instances``, ``file_name`` and
            whatever else. What is neither tensor, array, structure nor plain is saved as its text.
        path: file to write, in torch's format.

    Raises:
        OSError, RuntimeError: it cannot be written.
    """
    torch.save(_plain(batch), path)


def load_batch(path: str | os.PathLike[str]) -> list[dict]:
    """Return a batch that :func:`save_batch` saved, for a model in training.

    Args:
        path: ``nonfinite_batch.pth`` of a run; nothing in it is run.

    Raises:
        InputError: it cannot be read, or is no batch; names it.
    """
    content = load_checkpoint_file(path).content
    try:
        batch = _rebuilt(content)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no batch ({reason}), expected one of a training") from error
    if not isinstance(batch, list) or not all(isinstance(one, dict) for one in batch):
        raise InputError(f"{path} is no batch, expected a list with a dict for each image")
    return batch


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        # A view would take all that it is a part of with it.
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Instances):
        fields = {key: _plain(field) for key, field in value.get_fields().items()}
        return {_TYPE: "Instances", "image_size": tuple(value.image_size), "fields": fields}
    if isinstance(value, PolygonMasks):
        return {_TYPE: "PolygonMasks", "polygons": _plain(value.polygons)}
    if type(value).__name__ in _OF_TENSORS:
        return {_TYPE: type(value).__name__, "tensor": _plain(value.tensor)}
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _rebuilt(value: object) -> object:
    if isinstance(value, list):
        return [_rebuilt(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TYPE)
    if kind == "Instances":
        return Instances(tuple(value["image_size"]), **_rebuilt(value["fields"]))
    if kind == "PolygonMasks":
        return PolygonMasks(value["polygons"])
    if kind is not None:
        return _OF_TENSORS[kind](value["tensor"])
    return {key: _rebuilt(each) for key, each in value.items()}
