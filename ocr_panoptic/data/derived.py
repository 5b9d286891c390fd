"""What is derived from a panoptic data set, kept in a folder until the data set changes.

The folder's name ends in a fingerprint of the data set, and it has this name only when it is whole.
So what is found is right, and of several processes that derive at once, the first one to be ready
serves all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from iopath.common.file_io import file_lock
from portalocker import LockException

from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic
from ocr_panoptic.data.panoptic_json import load_panoptic_json
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import read_bytes, require_folder, write_text

__all__ = [
    "CACHE_VARIABLE",
    "DerivedData",
    "JsonContent",
    "PanopticSource",
    "derive",
    "read_panoptic_json",
]

CACHE_VARIABLE = "OCR_PANOPTIC_CACHE"
"""Environment variable that names a folder for the derived data of every data set."""

# Of what is derived and how: raise it when that changes.
_VERSION = 1


@dataclass(frozen=True)
class PanopticSource:
    """A panoptic data set as its user has it.

    Attributes:
        image_root: folder of the images.
        panoptic_json: COCO panoptic json.
        panoptic_root: folder of its PNGs.
        cache_root: folder for what is derived; None for :data:`CACHE_VARIABLE`, and without that
            for the json's own folder or, where nothing can be written there, the user's cache.
    """

    image_root: Path
    panoptic_json: Path
    panoptic_root: Path
    cache_root: Path | None = None


@dataclass(frozen=True)
class DerivedData:
    """What was derived from a data set.

    Attributes:
        folder: it holds all the others.
        semantic_root: folder of the semantic PNGs, as
            :func:`~ocr_panoptic.data.coco_panoptic.prepare_coco_panoptic` makes them.
        instances_json: its instances json.
        panoptic_json: the panoptic json with the areas of the PNGs, and ``iscrowd`` everywhere.
        num_images: images of the data set.
        num_images_without_instance: those with no thing, or only crowds.
        num_wrong_areas: segments of which the user's json says another area than the PNG.
        is_new: whether it was made by this call.
    """

    folder: Path
    semantic_root: Path
    instances_json: Path
    panoptic_json: Path
    num_images: int
    num_images_without_instance: int
    num_wrong_areas: int
    is_new: bool


def derive(source: PanopticSource, num_processes: int | None = None) -> DerivedData:
    """Find what was derived from a data set in its present state, or derive it.

    The state is the json's content, and the size and time of change of every image and PNG that
    the json names.

    Args:
        source: the data set.
        num_processes: as in :func:`~ocr_panoptic.data.coco_panoptic.prepare_coco_panoptic`.

    Raises:
        InputError: a file is missing or wrong, or there is nowhere to write; names it.
    """
    fingerprint = _fingerprint(source)
    name = f"{source.panoptic_json.stem}.derived-{fingerprint}"
    places = _places(source)
    found = _find(places, name)
    if found is not None:
        return found
    place = _first_writable(places)
    with _one_at_a_time(f"ocr_panoptic-{fingerprint}"):
        # Another process may have been at it.
        found = _find([place], name)
        if found is not None:
            return found
        _build(source, place / name, fingerprint, num_processes)
    return _read(place / name, is_new=True)


@dataclass(frozen=True)
class JsonContent:
    """What is needed of a panoptic json that was checked.

    Attributes:
        digest: SHA-256 of the file.
        categories: the json's.
        image_names: ``file_name`` of each image.
        png_names: ``file_name`` of each annotation.
    """

    digest: str
    categories: list[dict]
    image_names: list[str]
    png_names: list[str]


def read_panoptic_json(path: Path) -> JsonContent:
    """Read and check a panoptic json; the same content only once in a process.

    Raises:
        InputError: it is missing or wrong; names the entry.
    """
    try:
        digest = hashlib.sha256(read_bytes(path)).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; expected a COCO panoptic json"
        ) from error
    return _check_json(path, digest)


# Large ones take seconds to check; what is kept of them is small.
@functools.lru_cache(maxsize=16)
def _check_json(path: Path, digest: str) -> JsonContent:
    data = load_panoptic_json(path)
    return JsonContent(
        digest,
        data["categories"],
        [image["file_name"] for image in data["images"]],
        [annotation["file_name"] for annotation in data["annotations"]],
    )


def _fingerprint(source: PanopticSource) -> str:
    content = read_panoptic_json(source.panoptic_json)
    digest = hashlib.sha256(f"version {_VERSION} {content.digest}".encode())
    for kind, root, names in (
        ("image", source.image_root, content.image_names),
        ("panoptic PNG", source.panoptic_root, content.png_names),
    ):
        for name, size, changed in _files(root, names, kind):
            digest.update(f"{kind} {name!r} {size} {changed}".encode())
    return digest.hexdigest()[:16]


def _files(root: Path, names: Iterable[str], kind: str) -> list[tuple[str, int, int]]:
    """Return (name, bytes, time of change in ns) of files, sorted by name."""
    wanted = defaultdict(set)
    for name in names:
        path = root / name
        wanted[path.parent].add(path.name)
    rows, missing = [], []
    # By folder: on a network disk far quicker than asking for each file.
    for folder, files in sorted(wanted.items()):
        try:
            with os.scandir(folder) as entries:
                found = {
                    entry.name: entry.stat()
                    for entry in entries
                    if entry.name in files and entry.is_file()
                }
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{folder}: {reason}; expected the folder of a {kind}") from error
        missing += [str(folder / name) for name in sorted(files - found.keys())]
        rows += [
            (str((folder / name).relative_to(root)), stat.st_size, stat.st_mtime_ns)
            for name, stat in sorted(found.items())
        ]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{more}: missing; expected each {kind} that the json names")
    return rows


def _places(source: PanopticSource) -> list[Path]:
    """Return the folders that may hold what is derived, the one to write to first."""
    chosen = source.cache_root or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return [Path(chosen).expanduser()]
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ocr_panoptic"
    return [source.panoptic_json.parent, users]


def _first_writable(places: list[Path]) -> Path:
    for place in places[:-1]:
        with contextlib.suppress(InputError):
            require_folder(place, "")
            return place
    require_folder(places[-1], f"folder for derived data (DATASETS.CACHE or ${CACHE_VARIABLE})")
    return places[-1]


def _find(places: list[Path], name: str) -> DerivedData | None:
    for place in places:
        if (place / name / "summary.json").is_file():
            return _read(place / name, is_new=False)
    return None


def _read(folder: Path, *, is_new: bool) -> DerivedData:
    try:
        summary = json.loads((folder / "summary.json").read_text())
        return DerivedData(
            **_paths(folder),
            num_images=summary["num_images"],
            num_images_without_instance=summary["num_images_without_instance"],
            num_wrong_areas=summary["num_wrong_areas"],
            is_new=is_new,
        )
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: its summary.json was changed ({error}); expected the folder as it was made"
            " (remove it, and it is made again)"
        ) from error


def _paths(folder: Path) -> dict[str, Path]:
    return {
        "folder": folder,
        "semantic_root": folder / "semantic",
        "instances_json": folder / "instances.json",
        "panoptic_json": folder / "panoptic.json",
    }


@contextlib.contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Let the processes of one host in after each other.

    That spares them work. Nothing breaks without: where locks do not work all go in.
    """
    path = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(LockException, OSError):
            stack.enter_context(file_lock(str(path)))
            # Whoever waits for it still gets it, and finds what was derived.
            stack.callback(Path(f"{path}.lock").unlink, missing_ok=True)
        yield


