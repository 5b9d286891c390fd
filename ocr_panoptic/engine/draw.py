"""What the commands of tools/visualize.py do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import require_folder
from ocr_panoptic.visualization.relation_pictures import write_relations
from ocr_panoptic.visualization.relations import relations_of_pixels

from .prediction import check_images, check_prediction, class_metadata, load_model, read_input
from .setup import load_config

__all__ = ["draw_relations", "parse_pixel"]


def parse_pixel(text: str) -> tuple[int, int]:
    """Read the "X,Y" of a command line.

    Raises:
        InputError: it is something else.
    """
    try:
        x, y = map(int, text.split(","))
    except ValueError as error:
        raise InputError(f"--pixel {text.strip()}: expected X,Y such as 320,240") from error
    return x, y


def draw_relations(
    config_file: str,
    overrides: Sequence[str],
    images: Sequence[Path],
    pixels: Sequence[tuple[int, int]],
    output: str | Path,
) -> Iterator[Path]:
    """Draw what the context blocks of a model look at from pixels of images.

    All images are read, and all else is checked, before the first picture is written.

    Args:
        config_file: path to a yaml config.
        overrides: keys and values in turn.
        images: files, of different names.
        pixels: (x, y) in each image; drawn once each, in this order.
        output: folder for the pictures; made if it is missing.

    Yields:
        The path of each picture, ``<image>_<x>_<y>_<config>_<block>.png``, when it is there, where
        ``<config>`` is the name of the config file.

    Raises:
        InputError: for a config, weights, an image, a pixel or a folder that cannot be used, or a
            model without a context block.
    """
    cfg = load_config(config_file, list(overrides))
    pixels = list(dict.fromkeys(pixels))
    for path, (height, width) in check_images(images).items():
        for x, y in pixels:
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(
                    f"--pixel {x},{y}: not in {path}, expected 0,0 to {width - 1},{height - 1} "
                    f"in its {width}x{height} pixels"
                )
    # As it was given: the path of no name at all would be the folder one is in.
    require_folder(output, "--output")
    output = Path(output)
    check_prediction(cfg, output)
    model, metadata = load_model(cfg), class_metadata(cfg)
    for path in images:
        image, inputs = read_input(cfg, path)
        relations = relations_of_pixels(model, inputs, pixels)
        yield from write_relations(
            output, path.stem, image, relations, metadata, model=Path(config_file).stem
        )
