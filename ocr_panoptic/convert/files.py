"""Weights in files, of any project: read safely, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ocr_panoptic.engine.safe_load import load_checkpoint_file
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing

__all__ = ["read_weights", "write_checkpoint"]

# What projects call the weights among the rest of a checkpoint.
_WRAPPERS = ("model", "state_dict", "model_state")


def read_weights(path: str | os.PathLike[str], *, trust: bool = False) -> dict[str, Tensor]:
    """Return the names and tensors of a checkpoint, without DataParallel's "module." in front.

    Args:
        path: what ``torch.save`` wrote, or a pickle of Detectron2's model zoo.
        trust: as for :func:`~ocr_panoptic.engine.safe_load.load_checkpoint_file`.

    Raises:
        InputError: it cannot be read, is refused, or holds no weights.
    """
    content = load_checkpoint_file(path, trust=trust).content
    if isinstance(content, dict):
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None
        )
        content = content if inner is None else inner
    if not isinstance(content, dict) or not content:
        found = "nothing" if content == {} else f"a {type(content).__name__}"
        raise _no_weights(path, found)
    weights = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise _no_weights(path, f"weights under {str(name)[:40]}, which is no name")
        if isinstance(value, np.ndarray):
            try:
                value = torch.from_numpy(value)
            except TypeError as error:
                raise _no_weights(path, f"{name[:80]} of {value.dtype}") from error
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise _no_weights(path, f"{name[:80]}, a {type(value).__name__}")
        weights[name] = value.detach()
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights


def write_checkpoint(
    path: Path, content: dict, check: Callable[[Path], None] | None = None
) -> None:
    """Write a checkpoint so that it appears whole, on the disk, or not at all.

    Args:
        path: the file; what was there before is replaced at the end.
        content: what ``torch.save`` takes.
        check: called with the file before it gets its name; if that raises, there is no file.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            _save(temporary, path, content)
            if check is not None:
                check(temporary)
    except OSError as error:
        raise _unwritten(path, error) from error


def _save(temporary: Path, path: Path, content: dict) -> None:
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    # A full disk can be a RuntimeError of torch's writer.
    except RuntimeError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"--output {path} cannot be written ({reason}), expected a folder with room for it"
    )


def _no_weights(path: str | os.PathLike[str], found: str) -> InputError:
    return InputError(
        f"{path} is no checkpoint (it holds {found}), expected names and tensors, alone or in "
        f"{' or '.join(repr(key) for key in _WRAPPERS)}"
    )
