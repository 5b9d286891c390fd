"""The images that a command line means: files, folders, patterns and videos."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ocr_panoptic.errors import InputError

from .prediction import read_rgb

# It reports a broken file in lines of its own.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "InputImage", "list_images", "read_images"]

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Files that are taken from a folder as images."""

VIDEO_SUFFIXES = frozenset(
    (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
)
"""Files that are videos, in a folder or given by themselves."""


@dataclass(frozen=True)
class InputImage:
    """An image, not read yet.

    Attributes:
        path: the file.
        name: as results call it, a relative path with "/": below the folder that was given, or the
            file's name; a frame of a video is a ``.jpg`` of the name ``<video>_<frame>``.
        image_id: from 1 on in the order of the names, or as a list of images says.
        frame: of a video, from 0 on; None for a file that is an image.
        row: of the list of images, with ``height`` and ``width``; None without a list.
    """

    path: Path
    name: str
    image_id: int
    frame: int | None = None
    row: Mapping[str, Any] | None = None

    @property
    def stem(self) -> str:
        """The name without its suffix, after which results are named."""
        return str(PurePosixPath(self.name).with_suffix(""))


def list_images(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    without: Path,
    rows: Mapping[int, Mapping[str, Any]] | None = None,
    skip_unlisted: bool = False,
) -> tuple[list[InputImage], list[str]]:
    """Find the images that a command line means.

    Args:
        inputs: files, folders (searched to the bottom for :data:`IMAGE_SUFFIXES` and
            :data:`VIDEO_SUFFIXES`, but for what is hidden) and patterns with ``*``, ``?``, ``[]``
            and ``**``.
        without: a folder to keep out of a search, that of the results.
        rows: image id -> ``file_name``, ``height`` and ``width``: the images that are expected.
        skip_unlisted: leave out images that ``rows`` does not list, instead of refusing them.

    Returns:
        The images in the order of their names, each file once; and one line for each video that
        cannot be read.

    Raises:
        InputError: a file is missing, a folder or pattern has no image, two images would have
            results of one name, or images and ``rows`` do not fit together.
    """
    files: dict[str, tuple[Path, str]] = {}
    for given in inputs:
        # Path.resolve has an error of its own for links that go round.
        for path, name in _search(os.fspath(given), Path(os.path.realpath(without))):
            files.setdefault(os.path.abspath(path), (path, name))
    found, unreadable = [], []
    for path, name in files.values():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            found.append((name, path, None))
            continue
        count = _count_frames(path)
        if count == 0:
            unreadable.append(f"{path}: no frame can be read, expected a video")
        stem = PurePosixPath(name).with_suffix("")
        found += [(f"{stem}_{frame:06d}.jpg", path, frame) for frame in range(count)]
    found.sort(key=lambda image: image[0])
    if rows is None:
        images = [
            InputImage(path, name, number, frame)
            for number, (name, path, frame) in enumerate(found, start=1)
        ]
    else:
        images = _listed(found, rows, skip_unlisted)
    stems: dict[str, InputImage] = {}
    for image in images:
        other = stems.setdefault(image.stem, image)
        if other is not image:
            raise InputError(
                f"--input: {other.path} and {image.path} are both named {image.stem}, expected "
                "different names, as their results have (below one folder that is given, folders "
                "are a part of the name)"
            )
    return images, unreadable


def _search(given: str, results: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, name) of each file that one input means."""
    if os.path.isdir(given):
        if Path(given).resolve() == results:
            raise InputError(f"--output {given}: is the folder of images too, expected another")
        found = list(_search_folder(Path(given), results))
        if not found:
            raise InputError(f"--input {given}: no image in this folder, expected some")
        yield from found
    elif os.path.exists(given):
        yield Path(given), os.path.basename(given)
    elif glob.has_magic(given):
        # Of what else a pattern finds, nothing was meant.
        found = [
            path
            for path in map(Path, sorted(glob.glob(given, recursive=True)))
            if path.is_file() and _is_picture(path) and results not in path.resolve().parents
        ]
        if not found:
            raise InputError(f"--input {given}: no image of this pattern, expected some")
        yield from ((path, path.name) for path in found)
    else:
        raise InputError(f"--input {given}: no such file, expected an image, a folder or a pattern")


def _search_folder(folder: Path, results: Path) -> Iterator[tuple[Path, str]]:
    # Links to folders are followed, but not round and round.
    seen = {results}
    for root, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        seen.add(Path(root).resolve())
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(root, name).resolve() not in seen
        )
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and _is_picture(path):
                yield path, path.relative_to(folder).as_posix()


def _refuse_folder(error: OSError) -> None:
    raise InputError(
        f"--input: {error.filename}: {error.strerror}, expected a folder that can be read"
    ) from error


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _listed(
    found: Sequence[tuple[str, Path, int | None]],
    rows: Mapping[int, Mapping[str, Any]],
    skip_unlisted: bool,
) -> list[InputImage]:
    """Give each image the id of its row."""
    ids = {row["file_name"]: image_id for image_id, row in rows.items()}
    unlisted = [path for name, path, _ in found if name not in ids]
    if unlisted and not skip_unlisted:
        raise InputError(
            f"--input: {unlisted[0]}{_and_more(unlisted)} not in the list of --image-info, "
            "expected its images only, or --skip-unlisted"
        )
    missing = sorted(ids.keys() - {name for name, _, _ in found})
    if missing:
        raise InputError(
            f"--image-info: {missing[0]}{_and_more(missing)} not among the images of --input, "
            "expected every image of the list"
        )
    return [
        InputImage(path, name, ids[name], frame, rows[ids[name]])
        for name, path, frame in found
        if name in ids
    ]


def _and_more(found: Sequence) -> str:
    return f" and {len(found) - 1} more are" if len(found) > 1 else " is"


def _count_frames(path: Path) -> int:
    # What the header says is an estimate; ids have to be known before the first frame is read.
    video, count = cv2.VideoCapture(str(path)), 0
    while video.grab():
        count += 1
    video.release()
    return count


def read_images(
    images: Sequence[InputImage],
) -> Iterator[tuple[InputImage, np.ndarray | InputError]]:
    """Read images one after the other; frames of a video in one pass.

    Args:
        images: of :func:`list_images`, in its order.

    Yields:
        Each image with its pixels, (H, W, 3) uint8, RGB; or with what is wrong with its file or
        its size.
    """
    video, opened, position = cv2.VideoCapture(), None, 0
    for image in images:
        try:
            if image.frame is None:
                pixels = read_rgb(image.path)
            else:
                if opened != image.path or image.frame < position:
                    video.open(str(image.path))
                    opened, position = image.path, 0
                # Not by seeking, which lands on a frame nearby in many formats.
                while position < image.frame and video.grab():
                    position += 1
                read, pixels = video.read()
                position += 1
                if not read:
                    raise InputError(f"{image.path}: frame {image.frame} cannot be read")
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            _check_size(image, pixels)
        except InputError as error:
            yield image, error
        else:
            yield image, pixels


def _check_size(image: InputImage, pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    if image.row is not None and (image.row["height"], image.row["width"]) != (height, width):
        raise InputError(
            f"{image.path}: {width}x{height} pixels, expected {image.row['width']}x"
            f"{image.row['height']}, as --image-info says"
        )
