"""Repack the wheel of sal-detectron2 without its operators, for any Python.

    python repack_detectron2.py sal_detectron2-0.7.2-cp310-none-any.whl FOLDER

The operators were compiled for one Python and one torch. Panoptic-FPN and Mask R-CNN need none of
them. Left out as well is a top-level package "tools", which is no part of the library; "numpy<2",
which holds no longer without the operators, is taken from the requirements. The result is
FOLDER/sal_detectron2-0.7.2+noext-py3-none-any.whl, and its path is printed.

tools/make_venv.sh runs it before anything is installed: only Python's own library is used.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

__all__ = ["main", "repack"]

SUFFIX = "+noext"
WHEEL = "Wheel-Version: 1.0\nGenerator: repack_detectron2\nRoot-Is-Purelib: true\n"
TAG = "py3-none-any"


def is_left_out(name: str) -> bool:
    """Whether an entry of the wheel is a compiled operator or of the stray package."""
    return name.startswith("tools/") or re.fullmatch(r"detectron2/_C\..*(so|pyd)", name) is not None


def repacked_metadata(text: str, version: str) -> str:
    """Return METADATA with the new version and without the bound on numpy."""
    text = re.sub(r"^Version: .*$", f"Version: {version}", text, count=1, flags=re.MULTILINE)
    return re.sub(r"^(Requires-Dist: numpy)\b.*$", r"\1", text, flags=re.MULTILINE)


def repack(wheel: Path, folder: Path) -> Path:
    """Write the wheel without operators into `folder`, whole or not at all, and return its path.

    Raises:
        ValueError: `wheel` is no wheel of sal-detectron2 with compiled operators.
    """
    if not zipfile.is_zipfile(wheel):
        raise ValueError(f"{wheel}: expected a wheel; there is none, or this is no zip archive")
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    metadata = [name for name in contents if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if len(metadata) != 1:
        raise ValueError(f"{wheel}: expected a wheel, with one METADATA in it")
    headers = HeaderParser().parsestr(contents[metadata[0]].decode())
    if headers["Name"] != "sal-detectron2" or not any(
        is_left_out(name) and name.startswith("detectron2/") for name in contents
    ):
        raise ValueError(f"{wheel}: expected sal-detectron2 with its operators, detectron2/_C*.so")

    version = headers["Version"] + SUFFIX
    old, new = Path(metadata[0]).parent.as_posix(), f"sal_detectron2-{version}.dist-info"
    kept = {
        new + name[len(old) :] if name.startswith(f"{old}/") else name: content
        for name, content in contents.items()
        if not is_left_out(name)
    }
    kept[f"{new}/METADATA"] = repacked_metadata(contents[metadata[0]].decode(), version).encode()
    kept[f"{new}/WHEEL"] = f"{WHEEL}Tag: {TAG}\n".encode()
    kept[f"{new}/top_level.txt"] = b"detectron2\n"
    # Its own line has neither hash nor size.
    kept.pop(f"{new}/RECORD", None)
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    rows.writerows((name, digest(content), len(content)) for name, content in kept.items())
    rows.writerow((f"{new}/RECORD", "", ""))
    kept[f"{new}/RECORD"] = record.getvalue().encode()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sal_detectron2-{version}-{TAG}.whl"
    temporary = path.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in kept.items():
            # A fixed date and fixed rights: the same wheel gives the same bytes.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    os.replace(temporary, path)
    return path


def digest(content: bytes) -> str:
    """Return the hash of a file as RECORD has it."""
    encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={encoded.decode().rstrip('=')}"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 2:
        print("usage: repack_detectron2.py WHEEL FOLDER", file=sys.stderr)
        return 2
    try:
        print(repack(Path(arguments[0]), Path(arguments[1])))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"repack_detectron2.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
