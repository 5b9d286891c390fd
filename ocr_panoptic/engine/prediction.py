"""From a config and an image file to a model in evaluation mode and its input."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import nn

from ocr_panoptic.errors import InputError

from .checkpoint import Checkpointer
from .setup import check_config

__all__ = [
    "check_images",
    "check_prediction",
    "class_metadata",
    "load_model",
    "read_input",
    "read_rgb",
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
    # Of Detectron2's anchors.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    torch.manual_seed(max(cfg.SEED, 0))
    model = build_model(cfg).eval()
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: random weights are drawn")
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def class_metadata(cfg: CfgNode) -> Metadata | None:
    """Return the metadata, with names of classes, of a config's first data set, if it is known.

    Its files are not needed.
    """
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if name in MetadataCatalog.list():
            return MetadataCatalog.get(name)
    return None


def read_rgb(path: Path) -> np.ndarray:
    """Read an image as Detectron2 does, turned as its EXIF says.

    Args:
        path: a file in any format that PIL reads.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        InputError: if it is missing, truncated or no image; names it.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected an image")
    try:
        return np.ascontiguousarray(read_image(str(path), "RGB"))
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
    height, width = image.shape[:2]
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if shortest and min(ResizeShortestEdge.get_output_shape(height, width, shortest, longest)) < 1:
        raise InputError(
            f"{path}: {width}x{height} pixels, too narrow for INPUT.MAX_SIZE_TEST {longest}"
        )
    resize = ResizeShortestEdge([shortest, shortest], longest).get_transform(image)
    resized = resize.apply_image(image)
    if cfg.INPUT.FORMAT == "BGR":
        resized = resized[:, :, ::-1]
    tensor = torch.as_tensor(resized.transpose(2, 0, 1).astype("float32"))
    return image, {"image": tensor, "height": height, "width": width}