def _build(
    source: PanopticSource, folder: Path, fingerprint: str, num_processes: int | None
) -> None:
    partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    paths = _paths(partial)
    try:
        partial.mkdir()
        made = prepare_coco_panoptic(
            source.panoptic_json,
            source.panoptic_root,
            paths["semantic_root"],
            paths["instances_json"],
            complete_json=paths["panoptic_json"],
            image_root=source.image_root,
            num_processes=num_processes,
        )
        annotations = json.loads(paths["instances_json"].read_bytes())["annotations"]
        with_instance = {row["image_id"] for row in annotations if not row["iscrowd"]}
        summary = {
            "num_images": made.num_images,
            "num_images_without_instance": made.num_images - len(with_instance),
            "num_wrong_areas": made.num_wrong_areas,
        }
        write_text(partial / "summary.json", json.dumps(summary, indent=2) + "\n")
        if _fingerprint(source) != fingerprint:
            raise InputError(
                f"{source.panoptic_json}: it, an image or a PNG was changed while it was read;"
                " expected files at rest"
            )
        _move(partial, folder)
    except BrokenProcessPool as error:
        raise InputError(
            f"{source.panoptic_json}: a process that derived data was ended, by a lack of memory or"
            " as its parent's main module starts work when imported; expected fewer processes, or"
            " the call under 'if __name__ == \"__main__\":'"
        ) from error
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; expected to write what is"
            f" derived from {source.panoptic_json}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        # A process on another host was ready before this one, with the same.
        if not (folder / "summary.json").is_file():
            raise
