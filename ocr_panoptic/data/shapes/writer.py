"""Writing Shapes to disk, in the layout of COCO panoptic."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

from PIL import Image

from ocr_panoptic.data.panoptic_json import write_panoptic_png
from ocr_panoptic.errors import InputError
from ocr_panoptic.parallel import parallel_map

from .annotations import annotate
from .difficulty import Difficulty, get_difficulty
from .scene import SPLITS, generate_scene

__all__ = ["MAX_SIZE", "MIN_SIZE", "write_shapes"]

MIN_SIZE, MAX_SIZE = 96, 2048
"""Sides of a picture, pixels: below, small objects have no shape left."""

_JPEG_QUALITY = 95


def write_shapes(
    output: str | os.PathLike[str],
    *,
    train: int,
    val: int,
    seed: int,
    difficulty: str = "easy",
    size: int | None = None,
    processes: int | None = None,
) -> Path:
    """Generate a data set.

    The files appear in ``output`` together at the end; until then they are in a sibling folder
    whose name starts with a dot and ends in ``.partial``.

    Args:
        output: folder to make; it may exist if it is empty.
        train: number of training pictures, 1 or more.
        val: number of validation pictures, 1 or more.
        seed: of every random choice, 0 or more.
        difficulty: ``"easy"`` or ``"hard"``.
        size: side of the pictures in pixels, :data:`MIN_SIZE` to :data:`MAX_SIZE`; None for the
            difficulty's own.
        processes: how many work at the same time, as in
            :func:`~ocr_panoptic.parallel.parallel_map`. The files do not depend on it.

    Returns:
        ``output``.

    Raises:
        InputError: if an argument is out of range or ``output`` cannot be made.
    """
    parameters = get_difficulty(difficulty)
    size = parameters.size if size is None else size
    for flag, value in (("--train", train), ("--val", val)):
        if value < 1:
            raise InputError(f"{flag} {value}: expected 1 picture or more")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"--size {size}: expected {MIN_SIZE} to {MAX_SIZE} pixels")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more")
    if processes is not None and processes < 1:
        raise InputError(f"processes {processes}: expected 1 or more")
    output = Path(output)
    partial = _start_folder(output)
    try:
        for split, count in (("train", train), ("val", val)):
            _write_split(partial, split, count, parameters, size, seed, processes)
        partial.replace(os.path.realpath(output))
    except OSError as error:
        raise InputError(f"--output {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _start_folder(output: Path) -> Path:
    """Make the folder to write to, beside ``output`` so that a rename ends the work."""
    if os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise InputError(f"--output {output}: exists, expected a new or empty folder")
    target = Path(os.path.realpath(output))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    # Left behind by a killed process that had this one's number.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for split in SPLITS:
            for folder in (split, f"panoptic_{split}", f"panoptic_stuff_{split}"):
                (partial / folder).mkdir(parents=True)
        (partial / "annotations").mkdir()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"--output {output}: {error.strerror or error}") from error
    return partial


def _write_split(
    root: Path,
    split: str,
    count: int,
    difficulty: Difficulty,
    size: int,
    seed: int,
    processes: int | None,
) -> None:
    work = functools.partial(_write_image, root, split, difficulty.name, size, seed)
    results = parallel_map(work, range(count), processes, description=f"shapes {split}")
    images, panoptic, instances = [], [], []
    # Closed before the folder that its processes write into is removed or renamed.
    with contextlib.closing(results):
        for image, annotation, objects in results:
            images.append(image)
            panoptic.append(annotation)
            instances.extend(objects)
    common = {
        "info": {
            "description": f"Shapes ({difficulty.name}), a synthetic panoptic data set",
            "version": "1.0",
            "seed": seed,
            "size": size,
        },
        "licenses": [
            {
                "id": 1,
                "name": "CC0 1.0",
                "url": "https://creativecommons.org/publicdomain/zero/1.0/",
            }
        ],
        "images": images,
    }
    categories = [category.to_json() for category in difficulty.categories]
    things = [category.to_json() for category in difficulty.things]
    for kind, rows, listed in (
        ("panoptic", panoptic, categories),
        ("instances", instances, things),
    ):
        with open(root / "annotations" / f"{kind}_{split}.json", "w", encoding="utf-8") as file:
            json.dump({**common, "annotations": rows, "categories": listed}, file)


def _write_image(
    root: Path, split: str, difficulty_name: str, size: int, seed: int, index: int
) -> tuple[dict, dict, list[dict]]:
    """Write the three files of a picture and return its entries in the json files."""
    difficulty = get_difficulty(difficulty_name)
    image_id = index + 1
    stem = f"{image_id:012d}"
    scene = generate_scene(difficulty, size, seed, split, index)
    labels = annotate(scene, difficulty, image_id)
    Image.fromarray(scene.image).save(root / split / f"{stem}.jpg", quality=_JPEG_QUALITY)
    write_panoptic_png(root / f"panoptic_{split}" / f"{stem}.png", labels.panoptic_ids)
    Image.fromarray(labels.semantic).save(root / f"panoptic_stuff_{split}" / f"{stem}.png")
    image = {
        "id": image_id,
        "width": size,
        "height": size,
        "file_name": f"{stem}.jpg",
        "license": 1,
    }
    panoptic = {
        "image_id": image_id,
        "file_name": f"{stem}.png",
        "segments_info": labels.segments_info,
    }
    return image, panoptic, labels.instances
