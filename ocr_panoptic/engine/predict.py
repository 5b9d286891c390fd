"""What tools/predict.py does: predictions for any images, in COCO's result formats, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import nn
from tqdm import tqdm

from ocr_panoptic.data.panoptic_json import write_panoptic_png
from ocr_panoptic.data.test_dev import load_image_info
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.results import (
    instance_results,
    panoptic_annotation,
    result_categories,
)
from ocr_panoptic.files import replacing, require_folder, write_text
from ocr_panoptic.visualization.panoptic import draw_panoptic, from_ground_truth

from .inference import load_for_inference, resolve_dtype
from .inputs import InputImage, list_images, read_images
from .journal import Journal
from .prediction import check_prediction, model_input, result_metadata
from .setup import load_config

__all__ = ["Outputs", "predict"]

_JOURNAL = "journal.jsonl"
_PANOPTIC, _INSTANCES = "panoptic.json", "instances.json"
_PNGS, _PICTURES, _LABELS = "panoptic", "visualizations", "semantic"
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Outputs:
    """What is written beside the json files.

    Attributes:
        folder: of all results: new, empty, or of the same run. Text is made a path.
        pictures: whether each panoptic map is drawn, ``visualizations/<name>.jpg``.
        semantic: whether each semantic map is written before it is merged with the instances,
            ``semantic/<name>.png``, 8-bit grey, labels of the semantic head.
    """

    folder: Path
    pictures: bool = True
    semantic: bool = False

    def __post_init__(self) -> None:
        """Make a path of the folder.

        Raises:
            InputError: it has no name; its path would be the folder one is in.
        """
        if not os.fspath(self.folder):
            raise InputError("--output: no name, expected a folder to write to")
        object.__setattr__(self, "folder", Path(self.folder))


def predict(
    config_file: str,
    overrides: Sequence[str],
    inputs: Sequence[str],
    outputs: Outputs,
    *,
    image_info: Path | None = None,
    skip_unlisted: bool = False,
    dtype: str | None = None,
) -> tuple[list[Path], int]:
    """Predict images one by one; the results of each are written when it is finished.

    Written are ``panoptic.json`` with ``panoptic/``, ``instances.json``, and what ``outputs`` says;
    by a model without a panoptic map, ``instances.json`` alone. Called again after it was killed,
    it goes on where it was, by ``journal.jsonl``. An image that cannot be read is told on stderr,
    one line, and skipped; the next call tries it again.

    Args:
        config_file: path to a yaml config.
        overrides: keys and values in turn.
        inputs: files, folders and patterns, as in :func:`~.inputs.list_images`.
        outputs: where results go, and which.
        image_info: COCO json whose ``images`` give names, ids and sizes.
        skip_unlisted: leave out images that ``image_info`` does not list.
        dtype: of :data:`~.inference.DTYPES`; None for the config's TEST.DTYPE.

    Returns:
        The json files, and the number of images and videos that could not be predicted.

    Raises:
        InputError: for a config, weights, an input or a folder that cannot be used, and for a
            model that gives neither instances nor a panoptic map.
    """
    cfg = load_config(config_file, list(overrides))
    rows = load_image_info(image_info) if image_info else None
    images, unreadable = list_images(
        inputs, without=outputs.folder, rows=rows, skip_unlisted=skip_unlisted
    )
    metadata = result_metadata(cfg)
    name = f"--output {outputs.folder}"
    _require_own_folder(outputs.folder, name)
    check_prediction(cfg, outputs.folder)
    if dtype is not None:
        # Into the config: results of another dtype are those of another run.
        cfg.TEST.DTYPE = resolve_dtype(dtype, torch.device(cfg.MODEL.DEVICE))
    model = load_for_inference(cfg)
    try:
        with Journal(outputs.folder / _JOURNAL, _origin(cfg, metadata, images), name) as journal:
            return _predict_images(cfg, model, metadata, images, outputs, journal, unreadable)
    except OSError as error:
        where = f" {error.filename}:" if error.filename else ""
        raise InputError(
            f"{name}:{where} {error.strerror or error}, expected a folder that results can be "
            "written to; what is finished is kept"
        ) from error


def _predict_images(
    cfg: CfgNode,
    model: nn.Module,
    metadata: Metadata,
    images: Sequence[InputImage],
    outputs: Outputs,
    journal: Journal,
    unreadable: Sequence[str],
) -> tuple[list[Path], int]:
    """Predict what the journal does not have, then put all together."""
    _remove_leftovers(outputs.folder)
    for failure in unreadable:
        _tell(failure)
    failed = set()
    todo = [image for image in images if not _is_finished(image, journal, outputs)]
    with tqdm(
        total=len(images),
        initial=len(images) - len(todo),
        desc="predicting",
        unit="image",
        dynamic_ncols=True,
        # A bar in a log file would bury the lines about images.
        disable=None,
    ) as bar:
        for image, pixels in read_images(todo):
            source = _state(image.path)
            try:
                if isinstance(pixels, InputError):
                    raise pixels
                predicted = _run(model, model_input(cfg, pixels, str(image.path)), image)
            except InputError as error:
                failed.add(image.name)
                _tell(str(error))
            else:
                content = _write_files(image, pixels, predicted, metadata, outputs)
                # Last: what has a record has its files.
                journal.add(image.name, source, content)
            bar.update()
    finished = [image for image in images if image.name not in failed]
    return _write_jsons(finished, metadata, outputs, journal), len(unreadable) + len(failed)


def _run(model: nn.Module, inputs: dict, image: InputImage) -> dict[str, Any]:
    try:
        with torch.no_grad():
            return model([inputs])[0]
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(
            f"{image.path}: {inputs['width']}x{inputs['height']} pixels need more memory than the "
            "GPU has, expected a smaller INPUT.MAX_SIZE_TEST or MODEL.DEVICE cpu"
        ) from error


def _tell(failure: str) -> None:
    tqdm.write(f"error: {failure}", file=sys.stderr)


def _write_files(
    image: InputImage,
    pixels: np.ndarray,
    predicted: dict[str, Any],
    metadata: Metadata,
    outputs: Outputs,
) -> dict[str, Any]:
    """Write the files of one image, and return what the json files say of it."""
    if not {"instances", "panoptic_seg"} & predicted.keys():
        raise InputError(
            f"the model gives {' and '.join(predicted)} only, expected a MODEL.META_ARCHITECTURE "
            "with instances or panoptic maps, such as PaddingAwarePanopticFPN"
        )
    height, width = pixels.shape[:2]
    row = {"id": image.image_id, "file_name": image.name, "height": height, "width": width}
    content = {"image": dict(image.row or row), "annotation": None, "instances": None}
    if "instances" in predicted:
        content["instances"] = instance_results(predicted["instances"], metadata, image.image_id)
    if "panoptic_seg" in predicted:
        segment_ids, content["annotation"] = panoptic_annotation(
            *predicted["panoptic_seg"], metadata, image.image_id, f"{image.stem}.png"
        )
        png = outputs.folder / _PNGS / f"{image.stem}.png"
        write_panoptic_png(png, segment_ids)
        if outputs.pictures:
            # From what was written: that is what one wants to see.
            drawn = draw_panoptic(
                pixels, *from_ground_truth(png, content["annotation"], metadata), metadata
            )
            _write_image(
                outputs.folder / _PICTURES / f"{image.stem}.jpg",
                cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR),
            )
    if outputs.semantic and {"sem_seg", "sem_seg_labels"} & predicted.keys():
        _write_image(outputs.folder / _LABELS / f"{image.stem}.png", _labels(predicted))
    return content


def _labels(predicted: dict[str, Any]) -> np.ndarray:
    labels = predicted.get("sem_seg_labels")
    if labels is None:
        # A model that is no Panoptic-FPN gives logits.
        labels = predicted["sem_seg"].argmax(dim=0)
    # Classes of a semantic head have 8 bits in Detectron2's data too.
    return labels.to("cpu", torch.uint8).numpy()


def _write_image(path: Path, pixels: np.ndarray) -> None:
    encoded = cv2.imencode(path.suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def _is_finished(image: InputImage, journal: Journal, outputs: Outputs) -> bool:
    if not journal.has(image.name, _state(image.path)):
        return False
    content = journal[image.name]
    expected = []
    if content["annotation"] is not None:
        expected.append(f"{_PNGS}/{image.stem}.png")
        expected += [f"{_PICTURES}/{image.stem}.jpg"] * outputs.pictures
        expected += [f"{_LABELS}/{image.stem}.png"] * outputs.semantic
    return all((outputs.folder / path).is_file() for path in expected)


def _state(path: Path) -> list[int] | None:
    """Return what changes with the content of a file: its size and time; None for no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _write_jsons(
    images: Sequence[InputImage], metadata: Metadata, outputs: Outputs, journal: Journal
) -> list[Path]:
    """Write the json files of images that all have a record; return their paths."""
    if not images:
        return []
    first = journal[images[0].name]
    files, rows, annotations = [], [], []
    with contextlib.ExitStack() as stack:
        instances = None
        if first["instances"] is not None:
            files.append(outputs.folder / _INSTANCES)
            temporary = stack.enter_context(replacing(files[0]))
            instances = stack.enter_context(temporary.open("w", encoding="utf-8"))
        separator = "["
        # Masks of many images are larger than the memory: one image at a time.
        for image in images:
            content = journal[image.name]
            rows.append(content["image"])
            annotations.append(content["annotation"])
            for instance in content["instances"] or ():
                instances.write(separator + json.dumps(instance))
                separator = ",\n"
        if instances is not None:
            instances.write("[]\n" if separator == "[" else "]\n")
    if first["annotation"] is not None:
        files.insert(0, outputs.folder / _PANOPTIC)
        categories = result_categories(metadata)
        content = {"images": rows, "annotations": annotations, "categories": categories}
        write_text(files[0], json.dumps(content) + "\n")
    return files


