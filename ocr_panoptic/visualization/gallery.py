"""A page of many pictures, to be searched, sorted and looked at one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from ocr_panoptic.data.colors import Color
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import write_text

__all__ = ["Gallery", "GalleryClass", "GalleryImage", "gallery_file", "write_gallery"]

_FOLDER = "index_files"


@dataclass(frozen=True)
class GalleryClass:
    """A class: its id, its name and its colour in the pictures."""

    id: int
    name: str
    color: Color


@dataclass(frozen=True)
class GalleryImage:
    """One image.

    Attributes:
        name: what the page calls it.
        path: of its pictures, see :func:`gallery_file`.
        size: (width, height) of each of its pictures.
        quality: its PQ in percent; None without one.
        classes: id of each class in it -> PQ of that class in percent, None where it does not
            count.
    """

    name: str
    path: str
    size: tuple[int, int]
    quality: float | None
    classes: Mapping[int, float | None]


@dataclass(frozen=True)
class Gallery:
    """What is on the page.

    Attributes:
        title: the page's title.
        subtitle: a sentence below it.
        facts: pairs of label and value.
        panels: key and title of each picture of an image, from left to right.
        classes: those of the images, and maybe more.
        images: in the order of their files.
        with_quality: whether images have a PQ: then the worst comes first.
    """

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    panels: Mapping[str, str]
    classes: Sequence[GalleryClass]
    images: Sequence[GalleryImage]
    with_quality: bool


def gallery_file(path: str, panel: str) -> Path:
    """Return the path of a JPEG, below the folder of the page, that the page shows.

    Args:
        path: of the image, as in :class:`GalleryImage`.
        panel: a key of :attr:`Gallery.panels`.
    """
    # Not with_suffix: a name may have dots in it.
    return Path(_FOLDER) / f"{path}.{panel}.jpg"


def write_gallery(folder: Path, gallery: Gallery) -> Path:
    """Write ``index.html`` into the folder that holds the pictures.

    The page needs no network and no other file but the pictures, which are loaded when they are
    seen. It holds its images as data, and makes elements of those that are scrolled to: it can
    be used with thousands. The same gallery gives the same bytes.

    Args:
        folder: :func:`gallery_file` names the pictures below it.
        gallery: the content. Every text in it is escaped.

    Returns:
        The path of the page.

    Raises:
        InputError: it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("ocr_panoptic.visualization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = _address
    html = environment.get_template("gallery.html").render(gallery=gallery, data=_data(gallery))
    path = Path(folder) / "index.html"
    try:
        # A name that came from the command line may hold bytes that are no text.
        write_text(path, html.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _data(gallery: Gallery) -> dict:
    """Return what the page's script reads; short, as there may be thousands of images."""
    used = {class_id for image in gallery.images for class_id in image.classes}
    classes = [row for row in gallery.classes if row.id in used]
    index = {row.id: position for position, row in enumerate(classes)}
    return {
        "quality": gallery.with_quality,
        "panels": [
            {"title": title, "suffix": f".{key}.jpg"} for key, title in gallery.panels.items()
        ],
        "classes": [
            [row.name, f"rgb({row.color[0]} {row.color[1]} {row.color[2]})"] for row in classes
        ],
        "images": [
            {
                "name": image.name,
                "src": _address(f"{_FOLDER}/{image.path}"),
                "size": list(image.size),
                "pq": _rounded(image.quality),
                "classes": [
                    [index[class_id], _rounded(value)] for class_id, value in image.classes.items()
                ],
            }
            for image in gallery.images
        ],
    }


def _address(path: str) -> str:
    # A name that is no text has bytes in an address too.
    return quote(path, errors="surrogateescape")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
