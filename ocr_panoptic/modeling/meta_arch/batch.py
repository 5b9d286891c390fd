"""What a meta-architecture tells the modules inside of the batch that it works on.

Detectron2 hands heads and backbones feature maps only. The meta-architectures of this project
record more of a batch while they run; a module inside asks for it when it needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from detectron2.structures import ImageList
from torch import Tensor

__all__ = ["batch_scope", "image_list", "record_images", "record_labels", "true_labels"]


@dataclass
class _Batch:
    """The batch that a meta-architecture is working on, as far as it is known."""

    images: ImageList | None = None
    labels: Tensor | None = None


# A context variable: threads that run replicas of a model do not see each other's batch.
_batch: ContextVar[_Batch | None] = ContextVar("batch that is worked on", default=None)


@contextmanager
def batch_scope() -> Iterator[None]:
    """Open a scope for one batch; what is recorded inside is forgotten at its end."""
    token = _batch.set(_Batch())
    try:
        yield
    finally:
        _batch.reset(token)


def record_images(images: ImageList) -> None:
    """Make the images, and their sizes, known inside the open scope; outside, do nothing."""
    batch = _batch.get()
    if batch is not None:
        batch.images = images


def record_labels(labels: Tensor) -> None:
    """Make true semantic labels, (N, H, W) int64, known inside the open scope."""
    batch = _batch.get()
    if batch is not None:
        batch.labels = labels


def image_list() -> ImageList | None:
    """Return the images of the batch, None outside of a scope and where none was recorded."""
    batch = _batch.get()
    return None if batch is None else batch.images


def true_labels() -> Tensor | None:
    """Return the true semantic labels of the batch, (N, H, W) int64, None where there are none.

    They have the size of the padded images; padding has the head's ignore value.
    """
    batch = _batch.get()
    return None if batch is None else batch.labels