def _require_own_folder(folder: Path, name: str) -> None:
    """Refuse a folder with results that are not those of an earlier run."""
    require_folder(folder, "--output")
    if (folder / _JOURNAL).is_file():
        return
    for other in (_PANOPTIC, _INSTANCES, _PNGS, _PICTURES, _LABELS):
        if (folder / other).exists():
            raise InputError(
                f"{name}: holds {other}, but no {_JOURNAL} to go on with, expected a new folder"
            )


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed run has left half-written under temporary names."""
    found = list(folder.glob(".*.tmp"))
    for name in (_PNGS, _PICTURES, _LABELS):
        found += (folder / name).rglob(".*.tmp")
    for path in found:
        path.unlink()


def _origin(cfg: CfgNode, metadata: Metadata, images: Sequence[InputImage]) -> dict[str, str]:
    """Return what results depend on, as digests."""

    def digest(content: object) -> str:
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    weights = cfg.MODEL.WEIGHTS
    if Path(weights).is_file():
        with open(weights, "rb") as file:
            content = hashlib.sha256()
            while block := file.read(2**20):
                content.update(block)
        weights = content.hexdigest()
    compared = cfg.clone()
    compared.defrost()
    # Weights are compared by their content; results of another device are as good.
    compared.OUTPUT_DIR = compared.MODEL.WEIGHTS = compared.MODEL.DEVICE = ""
    compared.MODEL.TRUST_CHECKPOINT = False
    return {
        "config": digest(compared.dump()),
        "weights": weights,
        "categories": digest(result_categories(metadata)),
        "images": digest([[image.image_id, image.name] for image in images]),
    }
