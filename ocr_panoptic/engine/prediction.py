"""From a config and an image file to a model in evaluation mode and its input."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from ocr_panoptic.data.checks import check_num_classes
from ocr_panoptic.data.images import require_8_bits
from ocr_panoptic.data.panoptic_json import load_json
from ocr_panoptic.errors import InputError
from ocr_panoptic.known_warnings import silence_known_warnings

from .build import built_from_config
from .checkpoint import Checkpointer
from .setup import check_config

__all__ = [
    "check_images",
    "check_prediction",
    "class_metadata",
    "load_model",
    "model_input",
    "read_input",
    "read_rgb",
    "result_metadata",
]

logger = logging.getLogger(__name__)


def check_prediction(cfg: CfgNode, output: Path) -> None:
    """Check what a prediction needs of a config: names, values and the device, no data set.

    Args:
        cfg: not changed.
        output: folder for the results; made if all else is right.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise InputError(f"INPUT.FORMAT: '{cfg.INPUT.FORMAT}', expected RGB or BGR")
    for key, least in (("MIN_SIZE_TEST", 0), ("MAX_SIZE_TEST", 1)):
        if cfg.INPUT[key] < least:
            raise InputError(f"INPUT.{key}: {cfg.INPUT[key]}, expected {least} or more")
    checked = cfg.clone()
    checked.defrost()
    checked.DATASETS.TRAIN, checked.DATASETS.TEST = (), ()
    # Of training only, and refused on the CPU.
    checked.SOLVER.AMP.ENABLED = False
    checked.OUTPUT_DIR = str(output)
    check_config(checked, train=False)


def load_model(cfg: CfgNode) -> nn.Module:
    """Build a model and load MODEL.WEIGHTS into it.

    Without weights they are random, the same in every run, and a warning says so.

    Args:
        cfg: checked by :func:`check_prediction`.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: for weights that cannot be loaded, or values that no model can be built with.
    """
    silence_known_warnings()
    torch.manual_seed(max(cfg.SEED, 0))
    with built_from_config():
        model = build_model(cfg).eval()
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: random weights are drawn")
    Checkpointer.of_config(cfg, model, complete=True).load(cfg.MODEL.WEIGHTS)
    return model


def class_metadata(cfg: CfgNode) -> Metadata | None:
    """Return the metadata, with names of classes, of a config's first data set, if it is known.

    Its files are not needed.
    """
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if name in MetadataCatalog.list():
            return MetadataCatalog.get(name)
    return None


def result_metadata(cfg: CfgNode) -> Metadata:
    """Return the metadata of the data set that gives results their ids and names.

    Raises:
        InputError: if a config names none, or its classes are not known or not as many as the
            model's, or the model has no masks to make a panoptic map of.
    """
    if "PanopticFPN" in cfg.MODEL.META_ARCHITECTURE and not cfg.MODEL.MASK_ON:
        raise InputError("MODEL.MASK_ON: False, expected True, as a panoptic map is made of masks")
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN][:1]
    if not names:
        raise InputError(
            "DATASETS.TEST: empty, expected a data set whose categories results are given in"
        )
    checked = cfg.clone()
    checked.defrost()
    checked.DATASETS.TRAIN, checked.DATASETS.TEST = (), tuple(names)
    check_num_classes(checked)
    metadata = MetadataCatalog.get(names[0])
    things, stuff = (f"{kind}_dataset_id_to_contiguous_id" for kind in ("thing", "stuff"))
    if metadata.get(things) is None and metadata.get("json_file") is not None:
        load_json(metadata.json_file, ("images", "annotations", "categories"))
        # Detectron2 fills it in when the data set is loaded; images need not be there.
        DatasetCatalog.get(names[0])
    needed = (things, stuff) if "Panoptic" in cfg.MODEL.META_ARCHITECTURE else (things,)
    for key in needed:
        if metadata.get(key) is None:
            raise InputError(
                f"dataset {names[0]}: its metadata has no {key}, expected the ids of its categories"
            )
    return metadata


def read_rgb(path: Path) -> np.ndarray:
    """Read an image as Detectron2 does, turned as its EXIF says.

    Args:
        path: a file in any format that PIL reads, of 8 bits per channel; of RGB with 16 bits the
            higher 8 are taken.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        InputError: if it is missing, truncated, no image, or grey of more than 8 bits; names it.
    """
    # Path.is_file raises where a name is too long for the file system.
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file, expected an image")
    try:
        with Image.open(path) as image:
            require_8_bits(path, image.mode)
        return np.ascontiguousarray(read_image(str(path), "RGB"))
    except InputError:
        raise
    # PIL's readers have no common error for a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: truncated or no image ({reason}), expected an image") from error


def check_images(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Read images whose results are going to be named by their file names without suffix.

    Returns:
        path -> (height, width), in the order of ``paths``.

    Raises:
        InputError: if one cannot be read, or two have one name.
    """
    sizes, stems = {}, {}
    for path in map(Path, paths):
        other = stems.setdefault(path.stem, path)
        if path in sizes or other != path:
            raise InputError(
                f"--input: {other} and {path} are both named {path.stem}, expected different "
                "names, as their results have"
            )
        sizes[path] = read_rgb(path).shape[:2]
    return sizes


def read_input(cfg: CfgNode, path: Path) -> tuple[np.ndarray, dict]:
    """Read an image, and turn it into a model's input, resized as at the test of a config.

    Args:
        cfg: its INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and FORMAT are used.
        path: as for :func:`read_rgb`.

    Returns:
        The image, (H, W, 3) uint8, RGB; and a dict with "image" (3, h, w) float32, "height" H and
        "width" W.

    Raises:
        InputError: if the image cannot be read, or resizing leaves nothing of its shorter side.
    """
    image = read_rgb(path)
    return image, model_input(cfg, image, str(path))


def model_input(cfg: CfgNode, image: np.ndarray, name: str) -> dict:
    """Turn an image into a model's input, as Detectron2's predictor does.

    Args:
        cfg: as for :func:`read_input`.
        image: (H, W, 3) uint8, RGB.
        name: what an error calls the image.

    Returns:
        A dict with "image" (3, h, w) float32, "height" H and "width" W.

    Raises:
        InputError: if resizing leaves nothing of its shorter side.
    """
    height, width = image.shape[:2]
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if shortest and min(ResizeShortestEdge.get_output_shape(height, width, shortest, longest)) < 1:
        raise InputError(
            f"{name}: {width}x{height} pixels, too narrow for INPUT.MAX_SIZE_TEST {longest}"
        )
    resize = ResizeShortestEdge([shortest, shortest], longest).get_transform(image)
    resized = resize.apply_image(image)
    if cfg.INPUT.FORMAT == "BGR":
        resized = resized[:, :, ::-1]
    tensor = torch.as_tensor(resized.transpose(2, 0, 1).astype("float32"))
    return {"image": tensor, "height": height, "width": width}
