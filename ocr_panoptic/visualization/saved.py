"""Pictures of saved panoptic results or of ground truth, without a model, and their gallery."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from panopticapi.evaluation import PQStat

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import require_folder
from ocr_panoptic.parallel import parallel_map

from .gallery import Gallery, GalleryClass, write_gallery
from .saved_jobs import SavedFiles, list_jobs
from .saved_json import (
    Category,
    SavedPanoptic,
    class_metadata,
    list_categories,
    load_categories,
    load_saved,
)
from .saved_pictures import Drawing, Drawn, Style, panel_titles, quality

__all__ = ["SavedFiles", "Style", "draw_saved"]

logger = logging.getLogger(__name__)


def draw_saved(
    files: SavedFiles,
    output: str | Path,
    style: Style | None = None,
    *,
    limit: int | None = None,
    num_processes: int | None = None,
) -> Iterator[Path | InputError]:
    """Draw each annotation of a panoptic json beside its image, and its ground truth if given.

    The pictures are ``<output>/<file_name of the annotation>.png``: image, ground truth,
    segments, and the list of classes. The same input gives the same bytes.

    Args:
        files: what is drawn.
        output: folder; made if it is missing.
        style: how it is drawn; None for the defaults.
        limit: how many annotations, from the first; None for all.
        num_processes: as for :func:`~ocr_panoptic.parallel.parallel_map`.

    Yields:
        The path of each picture, when it is there, or what is wrong with that image; and at the
        end the path of the gallery, if it was asked for and there is a picture.

    Raises:
        InputError: nothing can be drawn: a json or a folder that cannot be used, a bad value.
    """
    style = style or Style()
    for flag, value in (("--limit", limit), ("--num-procs", num_processes)):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value}: expected 1 or more")
    saved = load_saved(files.panoptic_json)
    truth = None if files.ground_truth_json is None else load_saved(files.ground_truth_json)
    categories = list_categories(
        _known_categories(files, saved, truth),
        saved.annotations + (truth.annotations if truth else []),
    )
    # As it was given: the path of no name at all would be the folder one is in.
    require_folder(output, "--output")
    output = Path(output)
    jobs = list_jobs(files, saved, truth, output, limit)
    draw = Drawing(files, output, style, categories, class_metadata(categories))
    drawn, num_bad = [], 0
    with contextlib.closing(parallel_map(draw, jobs, num_processes)) as results:
        for result in results:
            if isinstance(result, InputError):
                num_bad += 1
                yield result
            else:
                drawn.append(result)
                yield result.path
    if style.gallery and drawn:
        yield write_gallery(output, _gallery(files, categories, drawn, num_bad))


def _known_categories(
    files: SavedFiles, saved: SavedPanoptic, truth: SavedPanoptic | None
) -> list[Category]:
    if files.categories is not None:
        return load_categories(files.categories)
    for source in filter(None, (saved, truth)):
        if source.categories is not None:
            return source.categories
    logger.warning(
        f"{saved.path}: no 'categories', classes are named by their ids; see --categories"
    )
    return []


def _gallery(
    files: SavedFiles, categories: Sequence[Category], drawn: Sequence[Drawn], num_bad: int
) -> Gallery:
    title, subtitle = "Panoptic segmentation", files.panoptic_json.name
    facts = [("Images", str(len(drawn)))]
    if num_bad:
        facts.append(("Not drawn", str(num_bad)))
    with_truth = files.ground_truth_json is not None
    if with_truth:
        title = "Predictions and ground truth"
        subtitle += f" against {files.ground_truth_json.name}"
        counts = PQStat()
        for row in drawn:
            counts += row.counts
        overall, _ = quality(counts, categories)
        if overall is not None:
            facts.append(("PQ of these images", f"{overall:.1f}"))
    return Gallery(
        title=title,
        subtitle=subtitle,
        facts=facts,
        panels=panel_titles(with_truth),
        classes=[GalleryClass(c.id, c.name, c.color) for c in categories],
        images=[row.image for row in drawn],
        with_quality=with_truth,
    )
