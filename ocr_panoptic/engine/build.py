"""Building a model, where Detectron2 or torch refuses what a config asks for."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import ocr_panoptic
from ocr_panoptic.errors import InputError

__all__ = ["built_from_config"]

_logger = logging.getLogger(__name__)
_PACKAGE = Path(ocr_panoptic.__file__).resolve().parent
# What constructors assert or raise of their arguments. A RuntimeError may be the machine's.
_REFUSALS = (AssertionError, KeyError, NotImplementedError, ValueError)


@contextlib.contextmanager
def built_from_config() -> Iterator[None]:
    """Make one line of what Detectron2's and torch's constructors refuse in a body.

    Values are checked before, by their keys; this is for combinations that nobody has thought of.
    What this package itself raises is a bug, and keeps its traceback; the log has the other's too.

    Raises:
        InputError: with the refusal.
    """
    try:
        yield
    except _REFUSALS as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if _PACKAGE in Path(last.filename).resolve().parents:
            raise
        _logger.debug("the model cannot be built", exc_info=error)
        # An assertion often says nothing but itself.
        said = " ".join(str(error).split()) or last.line
        raise InputError(
            f"the config: its model cannot be built ({type(error).__name__} in {last.name} of "
            f"{Path(last.filename).name}: {said}), expected values of MODEL that go together"
        ) from error
