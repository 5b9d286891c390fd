"""Reading checkpoint files, of which nobody knows where they come from."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import torch

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import open_regular

from .safe_globals import NotTrustedError, Storage, StorageType
from .safe_unpickle import unpickle

__all__ = ["CheckpointFile", "load_checkpoint_file"]

_logger = logging.getLogger(__name__)

_ZIP = b"PK\x03\x04"
# The number, as pickled, that torch before 1.6 begins its files with.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# Where a tar says that it is one.
_TAR, _TAR_AT = b"ustar", 257
_MOST_LETTERS = 200


class CheckpointFile(NamedTuple):
    """What a file holds."""

    content: object
    is_zip: bool
    """Written by torch.save; else a pickle alone, as in the model zoos."""


def load_checkpoint_file(path: str | os.PathLike[str], *, trust: bool = False) -> CheckpointFile:
    """Read what ``torch.save`` wrote, or a pickle of a model zoo; tensors are on the CPU.

    Nothing but tensors, numpy arrays, numbers, strings and plain containers is made of a file, and
    no tensor that is larger than the file.

    Args:
        path: a file; its content, not its name, decides how it is read.
        trust: read what else there is with torch's and Python's loaders, which run what the file
            tells them to; a warning says so.

    Raises:
        InputError: it cannot be read, is no checkpoint, or, without ``trust``, needs trust; one
            line that names the file, and the first thing it should not hold.
    """
    with _reading(path):
        try:
            return _load_safely(path)
        except NotTrustedError as error:
            if not trust:
                raise InputError(
                    f"{path} is refused, as loading it could run any code: {error}; expected "
                    "tensors, arrays and plain containers, or --trust-checkpoint "
                    "(MODEL.TRUST_CHECKPOINT True) for a file from a source that you trust"
                ) from error
            _logger.warning(f"{path} is loaded although it could run any code: {error}")
        return _load_trusting(path)


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}, expected a checkpoint that can be read"
        ) from error
    # A damaged file makes its readers raise anything, and it is all the same to its owner.
    except Exception as error:
        reason = " ".join(str(error).split())[:_MOST_LETTERS] or type(error).__name__
        raise InputError(f"{path} is no checkpoint ({reason})") from error


def _load_safely(path: str | os.PathLike[str]) -> CheckpointFile:
    with open_regular(path) as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(_ZIP):
            return CheckpointFile(_Archive(file).load(), is_zip=True)
        if head.startswith(_TAR, _TAR_AT):
            raise NotTrustedError("it is a tar of torch before 0.1.10")
        if _LEGACY in head[:32]:
            raise NotTrustedError("it is of torch before 1.6, or was saved without its zip format")
        return CheckpointFile(unpickle(file.read(), "latin1"), is_zip=False)


def _load_trusting(path: str | os.PathLike[str]) -> CheckpointFile:
    with open_regular(path) as file:
        head = file.read(512)
        file.seek(0)
        is_zip = head.startswith(_ZIP)
        if is_zip or head.startswith(_TAR, _TAR_AT) or _LEGACY in head[:32]:
            loaded = torch.load(path, map_location="cpu", weights_only=False)
            return CheckpointFile(loaded, is_zip=True)
        return CheckpointFile(pickle.load(file, encoding="latin1"), is_zip=False)


class _Archive:
    """The zip of ``torch.save``: a pickle, and each storage in a record of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file)
        self._records = {info.filename: info for info in self._zip.infolist()}
        # Records may overlap: read together, they must not be more than there is.
        self._unread = os.fstat(file.fileno()).st_size
        self._storages: dict[str, torch.UntypedStorage] = {}
        names = [name.partition("/") for name in self._records]
        if any(name in ("constants.pkl", "code") or name[:5] == "code/" for *_, name in names):
            raise NotTrustedError("it is a TorchScript program")
        self._root, *others = [root for root, _, name in names if name == "data.pkl"] or [None]
        if self._root is None or others:
            raise ValueError(f"a zip with {len(others)} data.pkl" if others else "no data.pkl")
        order = f"{self._root}/byteorder"
        self._order = self._read(order) if order in self._records else b"little"
        if self._order not in (b"little", b"big"):
            raise ValueError("an unknown order of bytes")

    def load(self) -> object:
        return unpickle(self._read(f"{self._root}/data.pkl"), "utf-8", self._find_storage)

    def _read(self, name: str) -> bytes:
        info = self._records[name]
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if not stored or info.file_size > self._unread:
            raise ValueError(f"record {name[:80]} is larger than the file")
        self._unread -= info.file_size
        return self._zip.read(info)

    def _find_storage(self, reference: object) -> Storage:
        match reference:
            case ("storage", StorageType(dtype=dtype), str(key), str(), int(count)):
                if key not in self._storages:
                    self._storages[key] = self._read_storage(key, dtype)
                content = self._storages[key]
                if not 0 <= count * dtype.itemsize <= content.nbytes():
                    raise ValueError(f"storage {key[:80]} is shorter than it should be")
                return Storage(content, dtype)
        raise ValueError("a reference to something else than a storage")

    def _read_storage(self, key: str, dtype: torch.dtype) -> torch.UntypedStorage:
        data = self._read(f"{self._root}/data/{key}")
        content = torch.UntypedStorage(len(data))
        if data:
            whole = torch.empty(0, dtype=torch.uint8).set_(content)
            whole.numpy()[:] = memoryview(data)
        if self._order != sys.byteorder.encode():
            if len(data) % dtype.itemsize:
                raise ValueError(f"storage {key[:80]} ends within a number")
            content.byteswap(dtype)
        return content
